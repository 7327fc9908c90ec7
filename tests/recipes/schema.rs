//! The schema and the documentation of a recipe's keys are what the code gives; every shipped recipe is valid under it.

use std::fs;
use std::path::Path;

use selfplay::recipe::{Purpose, json_schema, key_table, keys, load};
use selfplay_records::atomic;
use serde_json::{Value, json};

use super::shipped::files;
use crate::{SELFPLAY, root};

const REGENERATE: &str = "SELFPLAY_UPDATE=1 cargo test --release -p selfplay --test integration docs_";
const BEGIN: &str = "<!-- keys: begin. From the code; `SELFPLAY_UPDATE=1 cargo test --release -p selfplay --test integration docs_` writes them -->\n";
const END: &str = "<!-- keys: end -->\n";

/// Holds a file against what the code gives; with `SELFPLAY_UPDATE=1` writes it first.
fn assert_current(path: &Path, text: &str) {
    if std::env::var("SELFPLAY_UPDATE").is_ok_and(|value| value == "1") {
        atomic::write_bytes(path, text.as_bytes()).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let line = found.lines().zip(text.lines()).take_while(|(found, wanted)| found == wanted).count() + 1;
    assert!(
        found == text,
        "{} differs from the code from line {line} on; write it anew: {REGENERATE}",
        path.display()
    );
}

#[test]
fn docs_the_shipped_schema_is_the_code_s() {
    assert_current(&root().join("recipes/recipe.schema.json"), &json_schema());
}

#[test]
fn docs_the_key_table_is_the_code_s() {
    let path = root().join("docs/commands.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the marker before the keys");
    let (_, after) = rest.split_once(END).expect("the marker after the keys");
    assert_current(&path, &format!("{before}{BEGIN}\n{}\n{END}{after}", key_table()));
}

#[test]
fn the_command_prints_schema_and_table() {
    let world = crate::world();
    assert_eq!(world.selfplay(&["schema"]).ok().stdout, json_schema());
    assert_eq!(world.selfplay(&["schema", "--markdown"]).ok().stdout, key_table());
}

/// The contract's keys; a default that is absent is `-`.
const CONTRACT: [(&str, &str); 9] = [
    ("Top level", "name=- iterations=3 seed=42"),
    ("policy", "model=- dtype=- chat_template=-"),
    ("prompts", r#"splits=[] column="prompt" max_prompts=- on_bad_prompt="error""#),
    (
        "sample",
        r#"num_samples=5 temperature=0.7 top_p=0.9 top_k=0 min_p=0.0 max_new_tokens=2048 stop=[] shard_prompts=256
        backend="native""#,
    ),
    (
        "score",
        r#"kind="auto" model=- tau=- dtype="auto" max_length=4096 batch_tokens=16384 embeddings=false score_difference="paper""#,
    ),
    ("pair", r#"rule="best-worst" margin=0.0 min_tokens=- max_tokens=-"#),
    (
        "train",
        r#"loss="gpo" beta=0.001 target_clamp="off" label_smoothing=0.0 length_normalized=false sft_weight=0.0 simpo_gamma=0.5
        optimizer="rmsprop" rmsprop_alpha=0.99 epsilon=1e-8 momentum=0.0 centered=false adam_beta1=0.9 adam_beta2=0.999
        weight_decay=0.0 learning_rate=5e-7 lr_schedule="linear" warmup_ratio=0.1 epochs=1 schedule_epochs=- max_steps="off"
        batch_size=64 micro_batch_tokens=16384 max_grad_norm=1.0 max_length=1024 max_prompt_length=512 shuffle=true
        recompute="auto" checkpoint_every=200 save_initial_gradients=false lora.rank=- lora.alpha=- lora.dropout=-
        lora.target_modules=- lora.rslora=- lora.dora=- lora.init=- lora.modules_to_save=-
        lora.each_iteration="continue" lora.merge="last""#,
    ),
    ("eval", "prompts=- answers=- checker=- num_samples=1 temperature=0.0"),
    ("preference", r#"kind="gpm" dim=- prompt_head=- tau=-"#),
];

#[test]
fn the_contract_s_keys_and_defaults_are_in_the_table() {
    let table = key_table();
    for (section, keys) in CONTRACT {
        let heading = if section == "Top level" {
            "### Top level\n".to_owned()
        } else {
            format!("### `[{section}]`\n")
        };
        let rows = table.split_once(&heading).unwrap_or_else(|| panic!("no {heading}")).1;
        let rows = rows.split("\n### ").next().unwrap();
        for (key, default) in keys.split_whitespace().map(|one| one.split_once('=').unwrap()) {
            let start = format!("| `{key}` | ");
            let row = rows.lines().find_map(|line| line.strip_prefix(&start));
            let row = row.unwrap_or_else(|| panic!("[{section}] has no row for {key}"));
            if default == "-" {
                assert!(!row.starts_with('`') && !row.starts_with("| "), "{section}.{key}: {row}");
            } else {
                assert!(row.starts_with(&format!("`{default}` | ")), "{section}.{key}: {row}");
            }
        }
    }
    assert!(table.contains("### `[sft]`"), "{table}");
    let longest = table.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(140), "{longest:?}");
}

/// The parts of `value` that a schema forbids: the keywords that `json_schema` writes, and a panic at any other.
fn forbidden(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let number = |of: &Value| of.as_f64().unwrap();
    for (word, rule) in schema.as_object().unwrap() {
        let holds = match word.as_str() {
            "$schema" | "title" | "description" | "default" | "x-taplo" => true,
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                other => panic!("type {other}"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => !value.is_number() || number(value) >= number(rule),
            "maximum" => !value.is_number() || number(value) <= number(rule),
            "exclusiveMinimum" => !value.is_number() || number(value) > number(rule),
            "exclusiveMaximum" => !value.is_number() || number(value) < number(rule),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number(rule)),
            "anyOf" => rule.as_array().unwrap().iter().any(|one| forbidden(one, value, path).is_empty()),
            "$ref" => {
                let root = self::schema();
                let place = rule.as_str().unwrap().trim_start_matches('#');
                wrong.extend(forbidden(root.pointer(place).unwrap(), value, path));
                true
            }
            "items" => {
                for (place, one) in value.as_array().into_iter().flatten().enumerate() {
                    wrong.extend(forbidden(rule, one, &format!("{path}[{place}]")));
                }
                true
            }
            "properties" => {
                for (key, one) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        wrong.extend(forbidden(rule, one, &format!("{path}.{key}")));
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(rule, &json!(false));
                let known = schema["properties"].as_object().unwrap();
                value.as_object().is_none_or(|keys| keys.keys().all(|key| known.contains_key(key)))
            }
            other => panic!("{path}: the schema has a keyword that this test does not know: {other}"),
        };
        if !holds {
            wrong.push(format!("{path}: {word}"));
        }
    }
    wrong
}

fn schema() -> Value {
    serde_json::from_str(&json_schema()).unwrap()
}

fn forbidden_in(text: &str) -> Vec<String> {
    let table: toml::Table = toml::from_str(text).unwrap();
    forbidden(&schema(), &serde_json::to_value(table).unwrap(), "recipe")
}

#[test]
fn every_shipped_recipe_is_valid_under_the_schema_as_written_and_as_resolved() {
    let found = files(&root().join("recipes"));
    assert!(found.len() >= 12);
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(forbidden_in(&text), Vec::<String>::new(), "{}", path.display());
        if text.contains("[[chain]]") {
            continue;
        }
        // A recipe of a synthesis alone names no prompts and no preference model.
        let purpose = if text.contains("\n[prompts]") { Purpose::Reread } else { Purpose::Stage };
        let resolved = load(Some(&path), &[], purpose).unwrap().to_toml();
        assert_eq!(forbidden_in(&resolved), Vec::<String>::new(), "{} as resolved", path.display());
    }
}

#[test]
fn schema_and_reader_refuse_the_same() {
    let world = crate::world();
    for wrong in [
        "colour = 1",
        "iterations = \"many\"",
        "[train]\nbetta = 1",
        "[train]\nloss = \"gpoo\"",
        "[train]\nlearning_rate = -1",
        "[train]\nloss = \"dpo\"\nlabel_smoothing = 0.5",
        "[train]\nmax_steps = 0",
        "[train]\nmax_steps = \"of\"",
        "[train]\nlora = 1",
        "[train]\nlora.rnk = 1",
        "[sample]\ntop_p = 0",
        "[sample]\nmin_p = 1.5",
        "[sample]\nstop = [1.5]",
        "[sample]\nnum_samples = 0",
        "[sample]\nnum_samples = 2.5",
        "[score]\nmax_length = 1",
        "[score]\ndtype = \"f17\"",
        "[pair]\nmargin = -0.5",
        "[eval]\nnum_samples = 0",
        "[prompts]\ncolumn = \"\"",
        "[prompts]\nsplits = \"a.jsonl\"",
        "[preference]\nholdout = 1.0",
        "[preference]\nkind = \"auto\"",
        "[sft]\nepochs = 0",
        "[[chain]]\nname = \"a\"\ncommand = \"sft\"\n[chain.sft]\nepochs = 0",
        "[[chain]]\nname = \"a\"\ncommand = \"sftt\"",
    ] {
        assert!(!forbidden_in(wrong).is_empty(), "the schema lets {wrong:?} pass");
        world.write("wrong.toml", wrong);
        world.selfplay(&["check", "wrong.toml"]).refused(&["wrong.toml"]);
        let error = load(Some(&world.path("wrong.toml")), &[], Purpose::Stage).unwrap_err().to_string();
        assert!(error.contains("1 problem") || !error.contains("problems"), "{wrong:?}: {error}");
    }
    // What was refused already is not said to be absent as well.
    world.write("wrong.toml", "[eval]\nprompts = \"hf://x\"\nanswers = \"answer\"");
    let error = load(Some(&world.path("wrong.toml")), &[], Purpose::Stage).unwrap_err().to_string();
    assert!(error.contains("eval.prompts = hf://x") && !error.contains("absent"), "{error}");
    for right in [
        "[train]\nmax_steps = \"off\"\nschedule_epochs = \"auto\"\ntarget_clamp = 10",
        "[prompts]\nmax_prompts = \"all\"",
        "[sample]\nstop = [\"x\", 3]\ncache_mib = \"auto\"",
        "[policy]\ndtype = \"auto\"\nchat_template = \"none\"",
        "[preference]\nprompt_head = \"auto\"",
    ] {
        assert_eq!(forbidden_in(right), Vec::<String>::new(), "{right:?}");
        world.write("right.toml", right);
        load(Some(&world.path("right.toml")), &[], Purpose::Stage).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn every_section_and_key_of_a_resolved_recipe_is_in_the_schema() {
    let recipe = load(None, &[], Purpose::Stage).unwrap();
    for (section, value) in recipe.to_table() {
        let key = keys().iter().find(|key| key.name == section).unwrap_or_else(|| panic!("{section}"));
        for name in value.as_table().into_iter().flat_map(|table| table.keys()) {
            assert!(key.keys().iter().any(|key| key.name == *name), "{section}.{name}");
        }
    }
    let outcome = SELFPLAY.run(&root(), &["schema"]).ok();
    let printed: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(printed["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(printed["properties"]["train"]["properties"]["learning_rate"]["default"], json!(5e-7));
}
