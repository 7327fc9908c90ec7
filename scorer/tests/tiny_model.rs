//! The crate from outside, on a two-layer model whose weights are a formula: packing changes no score, files keep
//! their order, and every folder that is no preference model is refused with the place named.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use selfplay_records::{Candidates, HasKind, Kind, Preference, Problems, Prompt, Response, atomic};
use selfplay_scorer::{
    Compared, ComparisonLengths, Contest, Footprint, KindSettings, PreferenceKind, PreferenceModel,
    ScoreDifference, ScoreError, ScoreKeys, ScoreSettings, load,
};
use tempfile::TempDir;

const HIDDEN: usize = 16;
const INTERMEDIATE: usize = 32;
const HEAD_DIM: usize = 8;
const LAYERS: usize = 2;
const WORDS: [&str; 16] = [
    "user",
    "assistant",
    "end",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "runs",
    "sleeps",
    "sings",
    "now",
    "never",
    "why",
    "because",
];
const VOCAB: usize = 3 + WORDS.len();
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %} {{ message['role'] }} {{ message['content'] }} end{% endfor %}{% if add_generation_prompt %} assistant{% endif %}";

/// Rows of the heads; 0: absent.
#[derive(Clone, Copy)]
struct Heads {
    value: usize,
    prompt: usize,
}

/// Numbers between −scale and scale that look random and are the same everywhere.
fn numbers(seed: usize, rows: usize, columns: usize, scale: f64) -> Tensor {
    let at = |i: usize| {
        let x = ((seed * 7919 + i) as f64 * 12.9898).sin() * 43758.5453;
        ((x - x.floor()) * 2.0 - 1.0) * scale
    };
    let values: Vec<f32> = (0..rows * columns).map(|i| at(i) as f32).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn weights(heads: Heads) -> HashMap<String, Tensor> {
    let ones = || Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut tensors = HashMap::from([
        ("model.embed_tokens.weight".to_owned(), numbers(1, VOCAB, HIDDEN, 1.0)),
        ("model.norm.weight".to_owned(), ones()),
    ]);
    for layer in 0..LAYERS {
        let mut put =
            |name: &str, tensor| tensors.insert(format!("model.layers.{layer}.{name}.weight"), tensor);
        let seed = 10 * (layer + 1);
        put("self_attn.q_proj", numbers(seed, 2 * HEAD_DIM, HIDDEN, 0.5));
        put("self_attn.k_proj", numbers(seed + 1, HEAD_DIM, HIDDEN, 0.5));
        put("self_attn.v_proj", numbers(seed + 2, HEAD_DIM, HIDDEN, 0.5));
        put("self_attn.o_proj", numbers(seed + 3, HIDDEN, 2 * HEAD_DIM, 0.5));
        put("mlp.gate_proj", numbers(seed + 4, INTERMEDIATE, HIDDEN, 0.5));
        put("mlp.up_proj", numbers(seed + 5, INTERMEDIATE, HIDDEN, 0.5));
        put("mlp.down_proj", numbers(seed + 6, HIDDEN, INTERMEDIATE, 0.5));
        put("input_layernorm", ones());
        put("post_attention_layernorm", ones());
    }
    for (name, rows, seed) in [("value_head", heads.value, 90), ("prompt_head", heads.prompt, 91)] {
        if rows > 0 {
            tensors.insert(format!("{name}.weight"), numbers(seed, rows, HIDDEN, 1.0));
        }
    }
    tensors
}

fn tokenizer() -> String {
    let words: Vec<String> = WORDS.iter().enumerate().map(|(i, w)| format!("\"{w}\": {}", i + 3)).collect();
    let special = |(id, content): (usize, &str)| {
        format!(
            r#"{{"id": {id}, "content": "{content}", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}"#
        )
    };
    let added: Vec<String> = [(0, "<unk>"), (1, "<bos>"), (2, "<eos>")].into_iter().map(special).collect();
    let bos = r#"{"SpecialToken": {"id": "<bos>", "type_id": 0}}"#;
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{added}], "normalizer": null,
            "pre_tokenizer": {{"type": "WhitespaceSplit"}},
            "post_processor": {{"type": "TemplateProcessing",
                "single": [{bos}, {{"Sequence": {{"id": "A", "type_id": 0}}}}],
                "pair": [{bos}, {{"Sequence": {{"id": "A", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
                "special_tokens": {{"<bos>": {{"id": "<bos>", "ids": [1], "tokens": ["<bos>"]}}}}}},
            "decoder": null,
            "model": {{"type": "WordLevel", "unk_token": "<unk>",
                "vocab": {{"<unk>": 0, "<bos>": 1, "<eos>": 2, {words}}}}}}}"#,
        added = added.join(", "),
        words = words.join(", "),
    )
}

fn write(folder: &Path, name: &str, text: &str) {
    atomic::write_bytes(&folder.join(name), text.as_bytes()).unwrap();
}

fn folder(heads: Heads) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": {VOCAB}, "hidden_size": {HIDDEN},
            "intermediate_size": {INTERMEDIATE}, "num_hidden_layers": {LAYERS}, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": {HEAD_DIM}, "hidden_act": "silu", "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true,
            "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}}"#
    );
    write(folder.path(), "config.json", &config);
    write(folder.path(), "tokenizer.json", &tokenizer());
    write_tokenizer_config(folder.path(), Some(TEMPLATE), Some("<eos>"));
    candle_core::safetensors::save(&weights(heads), folder.path().join("model.safetensors")).unwrap();
    folder
}

