//! Checks, before the first step, that examples fit into the model's context: positions beyond it cannot be computed.

use selfplay_model::Decoder;

use crate::TrainError;

/// How an example can be shortened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LengthRemedy {
    /// A key that cuts, with its section: `train.max_length`.
    Key(&'static str),
    /// The row itself.
    Row,
}

/// Checks an example of `length` tokens, of which `seen` are read by the model: after the last token nothing is predicted.
///
/// # Errors
/// [`TrainError::Example`] with the length, the context, and what cuts it.
pub(crate) fn check_context(
    decoder: &Decoder,
    name: &str,
    length: usize,
    seen: usize,
    remedy: LengthRemedy,
) -> Result<(), TrainError> {
    let context = decoder.architecture().max_positions;
    if seen <= context {
        return Ok(());
    }
    let want = match remedy {
        LengthRemedy::Key(key) => format!("at most {context}: {key}={context} cuts it, or leave the row out"),
        LengthRemedy::Row => format!("at most {context}: shorten the row or leave it out"),
    };
    Err(TrainError::example(name, format!("{length} tokens, and the model's context is {context}"), want))
}
