//! A judge of ours: each rank asks its own, and one log of answers is one rank's.

use super::{Launch, ON_FIRST, reference, same_as};

/// Short responses, and a question of nothing else, so that questions come again and again.
const JUDGED: [&str; 16] = [
    "--set",
    "sample.num_samples=6",
    "--set",
    "sample.max_new_tokens=2",
    "--set",
    "sample.shard_prompts=2",
    "--set",
    "score.kind=judge",
    "--set",
    "score.model=policy",
    "--set",
    "score.template=rubric.jinja",
    "--set",
    // A question a pass.
    "score.batch_tokens=8",
    "--set",
    "eval.num_samples=4",
];

#[test]
fn ranks_ask_a_judge_of_ours_and_get_the_answers_of_one() {
    let world = crate::run_world();
    world.write("rubric.jinja", "{{ response_a }} d {{ response_b }}");
    world.edit_json("policy/tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        for (from, to) in [("p", "A"), ("q", "B")] {
            let id = vocabulary.remove(from).unwrap();
            vocabulary.insert(to.to_owned(), id);
        }
    });
    let whole = reference(&world, &JUDGED);
    let line = [&["run", "recipe.toml", "-o", "three"], &JUDGED[..], &ON_FIRST].concat();
    Launch::of(&world, 3, &line).all_well();
    let run = world.path("three");
    same_as(&whole, &run);
    // The log reads, and nothing stands in it twice.
    let text = std::fs::read_to_string(run.join("answers.jsonl")).unwrap();
    let key = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].to_string();
    let keys: Vec<String> = text.lines().map(key).collect();
    let unique: std::collections::BTreeSet<&String> = keys.iter().collect();
    assert!(!keys.is_empty() && unique.len() == keys.len());
}
