//! A companion draws candidates, judges and writes for a synthesis: a shell script that speaks its protocol; and `selfplay-mistralrs` itself
//! where `SELFPLAY_MISTRALRS` names the program that was built.

use std::collections::BTreeMap;
use std::fs;

use selfplay_records::{Candidates, FinishReason, read_rows};
use selfplay_testing::{Outcome, World};
use serde_json::json;

use crate::{root, world};

/// A script that answers from files of `answers`: the next line of the one that is named by the prompt's ids, or `text` to every conversation.
fn write_script(world: &World, text: &str) {
    let script = format!(
        r#"echo "$@" >> starts
echo '{{"ready": {{"protocol": 1}}}}'
while IFS= read -r line; do
  id=${{line#*\"id\":}}; id=${{id%%[,\}}]*}}
  case $line in
  *'"path":"models"'*) printf '{{"id":%s,"answer":{{"data":[{{"id":"tiny"}}]}}}}\n' "$id";;
  *'"path":"completions"'*)
    key=${{line#*\"prompt\":[}}; key=${{key%%]*}}
    n=$(cat "answers/$key.next" 2>/dev/null || echo 1)
    echo $((n + 1)) > "answers/$key.next"
    printf '{{"id":%s,"answer":%s}}\n' "$id" "$(sed -n "${{n}}p" "answers/$key")";;
  *) printf '%s\n' "$line" >> chats
     printf '{{"id":%s,"answer":{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":2}}}}}}\n' "$id";;
  esac
done
"#
    );
    world.write("companion.sh", &script);
}

/// What our own sampler drew, as the companion's answers; with its log-probs moved by `shift`.
fn write_answers(world: &World, shift: f64) -> Vec<Candidates> {
    let native: Vec<Candidates> = read_rows(&world.path("native.jsonl")).unwrap();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for row in &native {
        let ids: Vec<String> = row.prompt.prompt_ids.iter().flatten().map(u32::to_string).collect();
        let file = files.entry(ids.join(",")).or_default();
        for response in &row.responses {
            let finish = if response.finish_reason == Some(FinishReason::Stop) { "stop" } else { "length" };
            let log_probs: Vec<f64> =
                response.logprobs.iter().flatten().map(|value| f64::from(*value) + shift).collect();
            let choice = json!({"text": response.text, "token_ids": response.ids, "finish_reason": finish,
                                "logprobs": {"token_logprobs": log_probs}});
            file.push_str(&format!("{}\n", json!({"choices": [choice]})));
        }
    }
    let _ = fs::remove_dir_all(world.path("answers"));
    fs::create_dir(world.path("answers")).unwrap();
    for (key, lines) in files {
        world.write(&format!("answers/{key}"), &lines);
    }
    native
}

fn sample(world: &World, output: &str, more: &[&str]) -> Outcome {
    let set =
        ["--recipe", "recipe.toml", "--set", "sample.backend=mistralrs", "--set", "sample.concurrency=1"];
    let companion = ["--set", "sample.companion=[\"sh\", \"companion.sh\"]"];
    world.sample("prompts.jsonl", output, &[&set[..], &companion, more].concat())
}

#[test]
fn a_companion_s_ids_become_candidates_with_our_log_probs_and_another_model_is_refused() {
    let world = world();
    world.sample("prompts.jsonl", "native.jsonl", &["--recipe", "recipe.toml"]).ok();
    write_script(&world, "");
    let native = write_answers(&world, 0.01);
    sample(&world, "drawn.jsonl", &[]).ok();
    let drawn: Vec<Candidates> = read_rows(&world.path("drawn.jsonl")).unwrap();
    for (ours, theirs) in native.iter().zip(&drawn) {
        for (ours, theirs) in ours.responses.iter().zip(&theirs.responses) {
            assert_eq!(
                (&ours.ids, &ours.text, ours.finish_reason),
                (&theirs.ids, &theirs.text, theirs.finish_reason)
            );
            let (a, b) = (ours.logprobs.as_ref().unwrap(), theirs.logprobs.as_ref().unwrap());
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?} {b:?}");
        }
    }
    // Once, with the policy.
    let starts = String::from_utf8(world.bytes("starts")).unwrap();
    assert!(starts.lines().count() == 1 && starts.trim_end().ends_with("policy"), "{starts}");

    write_answers(&world, -1.0);
    sample(&world, "x.jsonl", &[]).refused(&["is not this policy", "sample.log_prob_tolerance"]);
    write_answers(&world, -1.0);
    sample(&world, "y.jsonl", &["--set", "sample.log_prob_tolerance=2"]).ok();
    sample(&world, "z.jsonl", &["--set", "sample.companion=[\"no-such-companion\"]"])
        .refused(&["sample.companion", "no such program in PATH"]);
    let random = ["sample", "--model", "random:policy", "--prompts", "prompts.jsonl", "--output", "r.jsonl"];
    world
        .selfplay(&[&random[..], &["--set", "sample.backend=mistralrs"]].concat())
        .refused(&["runs a whole model"]);
}

