//! The crate from outside, on a tiny model: packing changes no score, files keep
//! their order, and every folder that is no preference model is refused with the place named.

use std::ops::ControlFlow;

use candle_core::{DType, Device};
use selfplay_records::{Candidates, HasKind, Kind, Preference, Problems, Prompt, Response, atomic};
use selfplay_scorer::{
    Advantages, Compared, ComparisonLengths, Contest, Footprint, KindSettings, PreferenceKind,
    PreferenceModel, ScoreDifference, ScoreError, ScoreKeys, ScoreSettings, Tokenization, load,
};
use selfplay_testing::json_file::edit_json;
use selfplay_testing::tiny_model::{Heads, TEMPLATE, TinyModel, safetensors_of};
use serde_json::json;
use tempfile::TempDir;

/// A folder with a preference model whose tokenizer begins every sequence with `<bos>`, as Llama's does.
fn folder(heads: Option<Heads>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    TinyModel { seed: 7, heads }.write(folder.path());
    edit_json(&folder.path().join("tokenizer.json"), |tokenizer| {
        let (bos, text) = (
            json!({"SpecialToken": {"id": "<bos>", "type_id": 0}}),
            json!({"Sequence": {"id": "A", "type_id": 0}}),
        );
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing", "single": [bos, text],
            "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [1], "tokens": ["<bos>"]}},
        });
    });
    folder
}

const GPM: Option<Heads> = heads(4, Some(2));

const fn heads(value: usize, prompt: Option<usize>) -> Option<Heads> {
    Some(Heads { value, prompt })
}

/// Removes a key of tokenizer_config.json.
fn remove(folder: &TempDir, key: &str) {
    edit_json(&folder.path().join("tokenizer_config.json"), |config| {
        config.as_object_mut().unwrap().remove(key).unwrap();
    });
}

fn row(prompt_id: &str, prompt: &str, texts: &[&str]) -> Candidates {
    let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
    Candidates {
        prompt: Prompt { prompt_id: prompt_id.into(), prompt: Some(prompt.into()), ..Prompt::default() },
        responses: texts.iter().map(response).collect(),
    }
}

fn rows() -> Vec<Candidates> {
    vec![
        row("a", "l a d", &["m d i", "k", "m d i j", "d k"]),
        row("b", "b e g j l f h", &["m e", "e k h m f i j"]),
        row("c", "f", &["a", "b", "a"]),
        row("d", "c d h", &["k"]),
    ]
}

fn settings(keys: &ScoreKeys) -> ScoreSettings {
    let mut problems = Problems::default();
    let settings = keys.resolve(&mut problems);
    assert!(problems.is_empty(), "{problems}");
    settings
}

fn open(folder: &TempDir, keys: &ScoreKeys) -> Box<dyn PreferenceModel> {
    load(folder.path(), &settings(keys), &Device::Cpu, None).unwrap()
}

fn refusal(folder: &TempDir, keys: &ScoreKeys) -> ScoreError {
    match load(folder.path(), &settings(keys), &Device::Cpu, None) {
        Ok(_) => panic!("the folder was taken for a preference model"),
        Err(error) => error,
    }
}

fn near(a: &Preference, b: &Preference) {
    for (x, y) in a.scores.iter().flatten().zip(b.scores.iter().flatten()) {
        assert!((x - y).abs() < 2e-5, "{x} {y}");
    }
}

#[test]
fn packing_changes_no_score() {
    let folder = folder(GPM);
    let keys = ScoreKeys { embeddings: Some(true), ..ScoreKeys::default() };
    let packed = open(&folder, &keys).compare_all(&rows()).unwrap();
    assert!(packed[0].scores[0][2].abs() > 1e-2, "a model that scores nothing shows nothing");
    for v in packed.iter().flat_map(|row| row.embeddings.as_ref().unwrap()) {
        let length: f64 = v.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((length - 1.0).abs() < 1e-6, "v has length 1");
    }
    // Batches that hold one sequence each: no prefix, no neighbour; and the rows the other way round.
    let small = open(&folder, &ScoreKeys { batch_tokens: Some(1), ..keys });
    let mut reversed = rows();
    reversed.reverse();
    let mut by_one = small.compare_all(&reversed).unwrap();
    by_one.reverse();
    for (a, b) in packed.iter().zip(&by_one) {
        assert_eq!(a.prompt_id, b.prompt_id);
        near(a, b);
    }
    // Two responses of a row without the others.
    for (row, packed) in rows().iter().zip(&packed) {
        for (i, j) in (0..row.responses.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let contest = Contest {
                prompt: row.prompt.clone(),
                first: row.responses[i].text.clone(),
                second: row.responses[j].text.clone(),
            };
            let p = small.win_probabilities(&[contest]).unwrap()[0];
            assert!((p - packed.probabilities[i][j]).abs() < 1e-5);
        }
    }
}

