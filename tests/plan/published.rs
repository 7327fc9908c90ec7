//! What the recipes of published systems need: the planner says that they fit the GPU that they name.

use selfplay_testing::World;
use serde_json::json;

use crate::root;

/// A folder that holds a model's configuration and nothing else.
fn shape(world: &World, name: &str, family: &str, shape: [usize; 7]) {
    let [layers, hidden, inner, heads, key_heads, head_dim, vocab] = shape;
    let config = json!({
        "architectures": [if family == "gemma" { "GemmaForCausalLM" } else { "LlamaForCausalLM" }],
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": if layers == 60 { 2048 } else { 8192 },
        "rms_norm_eps": 1e-5,
        "hidden_act": if family == "gemma" { "gelu_pytorch_tanh" } else { "silu" },
        "tie_word_embeddings": family == "gemma",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    });
    std::fs::create_dir_all(world.path(name)).unwrap();
    world.write(&format!("{name}/config.json"), &config.to_string());
}

fn recipe(name: &str) -> String {
    root().join(format!("recipes/{name}.toml")).display().to_string()
}

#[test]
fn a_33b_in_four_bits_trains_an_adapter_on_80_gb() {
    let world = crate::world();
    shape(&world, "33b", "llama", [60, 6656, 17_920, 52, 52, 128, 32_000]);
    let recipe = recipe("anima-33b-qlora-dpo");
    let plan = |memory: &str, set: &[&str]| {
        let models = ["--set", "chain.dpo.policy.model=33b", "--set", "chain.pairs.policy.model=33b"];
        let line = ["plan", &recipe, "--device", "cuda:0", "--memory", memory];
        world.selfplay(&[&line[..], &models, set].concat())
    };
    let report = plan("80GB", &[]).ok().stdout;
    assert!(report.contains("32.53 billion parameters"), "{report}");
    // Weights of 16 bits alone are more than what is enough for four.
    plan("60GB", &[]).ok();
    plan("60GB", &["--set", "chain.dpo.policy.quantize=none"])
        .refused(&["link dpo needs about", "of --memory"]);
}

#[test]
fn an_8b_plays_itself_in_four_bits_on_24_gb() {
    let world = crate::world();
    shape(&world, "8b", "llama", [32, 4096, 14_336, 32, 8, 128, 128_256]);
    shape(&world, "gpm", "gemma", [18, 2048, 16_384, 8, 1, 256, 256_000]);
    let recipe = recipe("gpo-llama-3-8b-instruct-gpm-2b-qlora");
    let plan = ["plan", &recipe, "--device", "cuda:0", "--memory", "24GB"];
    let models = ["--set", "policy.model=8b", "--set", "score.model=gpm"];
    let plan = [&plan[..], &models].concat();
    let report = world.selfplay(&plan).ok().stdout;
    assert!(report.contains("8.03 billion") && report.contains("memory while training"), "{report}");
    let whole = ["--set", "policy.quantize=none", "--set", "train.lora=off"];
    world.selfplay(&[&plan[..], &whole].concat()).refused(&["for training", "24.0 GB of --memory"]);
}
