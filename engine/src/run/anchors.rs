//! Which of a run's policies play which part in the training of an iteration, decided purely from recipe and iteration.
//!
//! A policy is named by the iteration that it is the result of; 0 is the policy that the run starts from.

use selfplay_trainer::loss::needs_initial;
use selfplay_trainer::{AnchorPolicy, Anchors, ReferenceRule, TrainSettings};

/// The policies of an iteration, from 1. For `inpo` the reference is the iteration's own policy, the initial one that of
/// the rule (the run's first, unless it is renewed every N iterations), and the earlier ones are as many of those before
/// the iteration's own as there are.
pub fn anchors(settings: &TrainSettings, iteration: usize) -> Anchors {
    let own = iteration.saturating_sub(1);
    let part =
        |after: usize| if after == own { AnchorPolicy::Start } else { AnchorPolicy::Other(name(after)) };
    let by_rule = settings.reference.policy_after(iteration);
    if !needs_initial(settings.loss) {
        return Anchors { reference: part(by_rule), ..Anchors::default() };
    }
    let initial = match settings.reference {
        ReferenceRule::Previous | ReferenceRule::Initial => 0,
        ReferenceRule::Every(_) => by_rule,
    };
    let earlier = (1..settings.history()).map_while(|back| own.checked_sub(back)).map(part);
    Anchors { reference: AnchorPolicy::Start, initial: Some(part(initial)), earlier: earlier.collect() }
}

/// How many policies the pairs of an iteration are read by before its first step.
pub fn count(settings: &TrainSettings, iteration: usize) -> usize {
    let Anchors { reference, initial, earlier } = anchors(settings, iteration);
    let mut policies: Vec<AnchorPolicy> = Vec::new();
    for policy in std::iter::once(reference).chain(initial).chain(earlier) {
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    policies.len()
}

/// The iteration that the policy of this name is the result of.
pub fn policy_of(anchor: &str) -> Option<usize> {
    if anchor == STARTING {
        return Some(0);
    }
    anchor.strip_prefix("iteration_")?.strip_suffix("/policy")?.parse().ok()
}

const STARTING: &str = "the starting policy";

fn name(after: usize) -> String {
    match after {
        0 => STARTING.to_owned(),
        after => format!("iteration_{after:02}/policy"),
    }
}

#[cfg(test)]
mod tests {
    use selfplay_trainer::LossKind;

    use super::*;

    /// The policies of an iteration by number: reference, initial, earlier ones.
    fn numbers(settings: &TrainSettings, iteration: usize) -> (usize, Option<usize>, Vec<usize>) {
        let number = |policy: AnchorPolicy| match policy {
            AnchorPolicy::Start => iteration - 1,
            AnchorPolicy::Other(name) => policy_of(&name).unwrap(),
        };
        let Anchors { reference, initial, earlier } = anchors(settings, iteration);
        (number(reference), initial.map(number), earlier.into_iter().map(number).collect())
    }

    fn rule(loss: LossKind, reference: ReferenceRule) -> TrainSettings {
        TrainSettings { loss, reference, ..TrainSettings::default() }
    }

    #[test]
    fn a_reference_is_that_of_its_rule() {
        let references = |reference: ReferenceRule| -> Vec<usize> {
            let settings = rule(LossKind::Dpo, reference);
            (1..=5)
                .map(|iteration| {
                    let (own, initial, earlier) = numbers(&settings, iteration);
                    assert_eq!((initial, earlier), (None, Vec::new()));
                    own
                })
                .collect()
        };
        assert_eq!(references(ReferenceRule::Previous), [0, 1, 2, 3, 4]);
        assert_eq!(references(ReferenceRule::Initial), [0, 0, 0, 0, 0]);
        assert_eq!(references(ReferenceRule::Every(2)), [0, 0, 2, 2, 4]);
        // An iteration's own policy is loaded once, by the training itself.
        for iteration in [1, 3, 5] {
            let policies = anchors(&rule(LossKind::Dpo, ReferenceRule::Every(2)), iteration);
            assert_eq!(policies, Anchors::default(), "{iteration}");
        }
    }

    #[test]
    fn inpo_keeps_its_own_policy_as_the_reference() {
        for reference in [ReferenceRule::Previous, ReferenceRule::Initial] {
            let settings = rule(LossKind::Inpo, reference);
            assert_eq!(numbers(&settings, 1), (0, Some(0), vec![]));
            assert_eq!(numbers(&settings, 4), (3, Some(0), vec![]));
        }
        let comal = rule(LossKind::Inpo, ReferenceRule::Every(2));
        let initial: Vec<_> = (1..=6).map(|iteration| numbers(&comal, iteration).1.unwrap()).collect();
        assert_eq!(initial, [0, 0, 2, 2, 4, 4]);
    }

    #[test]
    fn the_history_grows_to_its_length() {
        let mnpo = TrainSettings { history: Some(3), ..rule(LossKind::Inpo, ReferenceRule::Initial) };
        let earlier: Vec<_> = (1..=5).map(|iteration| numbers(&mnpo, iteration).2).collect();
        assert_eq!(earlier, [vec![], vec![0], vec![1, 0], vec![2, 1], vec![3, 2]]);
    }

    #[test]
    fn a_policy_with_two_parts_counts_once() {
        let mnpo = TrainSettings { history: Some(2), ..rule(LossKind::Inpo, ReferenceRule::Initial) };
        // Iteration 1 has the starting policy alone, 2 its own and that one, 3 all three.
        assert_eq!((1..=4).map(|iteration| count(&mnpo, iteration)).collect::<Vec<_>>(), [1, 2, 3, 3]);
        assert_eq!(count(&rule(LossKind::Dpo, ReferenceRule::Initial), 3), 1);
    }

    #[test]
    fn names_lead_back() {
        for after in [0, 1, 9, 12, 123] {
            assert_eq!(policy_of(&name(after)), Some(after));
        }
        assert_eq!(policy_of("iteration_01"), None);
    }
}
