//! SGLang's own call, `POST generate`: token ids in, token ids out, with the version of the weights that drew them.
//!
//! Its addresses have no `/v1`. The log-probs of what it draws are of the distribution divided by the temperature (the server's default), so
//! that they are the model's own at temperature 1 alone.

use serde_json::{Map, Value, json};

use crate::client::{Answers, AskProgress, Client};
use crate::request::JsonRequest;
use crate::{ClientError, GenerationOptions, read};

/// Token ids to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// What is to be continued.
    pub ids: Vec<u32>,
    /// How; the model's name, the seed and what is in `extra` are not sent.
    pub options: GenerationOptions,
    /// Ids that end a continuation.
    pub stop_token_ids: Vec<u32>,
    /// Versions of the weights that may answer; `None`: any.
    pub weight_versions: Option<Vec<String>>,
    /// Tells equal requests apart: see [`JsonRequest::number`].
    pub number: u64,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateAnswer {
    /// Its token ids, the one that ended it among them.
    pub ids: Vec<u32>,
    /// The log-prob of each of its tokens at the request's temperature, before any token is left out.
    pub logprobs: Vec<f64>,
    /// `stop`, `length`, or what the server has besides.
    pub finish_reason: Option<String>,
    /// What ended it, where the server says: the stop text, or the stop id as a number.
    pub matched: Option<Value>,
    /// Which weights drew it, where the server says.
    pub weight_version: Option<String>,
}

impl GenerateRequest {
    fn json(&self) -> JsonRequest {
        let mut sampling = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                sampling.insert(name.to_owned(), value);
            }
        };
        let options = &self.options;
        put("temperature", options.temperature.map(Value::from));
        put("top_p", options.top_p.map(Value::from));
        put("top_k", options.top_k.map(Value::from));
        put("min_p", options.min_p.map(Value::from));
        put("max_new_tokens", options.max_tokens.map(Value::from));
        put("stop", (!options.stop.is_empty()).then(|| options.stop.clone().into()));
        put("stop_token_ids", (!self.stop_token_ids.is_empty()).then(|| self.stop_token_ids.clone().into()));
        let body = json!({"input_ids": self.ids, "sampling_params": sampling, "return_logprob": true});
        JsonRequest { path: "generate".to_owned(), body, number: self.number }
    }
}

impl Client {
    /// Continuations, in the requests' order: as [`Client::ask`]. An answer of other weights than the request allows counts as a
    /// temporary failure.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn generate(
        &self,
        requests: &[GenerateRequest],
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<GenerateAnswer>, ClientError> {
        let versions: Vec<_> = requests.iter().map(|request| request.weight_versions.clone()).collect();
        let read = move |place: usize, answer: &Value| {
            let answer = generate_answer(answer)?;
            match (&versions[place], &answer.weight_version) {
                (Some(wanted), Some(found)) if !wanted.contains(found) => {
                    Err(format!("answers with the weights {found:?}, and {} are wanted", wanted.join(", ")))
                }
                _ => Ok(answer),
            }
        };
        self.ask(requests.iter().map(GenerateRequest::json).collect(), read, progress)
    }
}

fn generate_answer(answer: &Value) -> Result<GenerateAnswer, String> {
    let about = &answer["meta_info"];
    let unexpected = |field: &str, wanted: &str| read::unexpected(field, wanted, answer);
    let tokens = about["output_token_logprobs"].as_array();
    let tokens = tokens.ok_or_else(|| unexpected("meta_info.output_token_logprobs", "a list"))?;
    let token = |token: &Value| Some((u32::try_from(token[1].as_u64()?).ok()?, token[0].as_f64()?));
    let tokens: Option<Vec<(u32, f64)>> = tokens.iter().map(token).collect();
    let tokens = tokens.ok_or_else(|| unexpected("meta_info.output_token_logprobs", "log-probs with ids"))?;
    let (ids, logprobs): (Vec<u32>, Vec<f64>) = tokens.into_iter().unzip();
    if read::ids(&answer["output_ids"]).is_some_and(|other| other != ids) {
        return Err(unexpected("output_ids", "what its log-probs are of"));
    }
    let reason = &about["finish_reason"];
    Ok(GenerateAnswer {
        ids,
        logprobs,
        finish_reason: reason["type"].as_str().map(str::to_owned),
        matched: Some(reason["matched"].clone()).filter(|matched| !matched.is_null()),
        weight_version: about["weight_version"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_out_and_come_back_with_the_weights_version() {
        let options = GenerationOptions {
            model: "m".into(),
            temperature: Some(0.5),
            max_tokens: Some(4),
            stop: vec!["\n".into()],
            seed: Some(3),
            ..Default::default()
        };
        let request = GenerateRequest {
            ids: vec![1, 2],
            options,
            stop_token_ids: vec![9],
            weight_versions: None,
            number: 0,
        };
        let wanted = json!({
            "input_ids": [1, 2], "return_logprob": true,
            "sampling_params": {"temperature": 0.5, "max_new_tokens": 4, "stop": ["\n"], "stop_token_ids": [9]},
        });
        assert_eq!(request.json().body, wanted);
        let answer = json!({"text": " so", "output_ids": [5, 9], "meta_info": {
            "finish_reason": {"type": "stop", "matched": 9}, "weight_version": "v2",
            "output_token_logprobs": [[-1.5, 5, null], [-0.25, 9, "</s>"]],
        }});
        let read = generate_answer(&answer).unwrap();
        assert_eq!((read.ids, read.logprobs), (vec![5, 9], vec![-1.5, -0.25]));
        assert_eq!((read.finish_reason.as_deref(), read.matched), (Some("stop"), Some(json!(9))));
        assert_eq!(read.weight_version.as_deref(), Some("v2"));
        for wrong in [
            json!({"text": "x", "meta_info": {}}),
            json!({"meta_info": {"output_token_logprobs": [[null, 5, null]]}}),
            json!({"output_ids": [6], "meta_info": {"output_token_logprobs": [[-1.5, 5, null]]}}),
        ] {
            assert!(generate_answer(&wrong).unwrap_err().contains("is not"), "{wrong}");
        }
    }
}
