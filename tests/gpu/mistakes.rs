//! The emulator is as strict as it says: every kind of mistake is seen, with Hopper's units (`hopper_mistakes.cpp`) and in the order
//! of accesses to shared memory (`race_mistakes.cpp`).

use selfplay_testing::{KernelProgram, RaceWatch};

/// What `hopper_mistakes.cpp` says of each mistake, in the order of the enumeration there.
const SEEN: [&str; 24] = [
    "right",
    "more arrivals than the barrier expects",
    "the operand does not begin at the first of eight rows",
    "eight rows of the operand are not at a multiple of 1024 bytes",
    "the operand is not swizzled by 128 bytes",
    "the copy overwrites what a product has not read yet",
    "no fence since the last wait",
    "no fence shows the operand to the product",
    "wrong",
    "the product is still under way",
    "registers of A changed while the product was under way",
    "threads wait for what nobody does any more",
    "the barrier was not initialised",
    "threads wait for what nobody does any more",
    "the block ended before its products",
    "the tile is not at a multiple of 1024 bytes",
    "more arrivals than the barrier expects",
    "threads disagree on their number",
    "the block ended before its copies to device memory",
    "a copy has not read this yet",
    "it waits for a block that has not begun",
    "the barrier was not made known",
    "a vector is not aligned",
    "wrong",
];

/// What `race_mistakes.cpp` says.
const RACES: [&str; 11] = [
    "right",
    "which thread",
    "and nothing orders the two",
    "and nothing orders the two",
    "and nothing orders the two",
    "and nothing orders the two",
    "and nothing orders the two",
    "and nothing orders the two",
    "and nothing orders the two",
    "and nothing orders the two",
    "an object in static shared memory",
];

#[test]
fn every_mistake_is_seen() {
    check(include_str!("hopper_mistakes.cpp"), RaceWatch::Off, &SEEN);
}

#[test]
fn every_race_is_seen() {
    check(include_str!("race_mistakes.cpp"), RaceWatch::On, &RACES);
}

fn check(source: &str, watch: RaceWatch, expected: &[&str]) {
    let Some(program) = KernelProgram::build(source, watch) else { return };
    for (mistake, seen) in expected.iter().enumerate() {
        let output = program.run(&[&mistake.to_string()]);
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(seen), "mistake {mistake}: {text}");
        assert_eq!(output.status.success(), ["right", "wrong"].contains(seen), "mistake {mistake}: {text}");
    }
    assert_eq!(
        program.run(&[&expected.len().to_string()]).status.code(),
        Some(77),
        "a mistake is not listed here"
    );
}
