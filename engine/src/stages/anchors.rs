//! Log-probs of the examples under other policies than the one that is trained, one policy in memory at a time.

use selfplay_model::Decoder;
use selfplay_trainer::{Preparation, ReadsPolicies};

use super::train::in_training;
use super::workspace::Workspace;
use crate::error::EngineError;
use crate::recipe::Stage;

/// Takes what is not on disk yet; `load` is asked for a policy by the name that the objective has for it. The policy in
/// training must not be in memory.
///
/// # Errors
/// When a policy does not load or does not fit the pairs, a file cannot be read or written, or a signal asks for a stop.
pub fn take_anchors(
    place: &dyn Workspace,
    objective: &mut impl ReadsPolicies,
    load: &mut dyn FnMut(&str) -> Result<Decoder, EngineError>,
) -> Result<(), EngineError> {
    let title = place.title(Stage::Policy);
    let mut told = |name: &str| {
        place.progress().line(format!("{title}: log-probs of the pairs under {name}"));
        load(name)
    };
    let ended = in_training(place, &mut |_| {}, |run| objective.load_anchors(run, &mut told))??;
    match ended {
        Preparation::Complete => Ok(()),
        Preparation::Stopped => {
            place.settle();
            place.check_stop()?;
            Err(EngineError::TrainingStopped { title, step: 0, kept: place.kept() })
        }
    }
}
