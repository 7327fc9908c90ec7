//! Every shipped recipe is read, counted, and held to the settings that its name promises.

use std::fs;
use std::path::{Path, PathBuf};

use selfplay::recipe::{ModelSource, Purpose, Recipe, load, load_text};
use selfplay_scorer::{PreferenceKind, ScoreDifference};
use selfplay_trainer::{LossKind, OptimizerKind, ReferenceRule};

use crate::{SELFPLAY, root};

/// The chains among them.
const CHAINS: [&str; 8] = [
    "anima-33b-qlora-dpo",
    "ct-llm-sft-dpo",
    "gpm-gemma-2b",
    "gpm-llama-3.1-8b",
    "gpm-qwen3-0.6b",
    "laptop-preference-bt",
    "laptop-preference-gpm",
    "openbezoar-3b",
];

/// Those of a synthesis alone.
const SYNTHESES: [&str; 1] = ["quickstart-synthesize"];

/// The files in `recipes/`, the folders in it included, without the chains and those of a synthesis.
const RECIPES: [&str; 20] = [
    "comal-llama-3-8b-instruct-gpm-2b",
    "gpo-llama-3-8b-instruct-bt-2b",
    "gpo-llama-3-8b-instruct-gpm-2b",
    "gpo-llama-3-8b-instruct-gpm-2b-paper",
    "gpo-llama-3-8b-instruct-gpm-2b-qlora",
    "gpo-llama-3-8b-instruct-gpm-2b-reference",
    "gpo-llama-3-8b-instruct-gpm-8b",
    "gpo-qwen3-8b-gpm",
    "gprl-llama-3-8b-instruct-gpm-2b",
    "ln-gpo-llama-3-8b-instruct-gpm-2b",
    "mnpo-llama-3-8b-instruct-gpm-2b",
    "quickstart",
    "quickstart-gprl",
    "smollm2-135m",
    "sppo-gemma-2-9b-it-gpm-2b",
    "sppo-llama-3-8b-instruct-bt-2b",
    "sppo-llama-3-8b-instruct-gpm-2b",
    "sppo-llama-3-8b-instruct-gpm-2b-paper",
    "sppo-llama-3-8b-instruct-gpm-2b-reference",
    "sppo-mistral-7b-instruct-v0.2-gpm-2b",
];

fn recipe(name: &str) -> Recipe {
    load(Some(&root().join(format!("recipes/{name}.toml"))), &[], Purpose::Reread)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// All TOML files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|ending| ending == "toml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_recipe_is_read_and_counted() {
    let found = files(&root().join("recipes"));
    let mut names: Vec<String> =
        found.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(
        names,
        sorted(RECIPES.iter().chain(&CHAINS).chain(&SYNTHESES).map(|&name| name.to_owned()).collect())
    );
    for path in &found {
        let name = path.file_stem().unwrap().to_string_lossy();
        if CHAINS.contains(&name.as_ref()) {
            let table: toml::Table = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            assert_eq!(table["name"].as_str(), Some(name.as_ref()));
            continue;
        }
        if SYNTHESES.contains(&name.as_ref()) {
            let recipe = load(Some(path), &[], Purpose::Stage).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(recipe.name, name);
            assert!(recipe.synthesize.is_some(), "{name}");
            continue;
        }
        let recipe = load(Some(path), &[], Purpose::Reread).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(recipe.name, path.file_stem().unwrap().to_string_lossy(), "{}", path.display());
        let iterations = if recipe.name.starts_with("comal") { 24 } else { 3 };
        assert_eq!(recipe.iterations, iterations, "{}", path.display());
        assert!(recipe.prompts.splits.len() >= iterations, "{}", path.display());
    }
}

#[test]
fn every_recipe_opens_with_purpose_needs_launch_and_override() {
    for path in files(&root().join("recipes")) {
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        // What editors read; the head is for people.
        assert_eq!(lines.next(), Some("#:schema recipe.schema.json"), "{}", path.display());
        let header: Vec<&str> = lines.take_while(|line| line.starts_with('#')).collect();
        let has = |words: &str| header.iter().any(|line| line.contains(words));
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(header.len() >= 3, "{name}: purpose, needs, launch command, override");
        assert!(has("Needs"), "{name}: needs");
        assert!(has(&format!("recipes/{name}")), "{name}: launch command");
        assert!(has("--set "), "{name}: one override");
    }
}

