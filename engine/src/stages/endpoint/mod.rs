//! Prompts → candidates through servers or a companion: `sample.backend = "vllm"`, `"sglang"`, `"mistralrs"` or `"openai"`.
//!
//! What they can't give is computed by ours or refused, never assumed:
//!
//! | | vllm, sglang, mistralrs | openai |
//! |---|---|---|
//! | prompt | our token ids | the conversation; the server's own template |
//! | response's ids | theirs; each response must end as ours would | our tokenizer's, of the text, with the end token |
//! | log-probs | our weights' | our weights' |
//! | that they have these weights | their log-probs against ours, of a probe before each shard where weights are brought (and after it, where answers name no version), and of the responses | refused from the second iteration on |
//! | randomness | a seed for each response (not sglang); no server promises the same answer for it | the same |
//!
//! Every answer is kept in `transcript.jsonl` beside the shards, so that what makes candidates repeatable is this file. How far the servers'
//! log-probs were from ours is in `servers.json` beside it.
//!
//! ```text
//! drawer   requests, and their answers as responses        servers      which endpoints have the right weights
//! look     one endpoint's weights, asked of it             delivery     bringing weights to a server
//! probe    a text whose log-probs tell weights apart       report       servers.json
//! ```

mod delivery;
mod drawer;
mod look;
mod probe;
mod report;
mod servers;

use std::path::PathBuf;

use selfplay_client::{Client, Transcript};
use selfplay_model::Decoder;
use selfplay_records::{Candidates, Prompt, Response};
use selfplay_sampler::{BackendKind, SampleSettings, StopRule};
use selfplay_trainer::{PromptResponse, log_probs};

use self::drawer::{Drawer, DrawnResponse};
use self::report::ServersReport;
use self::servers::Servers;
use super::finished_shards::FinishedShards;
use super::workspace::{Product, Workspace};
use crate::error::EngineError;
use crate::inputs::policy::PolicySource;
use crate::recipe::{ModelSource, Stage, sample_client};

/// How often a shard is begun in which a server turns out to have other weights in the end.
const ROUNDS: usize = 4;

/// Samples shards of prompts.
///
/// # Errors
/// Servers that refuse, serve another model or answer with what this policy cannot have written; a shard that cannot be written; a
/// stop by a signal.
pub(super) fn sample(
    place: &dyn Workspace,
    policy: &Decoder,
    source: &PolicySource,
    settings: &SampleSettings,
    shards: &[&[Prompt]],
    finished: &mut FinishedShards<'_>,
) -> Result<(), EngineError> {
    let beside = |name: &str| place.path(Product::SamplingFile).with_file_name(name);
    let model = whole_model(place, source, settings)?;
    let transcript = Transcript::open(&beside("transcript.jsonl"))?;
    let client = Client::new(&sample_client(settings, &model.unwrap_or_default()), Some(transcript))?;
    let stop =
        StopRule::new(&source.codec, &source.stop_ids, &settings.stop, policy.architecture().vocab_size)?;
    let total = shards.iter().map(|shard| shard.len()).sum();
    let task = place.task(Stage::Candidates, "prompts", total);
    let mut servers = Servers::new(place, policy, source, settings, client.endpoints());
    let mut report = ServersReport::open(beside("servers.json"))?;
    let mut drawer = Drawer { place, policy, source, settings, client, stop, task, before: 0 };
    for (index, prompts) in shards.iter().enumerate() {
        let ids = prompts.iter().map(|prompt| source.codec.prompt_ids(prompt));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let drawn = draw_shard(&mut servers, &drawer, prompts, &ids)?;
        let mut compare = |drawn: &[DrawnResponse], computed: &[Vec<f32>]| {
            report.compare(settings, finished.number(index), drawn, computed)
        };
        let rows = rows_of(place, policy, settings, (prompts, ids), drawn, &mut compare)?;
        drawer.before += prompts.len();
        report.write(servers.states())?;
        if finished.put(index, rows)?.is_break() {
            return Ok(());
        }
    }
    let usage = drawer.client.usage();
    tracing::debug!(usage.asked, usage.replayed, usage.retried, "asked servers");
    drawer.task.finish(&(finished.summary(total, settings.num_samples) + &report.summary()));
    Ok(())
}

