//! `selfplay sft` over data sets.

use serde_json::{Value, json};

use super::write_rows;

const QUICK: [&str; 4] = ["--set", "sft.warmup_ratio=0", "--set", "sft.learning_rate=1e-3"];

/// Rows of an alpaca file: `a <word>` is answered by a word.
fn alpaca(count: usize) -> Vec<Value> {
    (0..count)
        .map(|i| {
            let (input, output) = (["b", "c", "d"][i % 3], ["e", "f"][i % 2]);
            json!({"instruction": "a", "input": input, "output": output})
        })
        .collect()
}

#[test]
fn a_recipe_mixes_data_sets_by_layout_columns_and_weight() {
    let world = crate::world();
    write_rows(&world, "alpaca.jsonl", &alpaca(6));
    let named: Vec<Value> = (0..18).map(|i| json!({"frage": "g", "antwort": "h", "n": i})).collect();
    world.write("named.json", &Value::from(named).to_string());
    world.write(
        "recipe.toml",
        "[policy]\nmodel = \"policy\"\n[sft]\nbatch_size = 4\nwarmup_ratio = 0\n\
         data = [{path = \"alpaca.jsonl\", layout = \"alpaca\", weight = 1}, {path = \"named.json\", weight = 1,\n\
         columns = {prompt = \"frage\", response = \"antwort\"}, max_rows = 4}]\n",
    );
    let said = world.selfplay(&["sft", "--recipe", "recipe.toml", "--output", "out"]).ok();
    for words in [
        "alpaca.jsonl: 6 rows (alpaca), 6 instructions",
        "named.json: 4 rows (prompt-response), 4 instructions",
        "10 examples",
    ] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    // Five of each: ten examples in batches of four.
    assert_eq!(world.rows("out/metrics.jsonl").len(), 3);
    let report = world.json("out/data.json");
    assert_eq!((&report[0]["rows"], &report[1]["layouts"][0]), (&json!(6), &json!("prompt-response")));
    world.selfplay(&["sft", "--recipe", "recipe.toml", "--output", "out", "--force"]).ok();
}

#[test]
fn oddities_are_shown_by_kind_and_kept_in_data_json() {
    let world = crate::world();
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let rows = [
        json!({"conversations": [turn("human", "a"), turn("gpt", "b"), turn("human", "c")]}),
        json!({"conversations": [turn("human", "a"), turn("gpt", "")]}),
        json!({"conversations": [turn("human", "a")]}),
        json!({"conversations": [turn("human", "a"), turn("gpt", " ")]}),
    ];
    write_rows(&world, "data.jsonl", &rows);
    let sft = ["sft", "--model", "policy", "--data", "data.jsonl", "--output", "out"];
    let said = world.selfplay(&[&sft[..], &QUICK].concat()).ok();
    for words in [
        "data.jsonl: 4 rows (sharegpt), 1 instructions",
        "left out 2 where a reply is empty (first row 1), 1 where there is no turn of the assistant",
        "kept 1 where turns after the reply were taken off (first row 0)",
    ] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    let odd = &world.json("out/data.json")[0]["oddities"];
    assert_eq!(
        odd,
        &json!({"empty_reply": {"rows": 2, "first_row": 1}, "no_reply": {"rows": 1, "first_row": 2},
        "later_turns": {"rows": 1, "first_row": 0}})
    );
}

