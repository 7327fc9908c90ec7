//! Scoring on a device that does nothing before somebody waits for it: the next pass is there when the host waits for one.

use std::sync::Arc;

use candle_core::Device;
use selfplay_model::gpu::emulate;
use selfplay_records::{Candidates, Problems, Prompt, Response};
use selfplay_scorer::{PreferenceModel, ScoreKeys, load};
use selfplay_testing::tiny_model::{Heads, TinyModel, word};
use selfplay_testing::{Emulator, LateEmulator};

/// Prompts of three words with three responses each, of another length for each prompt.
fn rows(count: usize) -> Vec<Candidates> {
    let text = |words: usize, first: usize| -> String {
        (0..words).map(|place| word((first + place * 3) % 7)).collect::<Vec<_>>().join(" ")
    };
    let row = |number: usize| Candidates {
        prompt: Prompt { prompt_id: number.to_string(), prompt: Some(text(3, number)), ..Prompt::default() },
        responses: (0..3)
            .map(|response| Response { text: text(2 + number + response, response), ..Response::default() })
            .collect(),
    };
    (0..count).map(row).collect()
}

#[test]
fn a_device_has_its_next_pass_when_the_host_waits_for_one() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel { seed: 7, heads: Some(Heads { value: 4, prompt: Some(2) }) }.write(folder.path());
    let mut problems = Problems::default();
    // A pass for each prompt.
    let keys = ScoreKeys { batch_tokens: Some(1), embeddings: Some(true), ..ScoreKeys::default() };
    let settings = keys.resolve(&mut problems);
    let open = || -> Box<dyn PreferenceModel> { load(folder.path(), &settings, &Device::Cpu, None).unwrap() };
    let want = {
        let Some(_gpu) = Emulator::start() else { return };
        open().compare_all(&rows(4)).unwrap()
    };
    let Some(late) = LateEmulator::build() else { return };
    let _gpu = emulate(Arc::new(late.clone()));
    let model = open();
    let before = late.counts();
    let (mut passes, rows) = (0, rows(4));
    let compared = model
        .compare(&rows, &mut |_| {
            passes += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(compared, selfplay_scorer::Compared::All(want));
    let after = late.counts();
    // `progress` is told of the end as well. A pass has two heads, and the last one nothing behind it.
    let (waits, passes) = (after.waits - before.waits, passes - 1);
    assert!(passes >= 4, "{passes} passes");
    assert_eq!((waits, after.drained - before.drained), (2 * passes, 1));
    // Two passes are under way at a time, whatever their number.
    assert_eq!(after.staging - before.staging, 4);
}
