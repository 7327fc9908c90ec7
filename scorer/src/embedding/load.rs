//! A folder → the model with embeddings that it holds. Head sizes are read from the weights, never from a setting.

use std::path::Path;

use candle_core::Device;
use selfplay_model::adapter::stored_numbers;
use selfplay_model::architecture::TensorSpec;
use selfplay_model::weights::WeightFiles;
use selfplay_model::{Architecture, Codec, ModelError, PreferenceHeads};

use super::backbone::footprint_of;
use super::embedder::{Embedder, Reading};
use super::embedding_model::EmbeddingModel;
use super::hrc::CyclicSchedule;
use super::kind::EmbeddingKind;
use super::stored_head::stored_heads;
use super::{Advantages, Embedded, EmbeddingSettings};
use crate::{Footprint, ModelFolders, PreferenceModel, ScoreError};

/// Loads a model (Hugging Face layout with `value_head.weight` \[d, hidden] and, optionally, `prompt_head.weight`
/// \[d/2, hidden], or an adapter that has them); `asked` is the kind that the recipe names, if it names one.
///
/// # Errors
/// As [`crate::load`].
pub(crate) fn load(
    folders: ModelFolders<'_>,
    asked: Option<EmbeddingKind>,
    settings: &EmbeddingSettings,
    factor: f64,
    device: &Device,
    template: Option<&Path>,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    // The headers first, before gigabytes of weights are read in vain.
    let (base, folder) = (folders.base, folders.named());
    let architecture = Architecture::load(base)?;
    let heads = stored_heads(folders, &architecture)?;
    let Some(value_head) = &heads.value_head else {
        return Err(ScoreError::NotPreferenceModel { folder: folder.to_path_buf() });
    };
    let form = settings.tokenization.of_head(&value_head.name);
    let value_rows = rows_of(Some(value_head)).unwrap_or(0);
    let head = resolve(folder, asked, value_rows)?;
    if head != EmbeddingKind::Gpm && settings.advantages == Advantages::PerAxis {
        return Err(ScoreError::NoAxes { folder: folder.to_path_buf() });
    }
    if head.has_gate() {
        check_prompt_head(folder, value_rows, rows_of(heads.prompt_head.as_ref()))?;
    }
    let options = settings.reading.load_options(device, true);
    let decoder = folders.decoder(&options)?;
    let Some(mut heads) = PreferenceHeads::of(&decoder) else {
        return Err(ScoreError::NotPreferenceModel { folder: folder.to_path_buf() });
    };
    // A prompt head weighs blocks: a Bradley-Terry model has none.
    heads.prompt = heads.prompt.filter(|_| head.has_gate());
    let codec = Codec::load(base, template.or(settings.reading.chat_template.as_deref()))?;
    let reading = Reading {
        form,
        max_length: settings.reading.max_length,
        batch_tokens: settings.reading.batch_tokens,
    };
    let embedder = Embedder::new(decoder, codec, heads, folder, reading)?;
    let tau = settings.tau.unwrap_or(head.default_tau());
    let (keeps_embeddings, advantages) = (settings.embeddings, settings.advantages);
    let schedule = CyclicSchedule::of(settings.dsppo_lambda, settings.iteration);
    let model = EmbeddingModel { kind: head, embedder, tau, schedule };
    Ok(Box::new(Embedded { model, factor, keeps_embeddings, advantages }))
}

/// The footprint of a model, from its config.json and the headers of its weights; without weights, as of a
/// hub's model of which only config.json was fetched, the heads are not counted.
///
/// # Errors
/// No configuration of a decoder.
pub(crate) fn footprint(folders: ModelFolders<'_>) -> Result<Footprint, ScoreError> {
    let architecture = Architecture::load(folders.base)?;
    let stored = WeightFiles::open(folders.base).and_then(|files| loaded_parameters(&files, &architecture));
    let adapter = folders.adapter.and_then(|adapter| stored_numbers(adapter).ok()).unwrap_or(0);
    let parameters = stored.unwrap_or(architecture.parameter_count()) + adapter;
    Ok(footprint_of(&architecture, parameters))
}

/// The numbers of the tensors that [`load`] reads: the backbone's that are there (a language model's output head may be
/// absent) and the preference heads.
fn loaded_parameters(files: &WeightFiles, architecture: &Architecture) -> Result<usize, ModelError> {
    let heads = files.heads(architecture)?;
    let backbone = architecture.tensors().into_iter().filter(|spec| files.contains(&spec.name));
    let specs = backbone.chain(heads.value_head).chain(heads.prompt_head);
    Ok(specs.map(|spec| spec.shape.iter().product::<usize>()).sum())
}

fn rows_of(head: Option<&TensorSpec>) -> Option<usize> {
    head.map(|spec| spec.shape.first().copied().unwrap_or(0))
}

/// The kind of a value head of `rows` rows, compared with the kind that the recipe names.
fn resolve(folder: &Path, asked: Option<EmbeddingKind>, rows: usize) -> Result<EmbeddingKind, ScoreError> {
    let folder = folder.to_path_buf();
    let found = match rows {
        // No folder says by itself that it is one.
        n if n > 2 && n % 2 == 1 && asked == Some(EmbeddingKind::Hrc) => EmbeddingKind::Hrc,
        1 => EmbeddingKind::BradleyTerry,
        n if n > 0 && n % 2 == 0 => EmbeddingKind::Gpm,
        _ => return Err(ScoreError::OddHead { folder, rows }),
    };
    match asked {
        Some(asked) if asked != found => {
            Err(ScoreError::HeadOfOtherKind { folder, kind: asked.name(), rows })
        }
        _ => Ok(found),
    }
}

fn check_prompt_head(folder: &Path, value_rows: usize, rows: Option<usize>) -> Result<(), ScoreError> {
    let want = value_rows / 2;
    match rows {
        Some(rows) if rows != want => {
            Err(ScoreError::PromptHead { folder: folder.to_path_buf(), rows, want })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    #[test]
    fn the_head_s_rows_say_what_it_is() {
        let auto = |rows| resolve(Path::new("pm"), None, rows);
        assert_eq!(auto(1).unwrap(), EmbeddingKind::BradleyTerry);
        assert_eq!(auto(2).unwrap(), EmbeddingKind::Gpm);
        assert_eq!(auto(8).unwrap(), EmbeddingKind::Gpm);
        for rows in [0, 3, 7] {
            let error = auto(rows).unwrap_err();
            assert!(error.kind() == Kind::Input && error.to_string().contains("odd head"), "{error}");
        }
        assert_eq!((EmbeddingKind::Gpm.default_tau(), EmbeddingKind::BradleyTerry.default_tau()), (0.1, 1.0));
    }

    #[test]
    fn a_kind_that_the_weights_are_not_is_refused() {
        let asked = |head, rows| resolve(Path::new("pm"), Some(head), rows);
        assert!(asked(EmbeddingKind::Gpm, 6).is_ok());
        assert!(asked(EmbeddingKind::BradleyTerry, 1).is_ok());
        let error = asked(EmbeddingKind::Gpm, 1).unwrap_err().to_string();
        assert!(error.contains("gpm") && error.contains("1 row"), "{error}");
        assert!(asked(EmbeddingKind::BradleyTerry, 6).is_err());
        assert_eq!(asked(EmbeddingKind::Hrc, 7).unwrap(), EmbeddingKind::Hrc);
        for rows in [1, 6] {
            assert!(asked(EmbeddingKind::Hrc, rows).unwrap_err().to_string().contains("hrc"), "{rows}");
        }
    }
}