#[test]
fn a_companion_judges_and_each_question_is_asked_once() {
    let world = world();
    let row = |number: usize| {
        let responses: Vec<_> = ["c", "c d", "c d e"].map(|text| json!({"text": text})).to_vec();
        json!({"prompt_id": number.to_string(), "prompt": format!("a b {number}"), "responses": responses})
    };
    let rows: String = (0..4).map(|number| format!("{}\n", row(number))).collect();
    world.write("candidates.jsonl", &rows);
    write_script(&world, "The first one. [[A]]");
    let line = |output, more: &[&'static str]| {
        let set = [
            "score.kind=judge",
            "score.model=policy",
            "score.verdict=text",
            "score.companion=[\"sh\", \"companion.sh\"]",
        ];
        let mut line = vec!["score", "--candidates", "candidates.jsonl", "--output", output];
        for one in set.iter().chain(more) {
            line.extend(["--set", one]);
        }
        world.selfplay(&line)
    };
    line("preferences.jsonl", &[]).ok();
    // Whoever stands first wins both ways: a tie.
    for row in world.rows("preferences.jsonl") {
        assert_eq!(row["scores"], json!([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), "{row}");
    }
    assert_eq!(world.rows("chats").len(), 4 * 6);
    let starts = String::from_utf8(world.bytes("starts")).unwrap();
    assert!(starts.trim_end().ends_with("policy") && starts.contains("--model /"), "{starts}");
    line("x.jsonl", &["score.endpoint=http://127.0.0.1:1/v1"])
        .refused(&["score.endpoint", "takes the endpoint's place"]);
    line("x.jsonl", &["score.kind=remote"]).refused(&["score.companion"]);
}

#[test]
fn a_companion_writes_for_a_synthesis() {
    let world = world();
    write_script(&world, "Rivers flow.");
    world.write(
        "s.toml",
        "name = \"s\"\nseed = 3\n[policy]\nmodel = \"policy\"\n\
         [synthesize]\nmethod = \"explanations\"\nseeds = \"prompts.jsonl\"\n\
         [synthesize.generator]\nbackend = \"mistralrs\"\ncompanion = [\"sh\", \"companion.sh\"]\n",
    );
    world.selfplay(&["synthesize", "--recipe", "s.toml", "-o", "out"]).ok();
    let rows = world.rows("out/instructions.jsonl");
    assert!(!rows.is_empty());
    assert!(rows.iter().all(|row| row.to_string().contains("Rivers flow.")), "{rows:?}");
    let asked = world.rows("chats").len();
    assert!((rows.len()..=12).contains(&asked), "{asked}");
    let missing =
        ["synthesize", "--recipe", "s.toml", "-o", "x", "--set", "synthesize.generator.model=/no/such.gguf"];
    world.selfplay(&missing).refused(&["synthesize.generator.model", "no such file or folder"]);
}

/// The program of `companions/mistralrs`, where this machine has built it.
fn built_companion() -> Option<String> {
    let Some(program) = std::env::var_os("SELFPLAY_MISTRALRS") else {
        eprintln!("skipped: SELFPLAY_MISTRALRS does not name a built selfplay-mistralrs");
        return None;
    };
    let program = fs::canonicalize(&program).unwrap_or_else(|error| panic!("{program:?}: {error}"));
    Some(program.to_str().unwrap().to_owned())
}

#[test]
fn the_companion_for_mistral_rs_draws_judges_and_writes_where_it_is_built() {
    let Some(program) = built_companion() else { return };
    let world = world();
    let (model, tasks) =
        (root().join("recipes/quickstart/policy"), root().join("recipes/quickstart/prompts"));
    let tasks = fs::read_to_string(tasks.join("held_out.jsonl")).unwrap();
    world.write("tasks.jsonl", &tasks.lines().take(4).map(|line| format!("{line}\n")).collect::<String>());
    let companion = |key: &str| format!("{key}={}", json!([program]));
    let draw = |output: &str, concurrency: &str| {
        let mut line = vec![
            "sample",
            "--prompts",
            "tasks.jsonl",
            "--output",
            output,
            "--model",
            model.to_str().unwrap(),
        ];
        let (of_sample, at_a_time) =
            (companion("sample.companion"), format!("sample.concurrency={concurrency}"));
        let sets = [
            "sample.backend=mistralrs",
            "sample.temperature=1.0",
            "sample.max_new_tokens=12",
            &of_sample,
            &at_a_time,
        ];
        sets.iter().for_each(|set| line.extend(["--set", set]));
        world.selfplay(&line).ok();
        world.bytes(output)
    };
    // Its log-probs are ours, or the command would have refused it as another model. Its draws follow from their seeds, whoever else asks.
    let drawn = draw("drawn.jsonl", "8");
    assert_eq!(draw("again.jsonl", "1"), drawn);
    let rows: Vec<Candidates> = read_rows(&world.path("drawn.jsonl")).unwrap();
    let ids = rows.iter().flat_map(|row| &row.responses).map(|one| one.ids.as_deref().unwrap_or_default());
    assert!(rows.len() == 4 && ids.clone().all(|ids| !ids.is_empty()));
    assert!(ids.collect::<std::collections::BTreeSet<_>>().len() > 4, "draws differ");
    // As a judge. The model has 256 positions, too few for our own rubric.
    world.write("rubric.jinja", "{{ prompt }} {{ response_a }} or {{ response_b }}?");
    let of_model = format!("score.model={}", model.display());
    let mut line = vec!["score", "--candidates", "drawn.jsonl", "--output", "preferences.jsonl"];
    let of_score = companion("score.companion");
    let sets = [
        "score.kind=judge",
        "score.template=rubric.jinja",
        "score.verdict=text",
        "score.verdict_tokens=4",
        &of_model,
        &of_score,
    ];
    sets.iter().for_each(|set| line.extend(["--set", set]));
    world.selfplay(&line).ok();
    assert_eq!(world.rows("preferences.jsonl").len(), 4);
    // As the generator of a synthesis.
    let recipe = format!(
        "name = \"s\"\nseed = 3\n[policy]\nmodel = {}\n[synthesize]\nmethod = \"reference-answers\"\nseeds = \"tasks.jsonl\"\n\
         [synthesize.generator]\nbackend = \"mistralrs\"\ncompanion = {}\ntemperature = 1.0\nmax_new_tokens = 12\n\
         [synthesize.filter]\nduplicate_similarity = 1.0\n",
        json!(model),
        json!([program])
    );
    world.write("s.toml", &recipe);
    world.selfplay(&["synthesize", "--recipe", "s.toml", "-o", "out"]).ok();
    assert_eq!(world.json("out/counts.json")["made"], 4);
}
