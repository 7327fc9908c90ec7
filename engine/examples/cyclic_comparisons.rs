//! Writes comparisons that go in a circle and comparisons that go in a line, with the small policy that preference models of them
//! start from: what a general preference model learns, and a ranking cannot.
//!
//! cargo run --release -p selfplay --example cyclic_comparisons -- FOLDER [SEED]
//!
//! | file | what |
//! |---|---|
//! | policy/ | a model of 24 words and two layers with random weights |
//! | circle_train.jsonl, circle_held_out.jsonl | five criteria, each beats the next two: 3,000 and 240 comparisons |
//! | line_train.jsonl, line_held_out.jsonl | the same with a ranking |
//!
//! docs/log.md has the figures and the commands that gave them.

use std::path::PathBuf;

use selfplay_records::atomic;
use selfplay_testing::TinyModel;
use selfplay_testing::comparisons::LabelOrder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: cyclic_comparisons FOLDER [SEED]")?);
    let seed: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    atomic::create_dir_all(&folder)?;
    TinyModel { seed, ..TinyModel::POLICY }.write(&folder.join("policy"));
    for (order, name) in [(LabelOrder::Circle, "circle"), (LabelOrder::Line, "line")] {
        for (part, prompts, own) in [("train", 300, 2 * seed), ("held_out", 24, 2 * seed + 1)] {
            let rows = order.pairs(prompts, own);
            let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
            atomic::write_bytes(&folder.join(format!("{name}_{part}.jsonl")), text.as_bytes())?;
        }
    }
    Ok(())
}
