//! `train.reference`: which of a run's policies the reference is.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which of a run's policies the reference of an iteration is: `"previous"`, `"initial"`, or `"every-N"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferenceRule {
    /// The policy that the iteration starts from.
    #[default]
    Previous,
    /// The policy that the run starts from.
    Initial,
    /// The policy that the run starts from, renewed after every so many iterations, 1 or more.
    Every(usize),
}

impl ReferenceRule {
    /// The reference of an iteration (from 1) by the iteration that it is the result of; 0 is the policy that the run
    /// starts from.
    pub fn policy_after(self, iteration: usize) -> usize {
        let before = iteration.saturating_sub(1);
        match self {
            Self::Previous => before,
            Self::Initial => 0,
            Self::Every(iterations) => before - before % iterations.max(1),
        }
    }

    /// Whether it is the default, which recipes leave out.
    pub(super) fn is_previous(&self) -> bool {
        *self == Self::Previous
    }
}

/// A text that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected \"previous\", \"initial\", or \"every-N\" with a whole number of 1 or more, as in \"every-12\""
)]
pub struct BadReferenceRule;

impl FromStr for ReferenceRule {
    type Err = BadReferenceRule;

    fn from_str(text: &str) -> Result<Self, BadReferenceRule> {
        match text {
            "previous" => Ok(Self::Previous),
            "initial" => Ok(Self::Initial),
            _ => {
                let digits = text.strip_prefix("every-").ok_or(BadReferenceRule)?;
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                let number = digits.parse().ok().filter(|number| *number > 0 && plain);
                number.map(Self::Every).ok_or(BadReferenceRule)
            }
        }
    }
}

impl fmt::Display for ReferenceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Previous => f.write_str("previous"),
            Self::Initial => f.write_str("initial"),
            Self::Every(iterations) => write!(f, "every-{iterations}"),
        }
    }
}

impl Serialize for ReferenceRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReferenceRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ReferenceRule {
    fn schema_name() -> Cow<'static, str> {
        "ReferenceRule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_iteration_has_the_reference_of_its_rule() {
        let of = |rule: ReferenceRule| (1..=7).map(|t| rule.policy_after(t)).collect::<Vec<_>>();
        assert_eq!(of(ReferenceRule::Previous), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(of(ReferenceRule::Initial), [0; 7]);
        // Renewed after iterations 2, 4 and 6: iteration 3 is the first that has the policy of iteration 2.
        assert_eq!(of(ReferenceRule::Every(2)), [0, 0, 2, 2, 4, 4, 6]);
        assert_eq!(of(ReferenceRule::Every(3)), [0, 0, 0, 3, 3, 3, 6]);
        assert_eq!(of(ReferenceRule::Every(1)), of(ReferenceRule::Previous));
        assert_eq!(of(ReferenceRule::Every(12)), [0; 7]);
    }

    #[test]
    fn rules_are_read_and_shown() {
        for text in ["previous", "initial", "every-1", "every-12"] {
            assert_eq!(text.parse::<ReferenceRule>().unwrap().to_string(), text);
        }
        for text in
            ["", "every", "every-", "every-0", "every--1", "every-+2", "every-2.5", "Initial", "first"]
        {
            assert_eq!(text.parse::<ReferenceRule>(), Err(BadReferenceRule), "{text}");
        }
    }
}
