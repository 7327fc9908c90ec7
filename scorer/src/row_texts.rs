//! Rows as tokens, several at a time.

use rayon::prelude::*;
use selfplay_records::Candidates;

use crate::ScoreError;

/// `tokenise` of each row, in the rows' order, on all threads: a device waits for the tokens of a whole shard before its first pass, and
/// one thread tokenises for about a sixteenth of the time that a large GPU needs to score the shard.
///
/// # Errors
/// That of the first row that has one.
pub(crate) fn tokenise_rows<T: Send>(
    rows: &[Candidates],
    tokenise: impl Fn(&Candidates) -> Result<T, ScoreError> + Sync,
) -> Result<Vec<T>, ScoreError> {
    let tokenised: Vec<_> = rows.par_iter().map(&tokenise).collect();
    tokenised.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use selfplay_records::Prompt;

    use super::*;

    fn rows(count: usize) -> Vec<Candidates> {
        let row = |number: usize| Candidates {
            prompt: Prompt { prompt_id: number.to_string(), ..Prompt::default() },
            responses: Vec::new(),
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn rows_stay_in_their_order() {
        let ids = tokenise_rows(&rows(1000), |row| Ok(row.prompt.prompt_id.clone())).unwrap();
        assert_eq!(ids, (0..1000).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_of_several_errors_is_told() {
        let refused = |row: &Candidates| match row.prompt.prompt_id.as_str() {
            "7" | "400" | "900" => {
                Err(ScoreError::Empty { prompt_id: row.prompt.prompt_id.clone(), response: 0 })
            }
            _ => Ok(()),
        };
        for _ in 0..20 {
            let error = tokenise_rows(&rows(1000), refused).unwrap_err();
            assert!(matches!(error, ScoreError::Empty { ref prompt_id, .. } if prompt_id == "7"), "{error}");
        }
    }
}
