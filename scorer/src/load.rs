//! A folder → the preference model that it holds. Head sizes are read from the weights, never from a setting.

use std::path::Path;

use candle_core::Device;
use selfplay_model::architecture::TensorSpec;
use selfplay_model::weights::WeightFiles;
use selfplay_model::{Architecture, Codec, Decoder, LoadOptions, PreferenceHeads};

use crate::embedder::{Embedder, Limits};
use crate::{BradleyTerry, Gpm, PreferenceKind, PreferenceModel, ScoreError, ScoreSettings};

/// Loads the preference model in `folder` (Hugging Face layout with `value_head.weight` \[d, hidden] and, optionally,
/// `prompt_head.weight` \[d/2, hidden]). `template` is a chat template's file that goes before
/// [`ScoreSettings::chat_template`] and the folder's own.
///
/// # Errors
/// Wrong settings; a kind that is not available yet; a folder that cannot be loaded; a policy (no value head); an odd
/// head; a head of another kind than the recipe names; a prompt head that does not fit; no chat template; no eos_token.
pub fn load(
    folder: &Path,
    settings: &ScoreSettings,
    device: &Device,
    template: Option<&Path>,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    if !settings.kind.is_available() {
        return Err(ScoreError::NotAvailable { kind: settings.kind });
    }
    settings.validate().within("score").into_result(ScoreError::Settings)?;
    // What the folder's headers say, before gigabytes of weights are read for nothing.
    let architecture = Architecture::load(folder)?;
    let heads = WeightFiles::open(folder)?.heads(&architecture)?;
    let Some(value_rows) = rows_of(heads.value_head.as_ref()) else {
        return Err(ScoreError::NotPreferenceModel { folder: folder.to_path_buf() });
    };
    let kind = resolve(folder, settings.kind, value_rows)?;
    if kind == PreferenceKind::Gpm {
        check_prompt_head(folder, value_rows, rows_of(heads.prompt_head.as_ref()))?;
    }
    let options = LoadOptions { device: device.clone(), dtype: settings.dtype.tensor_dtype(), heads: true };
    let decoder = Decoder::load(folder, &options)?;
    let Some(mut heads) = PreferenceHeads::of(&decoder) else {
        return Err(ScoreError::NotPreferenceModel { folder: folder.to_path_buf() });
    };
    // A prompt head is a GPM's.
    heads.prompt = heads.prompt.filter(|_| kind == PreferenceKind::Gpm);
    let codec = Codec::load(folder, template.or(settings.chat_template.as_deref()))?;
    let limits = Limits { max_length: settings.max_length, batch_tokens: settings.batch_tokens };
    let embedder = Embedder::new(decoder, codec, heads, folder, limits)?;
    let tau = settings.tau.or(kind.default_tau()).unwrap_or(1.0);
    let settings = settings.clone();
    Ok(match kind {
        PreferenceKind::Gpm => Box::new(Gpm::new(embedder, settings, tau)),
        _ => Box::new(BradleyTerry::new(embedder, settings, tau)),
    })
}

fn rows_of(head: Option<&TensorSpec>) -> Option<usize> {
    head.map(|spec| spec.shape.first().copied().unwrap_or(0))
}

/// The kind that a value head of `rows` rows is, held against the one that the recipe names.
fn resolve(folder: &Path, asked: PreferenceKind, rows: usize) -> Result<PreferenceKind, ScoreError> {
    let folder = folder.to_path_buf();
    let found = match rows {
        1 => PreferenceKind::BradleyTerry,
        n if n > 0 && n % 2 == 0 => PreferenceKind::Gpm,
        _ => return Err(ScoreError::OddHead { folder, rows }),
    };
    if asked == PreferenceKind::Auto || asked == found {
        return Ok(found);
    }
    Err(ScoreError::HeadOfOtherKind { folder, kind: asked, rows })
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
        let folder = Path::new("pm");
        let auto = |rows| resolve(folder, PreferenceKind::Auto, rows);
        assert_eq!(auto(1).unwrap(), PreferenceKind::BradleyTerry);
        assert_eq!(auto(2).unwrap(), PreferenceKind::Gpm);
        assert_eq!(auto(8).unwrap(), PreferenceKind::Gpm);
        for rows in [0, 3, 7] {
            let error = auto(rows).unwrap_err();
            assert!(error.kind() == Kind::Input && error.to_string().contains("odd head"), "{error}");
        }
    }

    #[test]
    fn a_kind_that_the_weights_are_not_is_refused() {
        let folder = Path::new("pm");
        assert!(resolve(folder, PreferenceKind::Gpm, 6).is_ok());
        assert!(resolve(folder, PreferenceKind::BradleyTerry, 1).is_ok());
        let error = resolve(folder, PreferenceKind::Gpm, 1).unwrap_err().to_string();
        assert!(error.contains("gpm") && error.contains("1 row"), "{error}");
        assert!(resolve(folder, PreferenceKind::BradleyTerry, 6).is_err());
    }

    #[test]
    fn later_kinds_are_refused_before_anything_is_read() {
        let settings = ScoreSettings { kind: PreferenceKind::PairRanker, ..ScoreSettings::default() };
        let Err(error) = load(Path::new("does/not/exist"), &settings, &Device::Cpu, None) else {
            panic!("loaded");
        };
        assert!(error.kind() == Kind::Input);
        assert!(error.to_string().contains("pair-ranker") && error.to_string().contains("not available yet"));
    }
}
