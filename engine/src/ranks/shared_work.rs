//! What rank 0 has all ranks work on, one after the other.

use serde::{Deserialize, Serialize};

/// A piece of work for all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "lowercase")]
pub(crate) enum SharedWork {
    /// The run's folder is made: its recipe and manifest can be read.
    Begun,
    /// Candidates and preferences of an iteration, shard by shard.
    Shards {
        /// From 1.
        iteration: usize,
    },
    /// Log-probs of an iteration's examples, shard by shard, before rank 0 trains on them.
    Reference {
        /// From 1.
        iteration: usize,
    },
    /// Answers to the held-out prompts by the policy of an iteration, and what models say of them, shard by shard.
    Evaluation {
        /// From 1; 0 is the starting policy.
        iteration: usize,
    },
    /// An iteration's training, all ranks together.
    Training {
        /// From 1.
        iteration: usize,
    },
    /// Nothing is left.
    Finished,
}

/// `work.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NumberedWork {
    /// From 1, one more for each.
    pub(super) number: u64,
    #[serde(flatten)]
    pub(super) work: SharedWork,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_written_flat() {
        let one = NumberedWork { number: 3, work: SharedWork::Training { iteration: 2 } };
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, "{\"number\":3,\"work\":\"training\",\"iteration\":2}");
        assert_eq!(serde_json::from_str::<NumberedWork>(&text).unwrap(), one);
    }
}
