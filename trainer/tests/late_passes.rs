//! Log-probs on a device that does nothing before somebody waits for it: the next pass is there when the host waits for one.

use std::sync::Arc;

use candle_core::DType;
use selfplay_model::gpu::emulate;
use selfplay_testing::families::decoder;
use selfplay_testing::{Emulator, LateEmulator};
use selfplay_trainer::{PromptResponse, log_probs};

#[test]
fn a_device_has_its_next_pass_when_the_host_waits_for_one() {
    let row = |number: u32| PromptResponse {
        name: number.to_string(),
        prompt: (0..3 + number % 2).map(|place| 1 + (number + place) % 9).collect(),
        response: (0..2 + number).map(|place| 2 + (number * 3 + place) % 8).collect(),
    };
    let rows: Vec<PromptResponse> = (0..5).map(row).collect();
    let model = decoder("llama", DType::F32);
    // A pass for each row.
    let want = {
        let Some(_gpu) = Emulator::start() else { return };
        log_probs(&model, &rows, 1).unwrap()
    };
    assert!(want.iter().all(|row| row.sum < 0.0));
    let Some(late) = LateEmulator::build() else { return };
    let _gpu = emulate(Arc::new(late.clone()));
    let before = late.counts();
    assert_eq!(log_probs(&model, &rows, 1).unwrap(), want);
    let after = late.counts();
    assert_eq!((after.waits - before.waits, after.drained - before.drained), (5, 1));
    // Two passes are under way at a time.
    assert_eq!(after.staging - before.staging, 2);
}
