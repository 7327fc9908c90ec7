//! What is trained: all of a model, or an adapter over it.
//!
//! The loop asks here once, before anything else is done with the decoder. From then on an adapter is a few trainable
//! parameters like any others: optimizers, checkpoints and ranks see no others, and the reference pass runs on the decoder
//! with the adapter as it begins.

use std::path::Path;

use selfplay_model::adapter::{AdapterConfig, AdapterStart};
use selfplay_model::{Architecture, Decoder, ModelError};
use selfplay_records::Problem;
use selfplay_records::counter::{fnv1a_64, key};

use crate::settings::{LoraInit, LoraSettings};
use crate::{TrainError, TrainSettings};

/// Readies the decoder's weights: without a `lora` section an adapter that it has is merged and all parameters are
/// trained; with one, the adapter that it has, or that `init` names, or a fresh one, and nothing else.
///
/// # Errors
/// A setting that is at odds with the adapter that training goes on from; modules that the model has not; a folder that is
/// no adapter of this model's.
pub(crate) fn prepare(decoder: &mut Decoder, settings: &TrainSettings, seed: u64) -> Result<(), TrainError> {
    let Some(lora) = &settings.lora else {
        refuse_quantized(decoder)?;
        return Ok(decoder.merge_adapter()?);
    };
    let earlier = if decoder.adapter().is_some() {
        Some("the model's adapter".to_owned())
    } else {
        match lora.init() {
            LoraInit::Folder(folder) => {
                decoder.load_adapter(Path::new(folder))?;
                Some(folder.to_owned())
            }
            LoraInit::Default => fresh(decoder, lora, AdapterStart::Default, seed)?,
            LoraInit::Gaussian => fresh(decoder, lora, AdapterStart::Gaussian, seed)?,
            LoraInit::Pissa => fresh(decoder, lora, AdapterStart::Pissa, seed)?,
        }
    };
    if let Some(earlier) = earlier {
        go_on(decoder, lora, &earlier)?;
    }
    check_dropout(decoder)?;
    decoder.train_adapter();
    Ok(())
}

/// Four bits cannot be trained, only an adapter over them.
fn refuse_quantized(decoder: &Decoder) -> Result<(), TrainError> {
    if !decoder.is_quantized() {
        return Ok(());
    }
    Err(ModelError::value(
        "the model's weights are quantised, so that they cannot be trained",
        "train an adapter over them (train.lora, sft.lora, preference.lora), or take a model that is not quantised",
    )
    .into())
}

/// That a training with these settings can begin on this decoder, which is of no use for anything else afterwards, and may be one that was
/// loaded to be checked.
///
/// # Errors
/// As at the beginning of the training itself.
pub fn check_adapter(decoder: &mut Decoder, settings: &TrainSettings) -> Result<(), TrainError> {
    let mut settings = settings.clone();
    let is_fresh = decoder.adapter().is_none();
    let Some(lora) = settings.lora.as_mut() else {
        // To merge an adapter refuses nothing, and takes all weights.
        return refuse_quantized(decoder);
    };
    if lora.init() == LoraInit::Pissa {
        // Its beginning takes long, and is as good as another's for this.
        lora.init = None;
    }
    if is_fresh && lora.init().folder().is_none() {
        // Magnitudes are of the weights, which need not be there.
        lora.dora = None;
    }
    prepare(decoder, &settings, 0)
}

/// That a fresh adapter of these settings can be put over a model of this shape; nothing is loaded.
///
/// # Errors
/// A target module that the model has not; with pissa a rank above a module's shorter side.
pub fn check_fresh_adapter(settings: &TrainSettings, architecture: &Architecture) -> Result<(), TrainError> {
    let Some(lora) = &settings.lora else { return Ok(()) };
    let start = match lora.init() {
        LoraInit::Folder(_) => return Ok(()),
        LoraInit::Default => AdapterStart::Default,
        LoraInit::Gaussian => AdapterStart::Gaussian,
        LoraInit::Pissa => AdapterStart::Pissa,
    };
    Ok(lora.config().check_start(start, architecture)?)
}

/// The masks' key of a step.
pub(crate) fn step_key(seed: u64, step: usize) -> u64 {
    key(seed, [fnv1a_64(b"dropout"), step as u64])
}

fn fresh(
    decoder: &mut Decoder,
    lora: &LoraSettings,
    start: AdapterStart,
    seed: u64,
) -> Result<Option<String>, TrainError> {
    let base = decoder.source().map_or_else(String::new, |source| source.display().to_string());
    decoder.add_adapter(AdapterConfig { base, ..lora.config() }, start, seed)?;
    Ok(None)
}

/// Takes up an adapter that was trained before, if the settings ask for no other.
fn go_on(decoder: &mut Decoder, lora: &LoraSettings, earlier: &str) -> Result<(), TrainError> {
    let Some(found) = decoder.adapter().map(|adapter| adapter.config().clone()) else { return Ok(()) };
    // What pissa has written has twice the rank, of which one half takes away what the other began as.
    if lora.init() == LoraInit::Pissa && found.rank == 2 * lora.config().rank {
        decoder.split_adapter()?;
    }
    let Some(found) = decoder.adapter().map(|adapter| adapter.config().clone()) else { return Ok(()) };
    let refused = |key: &str, value: String, have: String| {
        let want = format!("{have}, as {earlier} has it; or leave the key out");
        Err(TrainError::Setting(Problem { key: format!("lora.{key}"), value, want }))
    };
    if let Some((key, value, have)) = lora.differing(&found).into_iter().next() {
        return refused(key, value, have);
    }
    if let Some(targets) = &lora.target_modules {
        let asked = AdapterConfig { target_modules: targets.clone(), ..found.clone() };
        if !asked.has_targets_of(&found, decoder.architecture())? {
            return refused(
                "target_modules",
                "other modules".to_owned(),
                format!("{:?}", found.target_modules),
            );
        }
    }
    if let Some(share) = lora.dropout {
        decoder.set_adapter_dropout(share);
    }
    Ok(())
}

/// The output head's masks would need the rows that its logits are for, which a chunk of them does not know.
fn check_dropout(decoder: &Decoder) -> Result<(), TrainError> {
    let Some(adapter) = decoder.adapter() else { return Ok(()) };
    let share = adapter.config().dropout;
    if share > 0.0 && adapter.targets().iter().any(|target| target == "lm_head") {
        return Err(TrainError::Setting(Problem {
            key: "lora.dropout".to_owned(),
            value: share.to_string(),
            want: "0 where lm_head is among the target modules".to_owned(),
        }));
    }
    Ok(())
}