#[test]
fn wrong_data_is_refused_by_file_row_and_key() {
    let world = crate::world();
    let good = alpaca(1).remove(0);
    let sft = |rows: &[Value], more: &[&str], words: &[&str]| {
        write_rows(&world, "data.jsonl", rows);
        let line = ["sft", "--model", "policy", "--data", "data.jsonl", "--output", "out"];
        world.selfplay(&[&line[..], more].concat()).refused(words);
        assert!(!world.path("out.parts").exists());
    };
    let named = ["--layout", "sharegpt"];
    sft(
        std::slice::from_ref(&good),
        &named,
        &["data.jsonl", "row 0", "\"conversations\"", "an array of messages"],
    );
    sft(
        &[good.clone(), json!({"instruction": "a", "output": 3})],
        &[],
        &["data.jsonl", "row 1", "\"output\"", "a string", "3"],
    );
    sft(&[good.clone(), json!({"text": "a"})], &[], &["data.jsonl", "row 1", "only [text]"]);
    sft(std::slice::from_ref(&good), &["--layout", "alpca"], &["--layout alpca", "one of ids, messages"]);
    sft(
        std::slice::from_ref(&good),
        &["--columns", "promt=a"],
        &["--columns promt=a", "a field of the layout"],
    );
    let twice = ["--columns", "output=a,output=b"];
    sft(std::slice::from_ref(&good), &twice, &["--columns output=b", "one is wanted"]);
    let held_out = ["--set", "sft.val_split=0.5", "--set", "sft.early_stop=1"];
    sft(std::slice::from_ref(&good), &held_out, &["data.jsonl", "val_split = 0.5", "two examples"]);
    sft(std::slice::from_ref(&good), &["--columns", "prompt"], &["--columns prompt", "FIELD=COLUMN"]);
    sft(
        std::slice::from_ref(&good),
        &["--columns", "prompt=frage"],
        &["row 0", "\"frage\"", "only [instruction, input, output]"],
    );
    let both = json!({"instruction": "a", "output": "b", "prompt": "c", "response": "d"});
    sft(&[both], &[], &["row 0", "\"alpaca\" and \"prompt-response\""]);
    let pair = json!({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"});
    sft(&[pair], &[], &["row 0", "layout = \"chosen\""]);
    world.selfplay(&["sft", "--model", "policy", "--output", "out"]).refused(&["--data", "sft.data"]);
    let absent = ["sft", "--model", "policy", "--data", "absent.jsonl", "--output", "out"];
    world.selfplay(&absent).refused(&["absent.jsonl"]);
    let weights = "[{path = \"a\", weight = 1}, \"b\"]";
    for (key, value, words) in [
        ("sft.data", weights, ["sft.data[1].weight", "absent"]),
        ("sft.data", "[{path = \"a\", wieght = 1}]", ["sft.data", "wieght"]),
        ("sft.data", "\"a.jsonl\"", ["sft.data", "a list is wanted"]),
        ("train.data", "[{path = \"a\", layout = \"dolly\"}]", ["train.data[0].layout", "transcripts"]),
        ("sft.early_stop", "3", ["sft.early_stop", "val_split"]),
        ("sft.loss_tokens", "\"prompt\"", ["sft.loss_tokens", "responses, all"]),
    ] {
        let set = format!("{key}={value}");
        world.selfplay(&["sft", "--model", "policy", "--output", "out", "--set", &set]).refused(&words);
    }
    // A run makes its pairs itself.
    world
        .selfplay(&["check", "recipe.toml", "--set", "train.data=[\"pairs.jsonl\"]"])
        .refused(&["train.data", "itself"]);
}

#[test]
fn val_split_packing_and_all_tokens_are_keys_and_a_training_resumes_with_them() {
    let world = crate::world();
    write_rows(&world, "data.jsonl", &alpaca(24));
    let keys = [
        "--set",
        "sft.val_split=0.25",
        "--set",
        "sft.val_every=2",
        "--set",
        "sft.batch_size=2",
        "--set",
        "sft.packing=true",
        "--set",
        "sft.max_length=16",
        "--set",
        "sft.loss_tokens=all",
        "--set",
        "sft.epochs=2",
        "--set",
        "sft.checkpoint_every=2",
    ];
    let line = |output: &'static str| {
        [&["sft", "--model", "policy", "--data", "data.jsonl", "--output", output][..], &QUICK, &keys]
            .concat()
    };
    let said = world.selfplay(&line("whole")).ok();
    let steps = world.rows("whole/metrics.jsonl");
    // 18 examples of 6 tokens or so, two to a sequence, two sequences to a batch.
    assert!(steps.len() < 18 && said.stderr.contains("18 examples"), "{}: {}", steps.len(), said.stderr);
    for line in &steps {
        let step = line["step"].as_u64().unwrap();
        let wanted = step.is_multiple_of(2) || step as usize == steps.len();
        assert_eq!(line["val_loss"].is_number(), wanted, "{line}");
        assert_eq!(line.get("val_loss").is_some(), wanted, "{line}");
    }
    // Killed in the middle of its files; the same command goes on to the same bytes.
    world.faulty("kill:40", &line("parts")).killed();
    world.selfplay(&line("parts")).ok();
    assert_eq!(world.bytes("parts/policy/model.safetensors"), world.bytes("whole/policy/model.safetensors"));
    let losses = |name: &str| -> Vec<Value> {
        world.rows(name).into_iter().map(|line| json!([line["loss"], line["val_loss"]])).collect()
    };
    assert_eq!(losses("parts/metrics.jsonl"), losses("whole/metrics.jsonl"));
}

#[test]
fn a_shipped_template_is_data_that_stays_with_the_policy() {
    let world = crate::world();
    let row = |messages: Value| json!({"messages": messages, "add_generation_prompt": true});
    let user = json!({"role": "user", "content": "a"});
    write_rows(
        &world,
        "texts.jsonl",
        &[row(json!([user])), row(json!([user, {"role": "input", "content": "b"}]))],
    );
    let tokenize = ["tokenize", "--model", "policy", "--input", "texts.jsonl", "--output", "ids.jsonl"];
    world.selfplay(&[&tokenize[..], &["--chat-template", "alpaca"]].concat()).ok();
    let rendered = world.rows("ids.jsonl");
    let text = |row: usize| rendered[row]["rendered"].as_str().unwrap().to_owned();
    assert!(text(0).ends_with("request.\n\n### Instruction:\na\n\n### Response:\n"), "{}", text(0));
    assert!(text(1).ends_with("### Instruction:\na\n\n### Input:\nb\n\n### Response:\n"), "{}", text(1));
    world
        .selfplay(&[&tokenize[..], &["--chat-template", "alpacca", "--force"]].concat())
        .refused(&["alpacca"]);

    write_rows(&world, "data.jsonl", &alpaca(4));
    let sft =
        ["sft", "--model", "policy", "--data", "data.jsonl", "--output", "out", "--layout", "alpaca-input"];
    let keys = ["--set", "policy.chat_template=openbezoar", "--set", "sft.end_token=false"];
    // OpenBezoar's has no section for an input.
    world.selfplay(&[&sft[..], &keys].concat()).refused(&["data.jsonl: row 0", "openbezoar", "input"]);
    let keys = ["--set", "policy.chat_template=alpaca", "--set", "sft.end_token=false"];
    world.selfplay(&[&sft[..], &keys, &QUICK].concat()).ok();
    let config = world.json("out/policy/tokenizer_config.json");
    let jinja = world.path("out/policy/chat_template.jinja");
    let kept =
        config["chat_template"].as_str().map(str::to_owned).or_else(|| std::fs::read_to_string(jinja).ok());
    assert!(kept.is_some_and(|template| template.contains("### Response:")), "{config}");
    world
        .selfplay(&[
            "sft",
            "--model",
            "policy",
            "--data",
            "data.jsonl",
            "--output",
            "x",
            "--set",
            "policy.chat_template=alpacca",
        ])
        .refused(&["policy.chat_template", "alpacca", "alpaca, openbezoar"]);
}
