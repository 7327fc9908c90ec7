//! `selfplay plan` against what a training really takes: the peak resident set of the process.

use selfplay_testing::training_memory::{TrainingSize, TrainingWorld};

use crate::SELFPLAY;

#[test]
fn a_trainings_peak_is_within_a_tenth_of_the_plan() {
    for (case, (layers, hidden, vocab, set)) in [
        (4, 512, 4096, &["--set", "train.recompute=true"][..]),
        (8, 384, 16_384, &["--set", "train.recompute=false"][..]),
        (6, 512, 4096, &["--set", "train.optimizer=adamw", "--set", "train.recompute=true"][..]),
        (6, 512, 4096, &["--set", "train.optimizer=adamw8bit", "--set", "train.recompute=true"][..]),
        (8, 512, 4096, &["--set", "train.lora.rank=16", "--set", "train.recompute=true"][..]),
        (
            8,
            512,
            4096,
            &["--set", "train.lora.rank=16", "--set", "policy.quantize=nf4", "--set", "train.recompute=true"]
                [..],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let size = TrainingSize { layers, hidden, vocab, pairs: 8, prompt: 64, response: 96 };
        let world = TrainingWorld::new(SELFPLAY, size);
        let plan = world.planned(set);
        let peak = world.measured(set, &format!("out_{case}"));
        println!("case {case}: planned {:.1} MB, measured {:.1} MB", plan / 1e6, peak / 1e6);
        assert!((peak / plan - 1.0).abs() <= 0.10, "case {case}: planned {plan:.3e}, measured {peak:.3e}");
    }
}
