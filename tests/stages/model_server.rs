//! A tiny model behind SGLang's or vLLM's interface, with something wrong with it: what a fleet is tested against.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use selfplay_model::{Decoder, LoadOptions};
use selfplay_testing::{StubReply, StubRequest, StubServer};
use selfplay_trainer::{PromptResponse, log_probs};
use serde_json::{Value, json};

/// What vLLM's stub calls the model that it was started with.
const BASE: &str = "tiny";

/// Whose interface.
#[derive(Clone, Copy, PartialEq)]
pub enum Protocol {
    Sglang,
    Vllm,
}

/// What is wrong with a server.
#[derive(Clone, PartialEq)]
pub enum Fault {
    None,
    /// No connection outlives so many answers.
    DiesAfter(usize),
    /// Each answer takes this long.
    Slow(Duration),
    /// It says so many times that it has loaded what it was brought, and has not.
    Lags(usize),
    /// After so many answers it is started anew, with the weights that it began with.
    Forgets(usize),
    /// Weights come as a file that a command writes the policy's folder into; the server is then away for so many requests.
    RestartsBy(PathBuf, usize),
}

/// A response that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub prompt: Vec<u32>,
    pub response: Vec<u32>,
    /// Which weights drew it: a folder.
    pub weights: PathBuf,
}

pub struct ModelServer {
    protocol: Protocol,
    faults: Vec<Fault>,
    /// In its responses, so that those of two servers differ.
    number: u32,
    begun_with: PathBuf,
    loaded: Mutex<LoadedWeights>,
    /// The adapter's name, and what it was loaded from.
    adapter: Mutex<Option<(String, LoadedWeights)>>,
    drawn: Mutex<Vec<Drawn>>,
    /// Folders that it was brought.
    brought: Mutex<Vec<String>>,
    answers: AtomicUsize,
    /// Requests for which it is away.
    away: AtomicUsize,
}

pub struct LoadedWeights {
    decoder: Decoder,
    version: String,
    folder: PathBuf,
}

impl LoadedWeights {
    pub fn of(folder: &Path, version: &str) -> Self {
        let decoder = Decoder::load(folder, &LoadOptions::default()).unwrap();
        Self { decoder, version: version.to_owned(), folder: folder.to_path_buf() }
    }

    fn with_adapter(base: &Path, adapter: &Path) -> Self {
        let mut weights = Self::of(base, "");
        weights.decoder.load_adapter(adapter).unwrap();
        Self { folder: adapter.to_path_buf(), ..weights }
    }

    pub fn log_probs(&self, prompt: &[u32], response: &[u32]) -> Vec<f32> {
        let row = PromptResponse { name: "x".into(), prompt: prompt.to_vec(), response: response.to_vec() };
        log_probs(&self.decoder, &[row], 256).unwrap().remove(0).tokens
    }
}

impl ModelServer {
    pub fn start(
        protocol: Protocol,
        number: u32,
        folder: &Path,
        faults: &[Fault],
    ) -> (StubServer, Arc<Self>) {
        let server = Arc::new(Self {
            protocol,
            faults: faults.to_vec(),
            number,
            begun_with: folder.to_path_buf(),
            loaded: Mutex::new(LoadedWeights::of(folder, "default")),
            adapter: Mutex::default(),
            drawn: Mutex::default(),
            brought: Mutex::default(),
            answers: AtomicUsize::new(0),
            away: AtomicUsize::new(0),
        });
        let of_stub = Arc::clone(&server);
        (StubServer::start(move |request| of_stub.reply(request)), server)
    }

    /// Responses that it has drawn.
    pub fn drawn(&self) -> Vec<Drawn> {
        self.drawn.lock().unwrap().clone()
    }

    /// Folders that it was brought.
    pub fn brought(&self) -> Vec<String> {
        self.brought.lock().unwrap().clone()
    }

