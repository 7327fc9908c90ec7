//! Oddities: rows of the right layout that teach nothing and are left out, or that are kept with something changed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

/// What is strange about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// Both replies are the same: left out.
    IdenticalReplies,
    /// A reply is empty or missing: left out.
    EmptyReply,
    /// The two conversations part at a turn that is not the assistant's: left out.
    DifferentPrompts,
    /// The conversation has no turn of the assistant with something before it: left out.
    NoReply,
    /// Two replies are rated alike: left out.
    Tie,
    /// There are not two rated replies to one prompt: left out.
    NothingToCompare,
    /// The reply is marked as unsafe: left out of what is imitated.
    UnsafeReply,
    /// Turns of one speaker in a row were joined into one.
    JoinedTurns,
    /// Turns of the assistant before the first of the user were taken off.
    LeadingTurns,
    /// Turns after the reply that is learnt were taken off.
    LaterTurns,
}

impl Oddity {
    /// Whether the row is left out; else it is kept with a change.
    pub fn leaves_out(self) -> bool {
        !matches!(self, Self::JoinedTurns | Self::LeadingTurns | Self::LaterTurns)
    }

    /// The name in `data.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdenticalReplies => "identical_replies",
            Self::EmptyReply => "empty_reply",
            Self::DifferentPrompts => "different_prompts",
            Self::NoReply => "no_reply",
            Self::Tie => "tie",
            Self::NothingToCompare => "nothing_to_compare",
            Self::UnsafeReply => "unsafe_reply",
            Self::JoinedTurns => "joined_turns",
            Self::LeadingTurns => "leading_turns",
            Self::LaterTurns => "later_turns",
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IdenticalReplies => "the chosen and the rejected reply are the same",
            Self::EmptyReply => "a reply is empty",
            Self::DifferentPrompts => "the chosen and the rejected reply answer different prompts",
            Self::NoReply => "there is no turn of the assistant after another's",
            Self::Tie => "the replies are rated alike",
            Self::NothingToCompare => "there are not two rated replies to one prompt",
            Self::UnsafeReply => "the reply is marked as unsafe",
            Self::JoinedTurns => "turns of one speaker in a row became one",
            Self::LeadingTurns => "turns of the assistant before the first question were taken off",
            Self::LaterTurns => "turns after the reply were taken off",
        })
    }
}

impl Serialize for Oddity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How often a kind was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OddityCount {
    /// Rows.
    pub rows: usize,
    /// The first of them, from 0.
    pub first_row: usize,
}

/// The oddities of a file, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Oddities(BTreeMap<Oddity, OddityCount>);

impl Oddities {
    /// Counts those of a row; a kind counts once a row.
    pub(super) fn add(&mut self, row: usize, mut kinds: Vec<Oddity>) {
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            self.0.entry(kind).or_insert(OddityCount { rows: 0, first_row: row }).rows += 1;
        }
    }

    /// How often this kind was met.
    pub fn count(&self, kind: Oddity) -> usize {
        self.0.get(&kind).map_or(0, |count| count.rows)
    }

    /// Rows that were left out, by kind, or those that were changed.
    pub fn iter(&self, left_out: bool) -> impl Iterator<Item = (Oddity, OddityCount)> + '_ {
        self.0
            .iter()
            .map(|(&kind, &count)| (kind, count))
            .filter(move |(kind, _)| kind.leaves_out() == left_out)
    }

    /// What `count` rows of a kind are, for a line: "12 where a reply is empty (the first is row 3)".
    fn describe(&self, left_out: bool) -> Vec<String> {
        self.iter(left_out)
            .map(|(kind, count)| format!("{} where {kind} (first row {})", count.rows, count.first_row))
            .collect()
    }

    /// Both lists as text: `None` where nothing was odd.
    pub fn describe_all(&self) -> Option<String> {
        let (left, changed) = (self.describe(true), self.describe(false));
        let mut parts = Vec::new();
        if !left.is_empty() {
            parts.push(format!("left out {}", left.join(", ")));
        }
        if !changed.is_empty() {
            parts.push(format!("kept {}", changed.join(", ")));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_once_a_row_with_their_first_row() {
        let mut oddities = Oddities::default();
        oddities.add(3, vec![Oddity::LaterTurns, Oddity::EmptyReply, Oddity::LaterTurns]);
        oddities.add(5, vec![Oddity::EmptyReply]);
        oddities.add(6, Vec::new());
        assert_eq!(oddities.count(Oddity::EmptyReply), 2);
        assert_eq!(
            oddities.describe_all().as_deref(),
            Some(
                "left out 2 where a reply is empty (first row 3); kept 1 where turns after the reply were taken off \
                 (first row 3)"
            )
        );
        assert_eq!(
            serde_json::to_string(&oddities).unwrap(),
            r#"{"empty_reply":{"rows":2,"first_row":3},"later_turns":{"rows":1,"first_row":3}}"#
        );
        assert_eq!(Oddities::default().describe_all(), None);
    }
}
