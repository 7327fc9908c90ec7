//! The log-probs of a given text at one server: which weights it has shows in them. They are of the model's own distribution, whatever the
//! server draws with.

use serde_json::{Value, json};

use crate::client::Client;
use crate::request::JsonRequest;
use crate::{ClientError, read};

/// Which of a server's calls scores a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeCall {
    /// SGLang's `generate`.
    Generate,
    /// vLLM's `completions`, of the model of this name.
    Completions(String),
}

/// What a server says about a text.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeAnswer {
    /// log π(token t | tokens before t) for all tokens but the first.
    pub logprobs: Vec<f64>,
    /// The version of its weights, where it says.
    pub weight_version: Option<String>,
}

impl Client {
    /// Scores `ids` at the endpoint at a place.
    ///
    /// # Errors
    /// As [`Client::ask_at`].
    pub fn probe_at(&self, place: usize, call: &ProbeCall, ids: &[u32]) -> Result<ProbeAnswer, ClientError> {
        let request = match call {
            ProbeCall::Generate => {
                let sampling = json!({"max_new_tokens": 0, "temperature": 0.0});
                let body = json!({
                    "input_ids": ids, "sampling_params": sampling, "return_logprob": true, "logprob_start_len": 0,
                });
                JsonRequest { path: "generate".to_owned(), body, number: 0 }
            }
            ProbeCall::Completions(model) => {
                let body = json!({
                    "model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0,
                });
                JsonRequest { path: "completions".to_owned(), body, number: 0 }
            }
        };
        let (call, ids) = (call.clone(), ids.to_vec());
        self.ask_at(place, request, move |_, answer| match call {
            ProbeCall::Generate => of_generate(answer, &ids),
            ProbeCall::Completions(_) => of_completions(answer, &ids),
        })
    }
}

fn of_generate(answer: &Value, ids: &[u32]) -> Result<ProbeAnswer, String> {
    let about = &answer["meta_info"];
    let tokens = about["input_token_logprobs"].as_array().filter(|tokens| tokens.len() == ids.len());
    let token = |(token, id): (&Value, &u32)| (token[1] == *id).then(|| token[0].as_f64())?;
    let logprobs = tokens.and_then(|tokens| tokens.iter().zip(ids).skip(1).map(token).collect());
    Ok(ProbeAnswer {
        logprobs: logprobs.ok_or_else(|| {
            read::unexpected("meta_info.input_token_logprobs", "a log-prob for each id but the first", answer)
        })?,
        weight_version: about["weight_version"].as_str().map(str::to_owned),
    })
}

fn of_completions(answer: &Value, ids: &[u32]) -> Result<ProbeAnswer, String> {
    let tokens =
        read::choice(answer)?["prompt_logprobs"].as_array().filter(|tokens| tokens.len() == ids.len());
    let token = |(token, id): (&Value, &u32)| token[id.to_string()]["logprob"].as_f64();
    let logprobs = tokens.and_then(|tokens| tokens.iter().zip(ids).skip(1).map(token).collect());
    Ok(ProbeAnswer {
        logprobs: logprobs.ok_or_else(|| {
            read::unexpected("choices[0].prompt_logprobs", "a log-prob for each id but the first", answer)
        })?,
        weight_version: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_calls_score_a_text_and_one_of_other_ids_is_refused() {
        let generate = json!({"meta_info": {
            "weight_version": "v1", "input_token_logprobs": [[null, 7, null], [-0.5, 8, null], [-2.0, 9, null]],
        }});
        let read = of_generate(&generate, &[7, 8, 9]).unwrap();
        assert_eq!((read.logprobs, read.weight_version.as_deref()), (vec![-0.5, -2.0], Some("v1")));
        assert!(of_generate(&generate, &[7, 8]).is_err());
        assert!(of_generate(&generate, &[7, 8, 1]).is_err());
        let completions = json!({"choices": [{"text": "x", "prompt_logprobs": [
            null, {"8": {"logprob": -0.5, "rank": 2}, "3": {"logprob": -0.1}}, {"9": {"logprob": -2.0}},
        ]}]});
        assert_eq!(of_completions(&completions, &[7, 8, 9]).unwrap().logprobs, [-0.5, -2.0]);
        assert!(of_completions(&completions, &[7, 8, 1]).is_err());
        assert!(of_completions(&json!({"choices": [{"text": "x"}]}), &[7]).is_err());
    }
}