#[test]
fn a_stop_between_passes_gives_back_whole_rows_with_the_bits_of_all() {
    let folder = folder(GPM);
    let model = open(&folder, &ScoreKeys { batch_tokens: Some(1), ..ScoreKeys::default() });
    let rows = rows();
    let all = model.compare_all(&rows).unwrap();
    let mut asked = Vec::new();
    let mut going_on = |done: usize| {
        asked.push(done);
        ControlFlow::Continue(())
    };
    assert_eq!(model.compare(&rows, &mut going_on).unwrap(), Compared::All(all.clone()));
    // Nine different responses, each a pass of its own, and the end.
    assert_eq!(asked.len(), 9 + 1);
    assert_eq!((asked[0], asked[9]), (0, rows.len()));
    assert!(asked.is_sorted());
    for (stop_at, &compared) in asked.iter().enumerate() {
        let mut calls = 0;
        let mut stopping = |_| {
            calls += 1;
            if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match model.compare(&rows, &mut stopping).unwrap() {
            Compared::Stopped(front) => {
                assert!(stop_at < 9 && front.len() <= compared);
                assert_eq!(front[..], all[..front.len()]);
            }
            Compared::All(whole) => assert!(stop_at == 9 && whole == all),
        }
    }
}

#[test]
fn the_footprint_is_known_before_the_model_is_loaded() {
    let folder = folder(GPM);
    let loaded = open(&folder, &ScoreKeys::default()).footprint();
    let read = Footprint::of_folder(folder.path(), &KindSettings::default()).unwrap();
    assert_eq!((loaded.parameters, loaded.token_values), (read.parameters, read.token_values));
    // A value head of 4 rows and a prompt head of 2, 16 wide; of config.json alone they are not known.
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let backbone = Footprint::of_folder(folder.path(), &KindSettings::default()).unwrap();
    assert_eq!(read.parameters, backbone.parameters + (4 + 2) * 16);
    let read = backbone;
    assert_eq!(read.stored_dtype, Some(DType::F32));
    let comparison = ComparisonLengths { prompt: 7, response: 5, responses: 4.0 };
    assert_eq!(loaded.flops(comparison), read.flops(comparison));
    // Embedding and head 24 × 16; per layer q and o 16 × 16, k and v 8 × 16, three of 16 × 24, two norms; one norm.
    let parameters = 2 * 24 * 16 + 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24 + 2 * 16) + 16;
    assert_eq!(read.weight_bytes(DType::BF16, true), 2 * parameters);
}

