use std::sync::Arc;

use selfplay_testing::Emulator;

use super::*;

/// What other tests have not run on the emulator already, or takes it too long.
const NEW: [ContactCheck; 14] = [
    ContactCheck::EventTimes,
    ContactCheck::Draws,
    ContactCheck::GreedyTokens,
    ContactCheck::PageLocks,
    ContactCheck::LateReads,
    ContactCheck::CopiesBeside,
    ContactCheck::StagedLoading,
    ContactCheck::GrowingCache,
    ContactCheck::CapturedSteps,
    ContactCheck::StepsAhead,
    ContactCheck::CapturedMixedSteps,
    ContactCheck::ReplayAfterGrowth,
    ContactCheck::HostOptimizer,
    ContactCheck::HostGradients,
];

#[test]
fn every_mechanism_is_right_in_the_emulator() {
    let Some(emulator) = Emulator::build() else { return };
    let target = CheckTarget::Emulator(Arc::new(emulator));
    for check in NEW {
        let result = check.run(&target, 1).unwrap();
        let (word, wrong) = result.verdict();
        assert_eq!(word, "right", "{}: {wrong:?} {:?}", check.name(), result.remark);
    }
}

#[test]
fn what_is_not_as_it_must_be_is_named() {
    let one = |name: &str, distance| Deviation {
        name: name.to_owned(),
        dtype: candle_core::DType::F32,
        distance,
        bound: 1e-3,
    };
    let result = |found: Vec<Deviation>| ContactResult { found, remark: None, seconds: 0.0 }.verdict();
    assert_eq!(result(Vec::new()), ("absent", None));
    assert_eq!(result(vec![one("sum", 1e-4)]), ("right", None));
    let (word, text) = result(vec![one("sum", 1e-4), one("norm", f64::INFINITY)]);
    let text = text.unwrap();
    assert!(word == "wrong" && text.contains("1 of 2") && text.contains("norm in F32: inf apart"), "{text}");
}
