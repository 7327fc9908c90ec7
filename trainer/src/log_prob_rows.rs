//! Rows of `selfplay logprobs`: text to tokens, tokens to log-probs, log-probs into the rows.
//!
//! Ids win over text. A response given as text is tokenised as a training pair's would be: as the conversation's
//! continuation, its end token included (see [`crate::turn`]).

use selfplay_model::{Codec, Decoder};
use selfplay_records::{LogProbRow, Message};

use crate::TrainError;
use crate::context::{LengthRemedy, check_context};
use crate::log_probs::{PromptResponse, log_probs};
use crate::turn::{at_example, response_ids};

/// Fills in `logprob` and `token_logprobs` of every row; rows keep their order.
///
/// # Errors
/// A row without prompt or response, or with ids outside the vocabulary, by its number.
pub fn log_prob_rows(
    decoder: &Decoder,
    codec: &Codec,
    stop_ids: &[u32],
    rows: &mut [LogProbRow],
    batch_tokens: usize,
) -> Result<(), TrainError> {
    let tokens: Vec<PromptResponse> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| prompt_response(format!("row {index}"), row, codec, stop_ids))
        .collect::<Result<_, _>>()?;
    for row in &tokens {
        let length = row.prompt.len() + row.response.len();
        check_context(decoder, &row.name, length, length.saturating_sub(1), LengthRemedy::Row)?;
    }
    for (row, values) in rows.iter_mut().zip(log_probs(decoder, &tokens, batch_tokens)?) {
        row.logprob = Some(values.sum);
        row.token_logprobs = Some(values.tokens);
    }
    Ok(())
}

/// A row's tokens.
fn prompt_response(
    name: String,
    row: &LogProbRow,
    codec: &Codec,
    stop_ids: &[u32],
) -> Result<PromptResponse, TrainError> {
    let prompt = codec.prompt_ids(&row.to_prompt()).map_err(|error| at_example(error, &name))?;
    let response = match (&row.response_ids, &row.response) {
        (Some(ids), _) => ids.clone(),
        (None, Some(text)) => {
            let context = match (&row.messages, &row.prompt) {
                (Some(messages), _) => messages.clone(),
                (None, Some(prompt)) => vec![Message::user(prompt.clone())],
                (None, None) => {
                    return Err(TrainError::example(
                        name,
                        "`prompt_ids` with a response in text",
                        "`response_ids`, or the prompt in text too",
                    ));
                }
            };
            response_ids(codec, &context, text, stop_ids, &name)?
        }
        (None, None) => {
            return Err(TrainError::example(name, "no response", "`response_ids` or `response`"));
        }
    };
    Ok(PromptResponse { name, prompt, response })
}