#[test]
fn the_same_response_ties_exactly_and_k_may_differ() {
    let folder = folder(heads(4, None));
    let preferences = open(&folder, &ScoreKeys::default()).compare_all(&rows()).unwrap();
    let ids: Vec<&str> = preferences.iter().map(|p| p.prompt_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "d"]);
    let c = &preferences[2];
    assert_eq!((c.scores[0][2], c.probabilities[0][2]), (0.0, 0.5));
    assert_eq!(c.scores[0], c.scores[2]);
    assert_eq!(preferences[3].mean_probabilities, [0.5]);
    for preference in &preferences {
        assert_eq!(preference.embeddings, None);
        for (i, scores) in preference.scores.iter().enumerate() {
            for (j, s) in scores.iter().enumerate() {
                assert_eq!(s + preference.scores[j][i], 0.0);
                assert!((preference.probabilities[i][j] - 1.0 / (1.0 + (-s).exp())).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn tau_divides_and_the_reference_doubles() {
    let folder = folder(GPM);
    let paper = open(&folder, &ScoreKeys::default()).compare_all(&rows()).unwrap();
    let tau = |tau: f64| ScoreKeys { tau: Some(tau), ..ScoreKeys::default() };
    assert_eq!(open(&folder, &tau(0.1)).compare_all(&rows()).unwrap(), paper, "0.1 is a GPM's own τ");
    let other = open(&folder, &ScoreKeys { score_difference: ScoreDifference::Reference, ..tau(0.2) });
    // Twice s at twice τ.
    let compared = other.compare_all(&rows()).unwrap();
    compared.iter().zip(&paper).for_each(|(a, b)| near(a, b));
    // A win rate is of s itself.
    let first = &rows()[0];
    let contest = Contest {
        prompt: first.prompt.clone(),
        first: first.responses[0].text.clone(),
        second: first.responses[1].text.clone(),
    };
    let p = other.win_probabilities(&[contest]).unwrap()[0];
    assert!((p - 1.0 / (1.0 + (-0.5 * paper[0].scores[0][1]).exp())).abs() < 1e-5);
}

#[test]
fn bradley_terry_is_a_difference_of_rewards() {
    let folder = folder(heads(1, None));
    let model = open(&folder, &ScoreKeys { embeddings: Some(true), ..ScoreKeys::default() });
    for preference in model.compare_all(&rows()).unwrap() {
        let rewards = preference.embeddings.as_ref().unwrap();
        for (i, scores) in preference.scores.iter().enumerate() {
            for (j, s) in scores.iter().enumerate() {
                let want = f64::from(rewards[i][0]) - f64::from(rewards[j][0]);
                assert!((s - want).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn max_length_cuts_and_the_backbone_s_positions_hold() {
    let folder = folder(GPM);
    let long = vec!["d"; 500].join(" ");
    let rows = [row("p", "l", &[&long, "k"]), row("q", &long, &["k", "j"])];
    let preferences = open(&folder, &ScoreKeys::default()).compare_all(&rows).unwrap();
    assert!(preferences[0].scores[0][1].is_finite());
    // The prompt alone fills all 64 positions: nothing of either response is left, and they tie.
    assert_eq!(preferences[1].scores[0][1], 0.0);
}

#[test]
fn what_is_no_preference_model_is_refused() {
    let auto = ScoreKeys::default();
    let says = |heads, keys: &ScoreKeys, parts: &[&str]| {
        let folder = folder(heads);
        let error = refusal(&folder, keys);
        let text = error.to_string();
        assert!(error.kind() == Kind::Input, "{text}");
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    says(None, &auto, &["policy, not a preference model", "value_head.weight"]);
    says(heads(3, None), &auto, &["odd head", "3 rows"]);
    says(heads(4, Some(3)), &auto, &["prompt_head.weight has 3 rows", "expected 2"]);
    let gpm = ScoreKeys { kind: PreferenceKind::Gpm, ..ScoreKeys::default() };
    says(heads(1, None), &gpm, &["score.kind = \"gpm\"", "1 rows"]);
}

#[test]
fn a_folder_without_template_or_end_token_is_refused_and_a_given_template_helps() {
    let folder = folder(GPM);
    let keys = ScoreKeys::default();
    remove(&folder, "chat_template");
    let text = refusal(&folder, &keys).to_string();
    assert!(text.contains("chat template") && text.contains("score.chat_template"), "{text}");
    let given = folder.path().join("given.jinja");
    atomic::write_bytes(&given, TEMPLATE.as_bytes()).unwrap();
    let with_key = ScoreKeys { chat_template: Some(given.clone()), ..ScoreKeys::default() };
    let by_key = open(&folder, &with_key).compare_all(&rows()).unwrap();
    let by_argument = load(folder.path(), &settings(&keys), &Device::Cpu, Some(&given))
        .unwrap()
        .compare_all(&rows())
        .unwrap();
    assert_eq!(by_key, by_argument);
    let folder = self::folder(GPM);
    remove(&folder, "eos_token");
    let text = refusal(&folder, &keys).to_string();
    assert!(text.contains("eos_token"), "{text}");
}

#[test]
fn a_row_of_ids_only_is_refused_by_name() {
    let model = open(&folder(GPM), &ScoreKeys::default());
    let mut all = rows();
    all[1].prompt = Prompt { prompt_id: "b".into(), prompt_ids: Some(vec![1, 4]), ..Prompt::default() };
    let error = model.compare_all(&all).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("\"b\""), "{error}");
}

/// The folder of a Bradley-Terry model with its head under another name, which config.json may say.
fn renamed_head(name: &str, prefix: Option<&str>) -> TempDir {
    let folder = folder(heads(1, None));
    let mut tensors = TinyModel { seed: 7, heads: heads(1, None) }.tensors();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name == "value_head.weight") {
        tensor.name = name.to_owned();
    }
    atomic::write_bytes(&folder.path().join("model.safetensors"), &safetensors_of(&tensors)).unwrap();
    if let Some(prefix) = prefix {
        edit_json(&folder.path().join("config.json"), |config| config["value_head_prefix"] = json!(prefix));
    }
    folder
}

#[test]
fn a_sequence_classifier_reads_one_bos_and_its_own_last_token() {
    let one_bos = ScoreKeys { tokenization: Some(Tokenization::OneBos), ..ScoreKeys::default() };
    let value_head = folder(heads(1, None));
    let wanted = open(&value_head, &one_bos).compare_all(&rows()).unwrap();
    let authors = open(&value_head, &ScoreKeys::default()).compare_all(&rows()).unwrap();
    assert_ne!(wanted, authors, "two BOS and an end token in the place of the last one");
    for (name, prefix) in [("score.weight", None), ("reward_head.weight", Some("reward_head"))] {
        let folder = renamed_head(name, prefix);
        assert_eq!(open(&folder, &ScoreKeys::default()).compare_all(&rows()).unwrap(), wanted, "{name}");
    }
    // A template that has no BOS takes the tokenizer's.
    let without = folder(heads(1, None));
    edit_json(&without.path().join("tokenizer_config.json"), |config| {
        config["chat_template"] = json!(TEMPLATE.replace("{{ bos_token }}", ""));
    });
    assert_eq!(open(&without, &one_bos).compare_all(&rows()).unwrap(), wanted);
}

#[test]
fn a_head_that_config_json_names_must_be_there() {
    let error = refusal(&renamed_head("score.weight", Some("reward_head")), &ScoreKeys::default());
    assert!(error.kind() == Kind::Input && error.to_string().contains("reward_head.weight"), "{error}");
    let scaled = renamed_head("score.weight", Some("score"));
    edit_json(&scaled.path().join("config.json"), |config| config["normalize_reward"] = json!(true));
    let error = refusal(&scaled, &ScoreKeys::default()).to_string();
    assert!(error.contains("normalize_reward") && error.contains("score.tau"), "{error}");
    for (tensor, named) in [("v_head.summary.weight", "TRL"), ("regression_layer.weight", "ArmoRM")] {
        let error = refusal(&renamed_head(tensor, None), &ScoreKeys::default());
        assert!(error.kind() == Kind::Input && error.to_string().contains(named), "{error}");
    }
}

#[test]
fn advantages_are_of_a_gpm_and_sum_to_nothing() {
    let keys = ScoreKeys { advantages: Some(Advantages::PerAxis), ..ScoreKeys::default() };
    let compared = open(&folder(GPM), &keys).compare_all(&rows()).unwrap();
    for (row, preference) in rows().iter().zip(&compared) {
        let advantages = preference.advantages.as_ref().unwrap();
        assert_eq!(advantages.len(), row.responses.len());
        assert!(advantages.iter().sum::<f64>().abs() < 1e-9, "{advantages:?}");
        assert_eq!(advantages.iter().any(|a| a.abs() > 0.1), row.responses.len() > 1, "{advantages:?}");
    }
    assert_eq!(compared[2].advantages.as_ref().unwrap()[0], compared[2].advantages.as_ref().unwrap()[2]);
    assert!(open(&folder(GPM), &ScoreKeys::default()).compare_all(&rows()).unwrap()[0].advantages.is_none());
    let error = refusal(&folder(heads(1, None)), &keys);
    assert!(matches!(error, ScoreError::NoAxes { .. }) && error.kind() == Kind::Input, "{error}");
}

/// A language model whose vocabulary has the words "A" and "B".
fn pair_lm() -> TempDir {
    let folder = folder(None);
    edit_json(&folder.path().join("tokenizer.json"), |tokenizer| {
        let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        for (old, new) in [("r", "A"), ("s", "B")] {
            let id = words.remove(old).unwrap();
            words.insert(new.to_owned(), id);
        }
    });
    folder
}

#[test]
fn a_pair_lm_is_asked_in_both_orders() {
    let keys = ScoreKeys { kind: PreferenceKind::PairLm, ..ScoreKeys::default() };
    let folder = pair_lm();
    let model = open(&folder, &keys);
    let compared = model.compare_all(&rows()).unwrap();
    assert!(compared[0].scores.iter().flatten().any(|s| s.abs() > 1e-3), "{:?}", compared[0].scores);
    for preference in &compared {
        for (i, line) in preference.scores.iter().enumerate() {
            for (j, s) in line.iter().enumerate() {
                assert_eq!(s + preference.scores[j][i], 0.0);
            }
        }
    }
    // Responses 0 and 2 of the third row are the same text; both orders together see no difference.
    assert!(compared[2].scores[0][2].abs() < 1e-9, "{:?}", compared[2].scores);
    let contests = [Contest { prompt: rows()[0].prompt.clone(), first: "m d i".into(), second: "k".into() }];
    let won = model.win_probabilities(&contests).unwrap()[0];
    assert!((won - compared[0].probabilities[0][1]).abs() < 1e-6, "{won} {:?}", compared[0].probabilities);
    // Small passes give the same.
    let small = open(&folder, &ScoreKeys { batch_tokens: Some(16), ..keys.clone() });
    for (a, b) in small.compare_all(&rows()).unwrap().iter().zip(&compared) {
        near(a, b);
    }
    let stopped = model.compare(&rows(), &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!(stopped, Compared::Stopped(Vec::new()));
}

#[test]
fn what_is_no_pair_lm_is_refused() {
    let keys = ScoreKeys { kind: PreferenceKind::PairLm, ..ScoreKeys::default() };
    let folder = pair_lm();
    remove(&folder, "chat_template");
    assert!(matches!(refusal(&folder, &keys), ScoreError::NoTemplate { .. }));
    // The prompt alone is longer than what may be read.
    let tight = ScoreKeys { max_length: Some(6), ..keys };
    let error = open(&pair_lm(), &tight).compare_all(&rows()).unwrap_err();
    assert!(error.is_of_row() && error.to_string().contains("score.max_length"), "{error}");
}
