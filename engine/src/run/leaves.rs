//! What a training leaves: a whole model, or with `[train.lora]` an adapter and, where it is merged, the model as well; and
//! what the next iteration begins with.

use selfplay_trainer::{EachIteration, LoraSettings, MergeRule, TrainSettings};

/// What a training leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// An adapter's folder.
    pub adapter: bool,
    /// A whole model's.
    pub model: bool,
}

impl Leaves {
    /// Of a training; `is_last`: no iteration of the run follows it.
    pub fn of(settings: &TrainSettings, is_last: bool) -> Self {
        let Some(lora) = &settings.lora else { return Self { adapter: false, model: true } };
        Self { adapter: true, model: merges(lora, is_last) }
    }
}

fn merges(lora: &LoraSettings, is_last: bool) -> bool {
    lora.each_iteration == EachIteration::Merge
        || match lora.merge {
            MergeRule::Last => is_last,
            MergeRule::Always => true,
            MergeRule::Never => false,
        }
}

/// Whether the next iteration begins with the model that this one's adapter was merged into.
pub fn goes_on_merged(settings: &TrainSettings) -> bool {
    settings.lora.as_ref().is_none_or(|lora| lora.each_iteration == EachIteration::Merge)
}

/// The settings of an iteration's training, from 1: one that does not go on from an adapter begins a fresh one.
pub fn settings_of(settings: &TrainSettings, iteration: usize) -> TrainSettings {
    let mut settings = settings.clone();
    if let Some(lora) = settings.lora.as_mut().filter(|lora| iteration > 1 && names_a_folder(lora)) {
        lora.init = None;
    }
    settings
}

fn names_a_folder(lora: &LoraSettings) -> bool {
    lora.init().folder().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_follows_the_two_keys() {
        let settings = |each_iteration, merge| TrainSettings {
            lora: Some(LoraSettings { each_iteration, merge, ..LoraSettings::default() }),
            ..TrainSettings::default()
        };
        use EachIteration::{Continue, Merge};
        for (each, merge, earlier, last) in [
            (Continue, MergeRule::Last, false, true),
            (Continue, MergeRule::Always, true, true),
            (Continue, MergeRule::Never, false, false),
            (Merge, MergeRule::Last, true, true),
        ] {
            let settings = settings(each, merge);
            assert_eq!(Leaves::of(&settings, false), Leaves { adapter: true, model: earlier });
            assert_eq!(Leaves::of(&settings, true), Leaves { adapter: true, model: last });
            assert_eq!(goes_on_merged(&settings), each == Merge);
        }
        let full = TrainSettings::default();
        assert_eq!(Leaves::of(&full, false), Leaves { adapter: false, model: true });
        assert!(goes_on_merged(&full));
    }

    #[test]
    fn a_folder_to_begin_with_is_the_first_iteration_s() {
        let init = |init: &str| TrainSettings {
            lora: Some(LoraSettings { init: Some(init.to_owned()), ..LoraSettings::default() }),
            ..TrainSettings::default()
        };
        let of = |name: &str, iteration| settings_of(&init(name), iteration).lora.unwrap().init;
        assert_eq!(of("a/folder", 1).as_deref(), Some("a/folder"));
        assert_eq!(of("a/folder", 2), None);
        assert_eq!(of("pissa", 2).as_deref(), Some("pissa"));
    }
}
