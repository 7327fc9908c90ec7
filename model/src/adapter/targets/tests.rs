use selfplay_records::{HasKind, Kind};
use serde_json::json;

use super::*;

fn llama(tied: bool) -> Architecture {
    let config = json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": tied,
    });
    Architecture::from_json(&config, "config.json".as_ref()).unwrap()
}

fn names(names: &[&str]) -> TargetModules {
    TargetModules::Names(names.iter().map(|&name| name.to_owned()).collect())
}

fn paths(config: &AdapterConfig) -> Vec<String> {
    targets(config, &llama(true)).unwrap().into_iter().map(|target| target.path).collect()
}

fn of(target_modules: TargetModules) -> AdapterConfig {
    AdapterConfig { target_modules, ..AdapterConfig::default() }
}

#[test]
fn a_list_names_ends_of_paths_a_text_is_an_expression_for_all_of_one() {
    assert_eq!(paths(&of(TargetModules::all_linear())).len(), 21);
    assert_eq!(paths(&of(names(&["q_proj", "v_proj"]))).len(), 6);
    assert_eq!(paths(&of(names(&["model.layers.1.self_attn.q_proj"]))), ["model.layers.1.self_attn.q_proj"]);
    assert_eq!(paths(&of(names(&["lm_head"]))), ["lm_head"]);
    let pattern = |text: &str| of(TargetModules::Pattern(text.to_owned()));
    assert_eq!(paths(&pattern(r".*\.(q|k)_proj")).len(), 6);
    assert_eq!(paths(&pattern(r".*layers\.(?!0\.).*up_proj")).len(), 2);
    let config =
        AdapterConfig { exclude_modules: Some(names(&["o_proj"])), ..of(TargetModules::all_linear()) };
    assert_eq!(paths(&config).len(), 18);
    let config = AdapterConfig { modules_to_save: vec!["mlp".to_owned()], ..of(TargetModules::all_linear()) };
    assert_eq!(paths(&config).len(), 12);
    let config = AdapterConfig { layers: vec![2], ..of(names(&["q_proj"])) };
    assert_eq!(paths(&config), ["model.layers.2.self_attn.q_proj"]);
    // The whole path, and not a part of it.
    assert!(targets(&pattern("q_proj"), &llama(true)).is_err());
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    for wrong in [names(&["q_proj", "qkv_proj"]), TargetModules::Pattern("w1".to_owned())] {
        let error = targets(&of(wrong), &llama(false)).unwrap_err();
        assert!(error.kind() == Kind::Input);
        let told = error.to_string();
        assert!(
            told.contains("target_modules") && told.contains("down_proj, gate_proj, k_proj, lm_head"),
            "{told}"
        );
    }
    let told = targets(&of(names(&["embed_tokens"])), &llama(false)).unwrap_err().to_string();
    assert!(told.contains("modules_to_save"), "{told}");
    assert!(targets(&of(TargetModules::Pattern("(".to_owned())), &llama(false)).is_err());
}

#[test]
fn ranks_and_alphas_of_modules_follow_the_patterns() {
    let config = AdapterConfig {
        rank: 4,
        alpha: 8.0,
        rank_pattern: [("down_proj".to_owned(), 8), ("model.layers.1.self_attn.q_proj".to_owned(), 2)].into(),
        alpha_pattern: [("down_proj".to_owned(), 4.0), ("^model.layers.0.self_attn.k_proj".to_owned(), 24.0)]
            .into(),
        ..of(names(&["q_proj", "k_proj", "down_proj"]))
    };
    let found = targets(&config, &llama(false)).unwrap();
    let of = |path: &str| found.iter().find(|target| target.path == path).map(|t| (t.rank, t.scale)).unwrap();
    assert_eq!(of("model.layers.0.mlp.down_proj"), (8, 0.5));
    assert_eq!(of("model.layers.1.self_attn.q_proj"), (2, 4.0));
    assert_eq!(of("model.layers.0.self_attn.q_proj"), (4, 2.0));
    assert_eq!(of("model.layers.0.self_attn.k_proj"), (4, 6.0));
    assert_eq!(of("model.layers.1.self_attn.k_proj"), (4, 2.0));
}

#[test]
fn trained_numbers_are_those_of_factors_and_saved_modules() {
    let config = AdapterConfig { rank: 2, ..of(names(&["q_proj"])) };
    assert_eq!(config.trained_numbers(&llama(false)).unwrap(), 3 * 2 * (24 + 32));
    let config = AdapterConfig { dora: true, modules_to_save: vec!["lm_head".to_owned()], ..config };
    assert_eq!(config.trained_numbers(&llama(false)).unwrap(), 3 * (2 * (24 + 32) + 32) + 40 * 24);
}

#[test]
fn a_rank_that_no_memory_may_hold_is_refused() {
    let config = |rank: usize| AdapterConfig { rank, ..of(TargetModules::all_linear()) };
    for rank in [1, 64, ANY_RANK] {
        config(rank).check_start(AdapterStart::Default, &llama(true)).unwrap();
    }
    for rank in [ANY_RANK + 1, 100_000_000, usize::MAX / 2] {
        let error = config(rank).check_start(AdapterStart::Gaussian, &llama(true)).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("at most 1024"), "{error}");
        assert!(config(rank).trained_numbers(&llama(true)).is_err());
    }
}