/// A shard's responses, each by a server that had the policy's weights before and, where its answers do not say so, after.
fn draw_shard(
    servers: &mut Servers<'_>,
    drawer: &Drawer<'_>,
    prompts: &[Prompt],
    ids: &[Vec<u32>],
) -> Result<Vec<DrawnResponse>, EngineError> {
    for _ in 0..ROUNDS {
        let ready = servers.prepare(&drawer.client, ids)?;
        let drawn = drawer.draw(prompts, ids, &ready)?;
        if servers.confirm(&drawer.client, ids, &ready)? == 0 {
            return Ok(drawn);
        }
    }
    Err(EngineError::failure(format!(
        "sample.endpoints: a server has lost the policy's weights in each of {ROUNDS} rounds of a shard; servers.json says which"
    )))
}

/// The folder or file of the policy as a whole model, which a companion runs; `None` for servers.
fn whole_model(
    place: &dyn Workspace,
    source: &PolicySource,
    settings: &SampleSettings,
) -> Result<Option<PathBuf>, EngineError> {
    if settings.backend != BackendKind::Mistralrs {
        return Ok(None);
    }
    let trained = place.policy_to_serve();
    let is_random = matches!(place.recipe().policy.model, ModelSource::Random(_));
    match trained {
        Some(folder) if folder.is_dir() => Ok(Some(folder)),
        None if source.adapter.is_none() && !is_random => Ok(Some(source.folder.clone())),
        _ => Err(EngineError::input(
            "sample.backend = \"mistralrs\": it runs a whole model from its files, and this policy is an adapter over another, or random; \
             merge it (selfplay merge, train.lora.merge = \"always\"), or sample with native",
        )),
    }
}

/// Holds what servers drew, and said of it, against our own log-probs.
type Compare<'a> = dyn FnMut(&[DrawnResponse], &[Vec<f32>]) -> Result<(), EngineError> + 'a;

/// The shard's candidates, with log-probs of ours in the place of the servers', which must not be far from them.
fn rows_of(
    place: &dyn Workspace,
    policy: &Decoder,
    settings: &SampleSettings,
    (prompts, ids): (&[Prompt], Vec<Vec<u32>>),
    drawn: Vec<DrawnResponse>,
    compare: &mut Compare<'_>,
) -> Result<Vec<Candidates>, EngineError> {
    let num_samples = settings.num_samples;
    let rows: Vec<PromptResponse> = drawn
        .iter()
        .enumerate()
        .map(|(place, one)| PromptResponse {
            name: format!("prompt_id {:?}", prompts[place / num_samples].prompt_id),
            prompt: ids[place / num_samples].clone(),
            response: one.ids.clone(),
        })
        .collect();
    let computed = log_probs(policy, &rows, place.recipe().train.micro_batch_tokens.or_standard())?;
    let computed: Vec<Vec<f32>> = computed.into_iter().map(|row| row.tokens).collect();
    compare(&drawn, &computed)?;
    let mut responses = drawn.into_iter().zip(computed).map(|(one, log_probs)| Response {
        text: one.text,
        ids: Some(one.ids),
        logprobs: Some(log_probs),
        sampler_logprobs: None,
        finish_reason: Some(one.finish_reason),
    });
    let row = |(prompt, ids): (&Prompt, Vec<u32>)| Candidates {
        prompt: Prompt { prompt_ids: Some(ids), ..prompt.clone() },
        responses: responses.by_ref().take(num_samples).collect(),
    };
    Ok(prompts.iter().zip(ids).map(row).collect())
}