#[test]
fn the_binary_finds_them_valid_without_network() {
    let mut arguments = vec!["check".to_owned()];
    arguments
        .extend(RECIPES.iter().chain(&CHAINS).chain(&SYNTHESES).map(|name| format!("recipes/{name}.toml")));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = SELFPLAY.run(&root(), &arguments).ok();
    let count = RECIPES.len() + CHAINS.len() + SYNTHESES.len();
    assert_eq!(outcome.stdout.matches(": ok, ").count(), count, "{}", outcome.stdout);
    assert_eq!(outcome.stdout.matches(": ok, a chain of ").count(), CHAINS.len(), "{}", outcome.stdout);
    assert_eq!(
        outcome.stdout.matches(": ok, a synthesis by ").count(),
        SYNTHESES.len(),
        "{}",
        outcome.stdout
    );
}

#[test]
fn the_card_s_settings_are_there() {
    for (name, loss) in [
        ("gpo-llama-3-8b-instruct-gpm-2b", LossKind::Gpo),
        ("sppo-llama-3-8b-instruct-gpm-2b", LossKind::Sppo),
    ] {
        let recipe = recipe(name);
        let train = &recipe.train;
        assert_eq!(train.loss, loss);
        assert_eq!((train.schedule_epochs, train.epochs), (Some(6), 1));
        assert_eq!((train.learning_rate, train.beta, train.batch_size), (5e-7, 0.001, 64));
        assert_eq!(
            (train.optimizer, train.rmsprop_alpha, train.epsilon),
            (OptimizerKind::RmsProp, 0.99, 1e-8)
        );
        assert_eq!((train.max_length, train.max_prompt_length, train.max_grad_norm), (1024, 512, 1.0));
        assert_eq!((train.warmup_ratio, train.target_clamp), (0.1, None));
        assert_eq!(
            (recipe.sample.num_samples, recipe.sample.temperature, recipe.sample.top_p),
            (5, 0.7, 0.9)
        );
        assert_eq!((recipe.sample.max_new_tokens, recipe.seed), (2048, 42));
        assert_eq!(recipe.score.settings.score_difference, ScoreDifference::Paper);
        assert_eq!(recipe.to_table()["score"]["tau"].as_float(), Some(0.1));
        let gpm = ModelSource::Hub { id: "general-preference/GPM-Gemma-2B".into(), revision: None };
        assert_eq!(recipe.score.model, gpm);
    }
}

#[test]
fn reference_and_paper_differ_where_the_two_do() {
    for loss in ["gpo", "sppo"] {
        let card = recipe(&format!("{loss}-llama-3-8b-instruct-gpm-2b"));
        let reference = recipe(&format!("{loss}-llama-3-8b-instruct-gpm-2b-reference"));
        let paper = recipe(&format!("{loss}-llama-3-8b-instruct-gpm-2b-paper"));
        let mut keys = vec!["name", "score.score_difference"];
        if loss == "gpo" {
            keys.push("train.target_clamp");
            assert_eq!(reference.train.target_clamp, Some(1000.0));
        }
        assert_eq!(sorted(card.differing_keys(&reference)), keys);
        assert_eq!(reference.score.settings.score_difference, ScoreDifference::Reference);
        let keys = ["name", "sample.temperature", "sample.top_p", "train.schedule_epochs"];
        assert_eq!(sorted(card.differing_keys(&paper)), keys);
        assert_eq!((paper.sample.temperature, paper.sample.top_p), (1.0, 1.0));
    }
}