fn write_tokenizer_config(folder: &Path, template: Option<&str>, eos: Option<&str>) {
    let mut keys = vec![r#""tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>""#.to_owned()];
    keys.extend(template.map(|text| format!(r#""chat_template": "{text}""#)));
    keys.extend(eos.map(|token| format!(r#""eos_token": "{token}""#)));
    write(folder, "tokenizer_config.json", &format!("{{{}}}", keys.join(", ")));
}

const GPM: Heads = Heads { value: 4, prompt: 2 };

fn row(prompt_id: &str, prompt: &str, texts: &[&str]) -> Candidates {
    let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
    Candidates {
        prompt: Prompt { prompt_id: prompt_id.into(), prompt: Some(prompt.into()), ..Prompt::default() },
        responses: texts.iter().map(response).collect(),
    }
}

fn rows() -> Vec<Candidates> {
    vec![
        row("a", "why red cat", &["because cat sings", "never", "because cat sings now", "cat never"]),
        row(
            "b",
            "blue dog runs now why bird sleeps",
            &["because dog", "dog never sleeps because bird sings now"],
        ),
        row("c", "bird", &["red", "blue", "red"]),
        row("d", "green cat sleeps", &["never"]),
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
    // Embedding 19 × 16; per layer q and o 16 × 16, k and v 8 × 16, three of 16 × 32, two norms; one norm.
    let parameters = 19 * 16 + 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 32 + 2 * 16) + 16;
    assert_eq!(read.weight_bytes(DType::BF16), 2 * parameters);
}

#[test]
fn the_same_response_ties_exactly_and_k_may_differ() {
    let folder = folder(Heads { value: 4, prompt: 0 });
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
    let folder = folder(Heads { value: 1, prompt: 0 });
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
    let long = vec!["cat"; 500].join(" ");
    let rows = [row("p", "why", &[&long, "never"]), row("q", &long, &["never", "now"])];
    let preferences = open(&folder, &ScoreKeys::default()).compare_all(&rows).unwrap();
    assert!(preferences[0].scores[0][1].is_finite());
    // The prompt alone fills all 128 positions: nothing of either response is left, and they tie.
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
    says(Heads { value: 0, prompt: 0 }, &auto, &["policy, not a preference model", "value_head.weight"]);
    says(Heads { value: 3, prompt: 0 }, &auto, &["odd head", "3 rows"]);
    says(Heads { value: 4, prompt: 3 }, &auto, &["prompt_head.weight has 3 rows", "expected 2"]);
    let gpm = ScoreKeys { kind: PreferenceKind::Gpm, ..ScoreKeys::default() };
    says(Heads { value: 1, prompt: 0 }, &gpm, &["score.kind = \"gpm\"", "1 rows"]);
}

#[test]
fn a_folder_without_template_or_end_token_is_refused_and_a_given_template_helps() {
    let folder = folder(GPM);
    let keys = ScoreKeys::default();
    write_tokenizer_config(folder.path(), None, Some("<eos>"));
    let text = refusal(&folder, &keys).to_string();
    assert!(text.contains("chat template") && text.contains("score.chat_template"), "{text}");
    write(folder.path(), "given.jinja", TEMPLATE);
    let given = folder.path().join("given.jinja");
    let with_key = ScoreKeys { chat_template: Some(given.clone()), ..ScoreKeys::default() };
    let by_key = open(&folder, &with_key).compare_all(&rows()).unwrap();
    let by_argument = load(folder.path(), &settings(&keys), &Device::Cpu, Some(&given))
        .unwrap()
        .compare_all(&rows())
        .unwrap();
    assert_eq!(by_key, by_argument);
    write_tokenizer_config(folder.path(), Some(TEMPLATE), None);
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
