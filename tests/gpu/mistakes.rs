//! The emulator of Hopper's units is as strict as it says: every kind of mistake is seen (`hopper_mistakes.cpp`).

use selfplay_testing::KernelProgram;

/// What the program says of each mistake, in the order of the enumeration there.
const SEEN: [&str; 21] = [
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
];

#[test]
fn every_mistake_is_seen() {
    let Some(program) = KernelProgram::build(include_str!("hopper_mistakes.cpp")) else { return };
    for (mistake, seen) in SEEN.iter().enumerate() {
        let output = program.run(&[&mistake.to_string()]);
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(seen), "mistake {mistake}: {text}");
        assert_eq!(output.status.success(), ["right", "wrong"].contains(seen), "mistake {mistake}: {text}");
    }
    assert_eq!(
        program.run(&[&SEEN.len().to_string()]).status.code(),
        Some(77),
        "a mistake is not listed here"
    );
}