#[test]
fn other_preference_models_and_policies_change_nothing_else() {
    for loss in ["gpo", "sppo"] {
        let gpm = recipe(&format!("{loss}-llama-3-8b-instruct-gpm-2b"));
        let bt = recipe(&format!("{loss}-llama-3-8b-instruct-bt-2b"));
        assert_eq!(bt.score.settings.kind.name(), PreferenceKind::BradleyTerry);
        assert_eq!(bt.to_table()["score"]["tau"].as_float(), Some(1.0));
        assert_eq!(sorted(gpm.differing_keys(&bt)), ["name", "score.kind", "score.model", "score.tau"]);
    }
    let large = recipe("gpo-llama-3-8b-instruct-gpm-8b");
    let keys = large.differing_keys(&recipe("gpo-llama-3-8b-instruct-gpm-2b"));
    assert_eq!(sorted(keys), ["name", "score.model"]);
    let per_token = recipe("ln-gpo-llama-3-8b-instruct-gpm-2b");
    let keys = per_token.differing_keys(&recipe("gpo-llama-3-8b-instruct-gpm-2b"));
    assert_eq!(sorted(keys), ["name", "train.loss"]);
    for (name, model) in [
        ("sppo-mistral-7b-instruct-v0.2-gpm-2b", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("sppo-gemma-2-9b-it-gpm-2b", "google/gemma-2-9b-it"),
    ] {
        let recipe = recipe(name);
        assert_eq!(recipe.policy.model.to_string(), model);
        assert_eq!(recipe.train.loss, LossKind::Sppo);
    }
}

#[test]
fn four_bits_and_another_policy_change_nothing_else() {
    let card = recipe("gpo-llama-3-8b-instruct-gpm-2b");
    let qlora = recipe("gpo-llama-3-8b-instruct-gpm-2b-qlora");
    let mut keys = sorted(card.differing_keys(&qlora));
    keys.retain(|key| !key.starts_with("train.lora."));
    assert_eq!(keys, ["name", "policy.quantize", "train.learning_rate", "train.micro_batch_tokens"]);
    let qwen = recipe("gpo-qwen3-8b-gpm");
    let keys = sorted(recipe("gpo-llama-3-8b-instruct-gpm-8b").differing_keys(&qwen));
    assert_eq!(keys, ["name", "policy.chat_template", "policy.model"]);
}

#[test]
fn several_policies_are_read_as_published() {
    let comal = recipe("comal-llama-3-8b-instruct-gpm-2b").train;
    assert_eq!(
        (comal.loss, comal.eta, comal.reference),
        (LossKind::Inpo, Some(0.002), ReferenceRule::Every(12))
    );
    assert!((comal.rho.unwrap() - 1.0 / 3.0).abs() < 1e-6 && comal.history.is_none());
    let mnpo = recipe("mnpo-llama-3-8b-instruct-gpm-2b").train;
    assert_eq!((mnpo.loss, mnpo.eta, mnpo.history), (LossKind::Inpo, Some(0.0075), Some(2)));
    assert_eq!((mnpo.learning_rate, mnpo.history_weights), (5e-7, None));
    let text = recipe("comal-llama-3-8b-instruct-gpm-2b").to_toml();
    assert!(text.contains("reference = \"every-12\""), "{text}");
}

#[test]
fn groups_differ_from_pairs_where_they_must() {
    let (pairs, groups) = (recipe("quickstart"), recipe("quickstart-gprl"));
    let keys = sorted(pairs.differing_keys(&groups));
    let want = ["clip", "drift_threshold", "kl_weight", "loss"].map(|key| format!("train.{key}"));
    let mut want: Vec<String> = want.into_iter().chain(["name".into(), "score.advantages".into()]).collect();
    want.extend(["train.beta".into(), "train.max_prompt_length".into()]);
    assert_eq!(keys, sorted(want));
    let train = recipe("gprl-llama-3-8b-instruct-gpm-2b").train;
    assert_eq!((train.loss, train.epochs, train.clip_range()), (LossKind::Gprl, 3, (0.2, 0.2)));
}

#[test]
fn a_resolved_recipe_means_the_same() {
    for name in RECIPES {
        let recipe = recipe(name);
        let text = recipe.to_toml();
        let again = load_text(&text, "again", None, "other", &[], Purpose::Reread)
            .unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        assert_eq!(recipe.differing_keys(&again), Vec::<String>::new(), "{name}");
        assert_eq!(again.to_toml(), text);
        // Every key is written out, so that a later version's defaults don't change an old run.
        for key in ["rmsprop_alpha", "shard_prompts", "keep_checkpoints", "max_prompts", "on_bad_prompt"] {
            assert!(text.contains(key), "{name}: {key}");
        }
    }
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}
