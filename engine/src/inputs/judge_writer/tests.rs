use selfplay_scorer::{ReadingSettings, VerdictForm};
use selfplay_testing::TinyModel;
use selfplay_testing::tiny_model::word;

use super::*;

/// The answers, and the steps of the sampler that they took.
fn written(writer: &SamplerWriter, conversations: &[Vec<Message>]) -> (Vec<String>, usize) {
    let mut calls = 0;
    let mut answers = vec![None; conversations.len()];
    let mut take = |place: usize, text: String| {
        assert!(answers[place].replace(text).is_none(), "given once");
        Ok(())
    };
    let mut go_on = || {
        calls += 1;
        ControlFlow::Continue(())
    };
    writer.write(conversations, 6, &mut take, &mut go_on).unwrap();
    (answers.into_iter().map(Option::unwrap).collect(), calls)
}

#[test]
fn all_questions_share_the_sampler_s_steps() {
    let folder = tempfile::tempdir().unwrap();
    TinyModel { seed: 7, heads: None }.write(folder.path());
    let place = ModelFolders { base: folder.path(), adapter: None };
    let own = JudgeSettings {
        reading: ReadingSettings::default(),
        service: None,
        model: String::new(),
        template: None,
        verdict: VerdictForm::Text,
        verdict_tokens: 6,
        transcript: None,
    };
    let kind = KindSettings::Judge(own.clone());
    let writer = SamplerWriter::load(place, &own, &kind, &Device::Cpu).unwrap();
    let question = |number: usize| vec![Message::user(vec![word(number); 1 + number % 5].join(" "))];
    let conversations: Vec<Vec<Message>> = (0..24).map(question).collect();
    let (together, steps) = written(&writer, &conversations);
    let alone: Vec<(Vec<String>, usize)> =
        conversations.iter().map(|one| written(&writer, std::slice::from_ref(one))).collect();
    let answers: Vec<String> = alone.iter().flat_map(|(answers, _)| answers.clone()).collect();
    assert_eq!(together, answers, "an answer does not depend on the others");
    let (longest, sum) = (
        alone.iter().map(|(_, steps)| *steps).max().unwrap(),
        alone.iter().map(|(_, steps)| *steps).sum::<usize>(),
    );
    assert!(longest > 1 && sum >= 24 * 2, "{longest} {sum}");
    // Prompts may take a step or two to go in; one after the other would take `sum`.
    assert!(
        steps <= longest + 2,
        "{steps} steps for 24 questions, {longest} for the longest, {sum} one by one"
    );
    // A stop is no error, and what was whole by then is given.
    let (mut given, mut steps_left) = (0, longest - 1);
    let mut take = |_: usize, _: String| {
        given += 1;
        Ok(())
    };
    let mut go_on = || {
        steps_left -= 1;
        if steps_left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    writer.write(&conversations, 6, &mut take, &mut go_on).unwrap();
    assert!(given < 24, "{given}");
}