    fn reply(&self, request: &StubRequest) -> StubReply {
        if let Some(away) = self.restarted() {
            return away;
        }
        let body = &request.body;
        let path = request.path.as_str();
        match (self.protocol, path) {
            (Protocol::Sglang, "/update_weights_from_disk") => {
                let folder = body["model_path"].as_str().unwrap();
                if self.loads(folder) {
                    let version = body["weight_version"].as_str().unwrap();
                    *self.loaded.lock().unwrap() = LoadedWeights::of(Path::new(folder), version);
                }
                StubReply::json(&json!({"success": true, "message": "Succeeded to update model weights."}))
            }
            (Protocol::Sglang, "/generate") => {
                let ids = ids_of(&body["input_ids"]);
                let count = body["sampling_params"]["max_new_tokens"].as_u64().unwrap() as usize;
                self.sglang(&ids, count)
            }
            (Protocol::Vllm, "/v1/models") => {
                if self.is_dead(0) {
                    return dead();
                }
                let adapter = self.adapter.lock().unwrap();
                let names = adapter.iter().map(|(name, _)| name.as_str());
                let models: Vec<Value> =
                    std::iter::once(BASE).chain(names).map(|id| json!({"id": id})).collect();
                StubReply::json(&json!({"data": models}))
            }
            (Protocol::Vllm, "/v1/unload_lora_adapter") => {
                let mut adapter = self.adapter.lock().unwrap();
                match adapter.take_if(|(name, _)| body["lora_name"] == name.as_str()) {
                    Some(_) => StubReply::text(200, "Success: LoRA adapter removed."),
                    None => StubReply::text(404, r#"{"error": {"message": "no such adapter"}}"#),
                }
            }
            (Protocol::Vllm, "/v1/load_lora_adapter") => {
                let name = body["lora_name"].as_str().unwrap().to_owned();
                let folder = body["lora_path"].as_str().unwrap();
                // One that lags has the name and still the weights of the base.
                let weights = match self.loads(folder) {
                    true => LoadedWeights::with_adapter(&self.begun_with, Path::new(folder)),
                    false => LoadedWeights::of(&self.begun_with, ""),
                };
                *self.adapter.lock().unwrap() = Some((name, weights));
                StubReply::text(200, "Success: LoRA adapter added.")
            }
            (Protocol::Vllm, "/v1/completions") => {
                let ids = ids_of(&body["prompt"]);
                let count = body["max_tokens"].as_u64().unwrap() as usize;
                let is_probe = body.get("prompt_logprobs").is_some();
                self.vllm(&ids, count, body["model"].as_str().unwrap(), is_probe)
            }
            _ => panic!("{} {path}", request.method),
        }
    }

    /// Whether it loads what it was brought now.
    fn loads(&self, folder: &str) -> bool {
        let mut brought = self.brought.lock().unwrap();
        brought.push(folder.to_owned());
        let lags = self.faults.iter().find_map(|fault| match fault {
            Fault::Lags(times) => Some(*times),
            _ => None,
        });
        lags.is_none_or(|times| brought.len() > times)
    }

    /// The answer of one that is being started anew.
    fn restarted(&self) -> Option<StubReply> {
        let (file, away) = self.faults.iter().find_map(|fault| match fault {
            Fault::RestartsBy(file, away) => Some((file, *away)),
            _ => None,
        })?;
        if let Ok(folder) = std::fs::read_to_string(file) {
            std::fs::remove_file(file).unwrap();
            self.brought.lock().unwrap().push(folder.clone());
            *self.loaded.lock().unwrap() = LoadedWeights::of(Path::new(&folder), "");
            self.away.store(away, Ordering::SeqCst);
        }
        let left = self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.is_ok().then(|| StubReply::text(503, "loading"))
    }

    fn is_dead(&self, more: usize) -> bool {
        let answers = self.answers.load(Ordering::SeqCst) + more;
        self.faults.iter().any(|fault| matches!(fault, Fault::DiesAfter(most) if answers > *most))
    }

    /// Counts an answer; `None` where it is dead by now.
    fn count(&self) -> Option<usize> {
        let answered = self.answers.fetch_add(1, Ordering::SeqCst) + 1;
        if self.faults.contains(&Fault::Forgets(answered)) {
            *self.loaded.lock().unwrap() = LoadedWeights::of(&self.begun_with, "default");
        }
        (!self.is_dead(0)).then_some(answered)
    }

    /// Any words do, whether they are likely shows in their log-probs alone; those of no two answers are the same.
    fn response(&self, answered: usize, count: usize) -> Vec<u32> {
        let word = |place: usize| match place {
            0 => answered % 16,
            1 => answered / 16 % 16,
            2 => self.number as usize,
            _ => (answered + 3 * place) % 16,
        };
        (0..count).map(|place| 8 + word(place) as u32).collect()
    }

    fn late(&self, reply: StubReply) -> StubReply {
        self.faults.iter().fold(reply, |reply, fault| match fault {
            Fault::Slow(time) => reply.after(*time),
            _ => reply,
        })
    }

    fn note(&self, prompt: &[u32], response: &[u32], weights: &LoadedWeights) {
        let weights = weights.folder.clone();
        self.drawn.lock().unwrap().push(Drawn {
            prompt: prompt.to_vec(),
            response: response.to_vec(),
            weights,
        });
    }

    fn sglang(&self, ids: &[u32], count: usize) -> StubReply {
        let answered = if count == 0 { (!self.is_dead(0)).then_some(0) } else { self.count() };
        let Some(answered) = answered else { return dead() };
        let loaded = self.loaded.lock().unwrap();
        let mut about = json!({"weight_version": loaded.version});
        let pairs = |ids: &[u32], values: &[f32]| -> Vec<Value> {
            ids.iter().zip(values).map(|(id, value)| json!([value, id, null])).collect()
        };
        if count == 0 {
            let mut tokens = vec![json!([null, ids[0], null])];
            tokens.extend(pairs(&ids[1..], &loaded.log_probs(&ids[..1], &ids[1..])));
            about["input_token_logprobs"] = tokens.into();
            return StubReply::json(&json!({"text": "", "output_ids": [], "meta_info": about}));
        }
        let response = self.response(answered, count);
        about["output_token_logprobs"] = pairs(&response, &loaded.log_probs(ids, &response)).into();
        about["finish_reason"] = json!({"type": "length", "length": count});
        self.note(ids, &response, &loaded);
        self.late(StubReply::json(&json!({"text": "?", "output_ids": response, "meta_info": about})))
    }

    fn vllm(&self, ids: &[u32], count: usize, model: &str, is_probe: bool) -> StubReply {
        let answered = if is_probe { (!self.is_dead(0)).then_some(0) } else { self.count() };
        let Some(answered) = answered else { return dead() };
        let (loaded, adapter) = (self.loaded.lock().unwrap(), self.adapter.lock().unwrap());
        let weights = match &*adapter {
            _ if model == BASE => &*loaded,
            Some((name, weights)) if name == model => weights,
            _ => return StubReply::text(404, r#"{"error": {"message": "The model does not exist."}}"#),
        };
        if is_probe {
            let scored = weights.log_probs(&ids[..1], &ids[1..]);
            let tokens =
                ids[1..].iter().zip(&scored).map(|(id, value)| json!({id.to_string(): {"logprob": value}}));
            let tokens: Vec<Value> = std::iter::once(Value::Null).chain(tokens).collect();
            return StubReply::json(&json!({"choices": [{"text": "?", "prompt_logprobs": tokens}]}));
        }
        let response = self.response(answered, count);
        let scored = weights.log_probs(ids, &response);
        self.note(ids, &response, weights);
        self.late(StubReply::json(&json!({"choices": [{
            "text": "?", "token_ids": response, "finish_reason": "length",
            "logprobs": {"token_logprobs": scored},
        }]})))
    }
}

fn dead() -> StubReply {
    StubReply::text(200, "x").cut(0)
}

fn ids_of(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}
