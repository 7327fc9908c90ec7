//! `selfplay plan`: what does not fit is refused with a setting that makes it fit; times come from measured rates.

use std::fs;

use selfplay_model::Architecture;
use selfplay_testing::decoder::extend;
use selfplay_testing::{Outcome, World};
use serde_json::{Value, json};

use crate::{SELFPLAY, root};

/// A world whose policy has a shape that memory is felt of; only its configuration is read.
fn world(layers: usize, context: usize) -> World {
    let world = crate::world();
    let shape = json!({
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": context,
    });
    world.edit_json("policy/config.json", |config| extend(config, shape));
    world
}

fn plan(world: &World, more: &[&str]) -> Outcome {
    world.selfplay(&[&["plan", "recipe.toml"][..], more].concat())
}

/// The bytes of a figure such as `1.5 GB` at the end of a line.
fn bytes_at_end(line: &str) -> f64 {
    let mut words = line.split_whitespace().rev();
    let unit = words.next().unwrap();
    let number: f64 = words.next().unwrap().parse().unwrap();
    number
        * match unit {
            "TB" => 1e12,
            "GB" => 1e9,
            "MB" => 1e6,
            "kB" => 1e3,
            other => panic!("{other} in {line}"),
        }
}

/// What a section takes together.
#[track_caller]
fn together(report: &str, section: &str) -> f64 {
    let after =
        report.split_once(&format!("memory while {section}\n")).unwrap_or_else(|| panic!("{report}")).1;
    bytes_at_end(after.lines().find(|line| line.contains("together")).unwrap())
}

/// The `--set KEY=VALUE` of a refusal, as arguments.
fn proposed(refused: &Outcome) -> Vec<String> {
    let words: Vec<&str> = refused.stderr.split_whitespace().collect();
    let set = words.windows(2).filter(|pair| pair[0] == "--set");
    set.flat_map(|pair| [pair[0].to_owned(), pair[1].to_owned()]).collect()
}

/// Refused for a stage; with just what the message proposes, planned. Returns the keys that were proposed.
#[track_caller]
fn refused_then_fits(world: &World, memory: &str, stage: &str, set: &[&str]) -> Vec<String> {
    let arguments = [&["--memory", memory][..], set].concat();
    let refused =
        plan(world, &arguments).refused(&["tiny needs about", stage, "of --memory", "--set ", "is enough"]);
    // The report is there all the same, and the message is one line.
    assert!(refused.stdout.contains("\ndisk\n") && refused.stdout.contains("\ntime"), "{}", refused.stdout);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    let settings = proposed(&refused);
    let applied: Vec<&str> = arguments.iter().copied().chain(settings.iter().map(String::as_str)).collect();
    plan(world, &applied).ok();
    let pairs = settings.chunks_exact(2);
    pairs.map(|pair| pair[1].split('=').next().unwrap().to_owned()).collect()
}

#[test]
fn recomputation_then_smaller_micro_batches_are_proposed() {
    let world = world(8, 256);
    let batch = ["--set", "train.batch_size=64", "--set", "train.max_length=128"];
    let kept = [&batch[..], &["--set", "train.recompute=false"]].concat();
    let all = together(&plan(&world, &kept).ok().stdout, "training");
    let least = [&batch[..], &["--set", "train.recompute=true"]].concat();
    let recomputed = together(&plan(&world, &least).ok().stdout, "training");
    // By itself a training takes what there is, and no more.
    assert_eq!(together(&plan(&world, &batch).ok().stdout, "training"), all);
    assert!(recomputed < 0.8 * all, "{recomputed} {all}");
    let megabytes = |bytes: f64| format!("{:.0}MB", bytes / 1e6);

    let between = megabytes(all.midpoint(recomputed));
    let keys = refused_then_fits(&world, &between, "for training", &kept);
    assert_eq!(keys, ["train.recompute"]);
    let below = megabytes(0.8 * recomputed);
    let keys = refused_then_fits(&world, &below, "for training", &batch);
    assert_eq!(keys, ["train.micro_batch_tokens"]);
    assert_eq!(refused_then_fits(&world, &below, "for training", &least), keys);
    let keys = refused_then_fits(&world, &below, "for training", &kept);
    assert_eq!(keys, ["train.recompute", "train.micro_batch_tokens"]);
}

#[test]
fn a_smaller_cache_is_proposed_where_sampling_is_too_large() {
    let world = world(8, 4096);
    // 64 rows × 2,072 tokens × 8 layers × 2 × 256 values × 4 bytes are 2.2 GB.
    let long = ["--set", "sample.max_new_tokens=2048", "--set", "score.batch_tokens=1024"];
    let report = plan(&world, &[&long[..], &["--memory", "1TB"]].concat()).ok().stdout;
    assert!(together(&report, "sampling and scoring") > 2e9, "{report}");
    let keys = refused_then_fits(&world, "1GB", "for sampling and scoring", &long);
    assert_eq!(keys, ["sample.cache_mib"]);
}

#[test]
fn an_output_head_of_its_own_beside_a_tied_config_is_counted() {
    let world = crate::world();
    let parameters = || {
        let report = plan(&world, &[]).ok().stdout;
        let line = report.lines().find(|line| line.trim_start().starts_with("policy ")).unwrap().to_owned();
        line.rsplit('(').next().unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let mut config = selfplay_testing::tiny_model::config();
    let head = (config["vocab_size"].as_u64().unwrap() * config["hidden_size"].as_u64().unwrap()) as usize;
    config["tie_word_embeddings"] = json!(false);
    world.write("policy/config.json", &config.to_string());
    let untied = parameters();
    // The weights have a head with other numbers than the embedding, which is used.
    config["tie_word_embeddings"] = json!(true);
    world.write("policy/config.json", &config.to_string());
    assert_eq!(parameters(), untied);
    // Of config.json alone, as of a hub's model, the head is not known.
    fs::remove_file(world.path("policy/model.safetensors")).unwrap();
    assert_eq!(parameters(), untied - head);
}

#[test]
fn what_no_setting_helps_is_said() {
    let world = world(8, 256);
    let refused = plan(&world, &["--memory", "40MB"])
        .refused(&["no setting of this recipe makes it fit", "alone take"]);
    assert!(proposed(&refused).is_empty(), "{}", refused.stderr);
    // The device that it names is large enough.
    let (_, named) = refused.stderr.split_once("a device with ").unwrap();
    let size: Vec<&str> = named.split_whitespace().take(2).collect();
    let fits = plan(&world, &["--memory", &size.concat()]);
    assert!(fits.status == Some(0) || !proposed(&fits).is_empty(), "{}", fits.stderr);
}

#[test]
fn a_size_that_is_none_is_told_what_would_be_right() {
    let world = crate::world();
    for size in ["lots", "24", "-1GB", "24gb"] {
        let outcome = plan(&world, &[&format!("--memory={size}")]);
        assert_eq!(outcome.status, Some(2), "{size}");
        assert!(outcome.stderr.contains("as in 141GB or 24GiB"), "{size}: {}", outcome.stderr);
    }
}

#[test]
fn the_quickstart_has_times() {
    let report = SELFPLAY.run(&root(), &["plan", "recipes/quickstart.toml"]).ok().stdout;
    let (_, times) =
        report.split_once("measured one: prompts of 96 tokens, responses of 16, pairs of 128\n").unwrap();
    assert!(times.contains("an iteration") && times.contains("all 4500 prompts"), "{report}");
    for stage in [
        "sampling",
        "scoring",
        "reference log-probs",
        "training",
        "1200 held-out prompts",
        "starting, loading and writing",
        "together",
    ] {
        let line = times.lines().find(|line| line.trim_start().starts_with(stage));
        let line = line.unwrap_or_else(|| panic!("{stage} is not in {report}"));
        // A number and a unit, for an iteration and for all.
        let words: Vec<&str> = line.trim_start().strip_prefix(stage).unwrap().split_whitespace().collect();
        assert_eq!(words.len(), 4, "{line}");
        assert!(words[0].parse::<f64>().unwrap() > 0.0 && words[2].parse::<f64>().unwrap() > 0.0, "{line}");
    }
    // Where from: the nearest size, and its file, which is there.
    let source = times.lines().find(|line| line.contains("training: ")).unwrap();
    assert!(source.contains("GFLOP/s with llama-15m (15.2 million)"), "{source}");
    let file = source.rsplit("; ").next().unwrap();
    assert!(root().join(file).is_file(), "{file}");
}

#[test]
fn for_a_gpu_there_are_times_with_rates_alone() {
    let world = world(2, 256);
    let report = plan(&world, &["--device", "cuda:0"]).ok().stdout;
    assert!(report.contains("memory while training"), "{report}");
    assert!(
        report.contains("nothing is measured for cuda:0 in f32") && report.contains("benches/gpu.sh"),
        "{report}"
    );
    assert!(report.contains("not measured"), "{report}");

    // What `selfplay bench --json` writes.
    let line = json!([{"name": "x", "seconds": 1.0, "bytes": 1e9, "flops": 1e12, "floor_seconds": 0.5}]);
    let parts: Value = ["reference", "sample", "score", "train"]
        .iter()
        .map(|part| ((*part).to_owned(), line.clone()))
        .collect();
    let bench = json!({
        "device": "cuda:0", "dtype": "F32", "model": "random:llama-15m", "preference_model": "random:llama-15m",
        "recompute": true, "ceilings": {"bytes_per_second": 4e12, "flops_per_second": 1e15}, "parts": parts,
    });
    fs::create_dir_all(world.path("measured")).unwrap();
    world.write("measured/train.json", &bench.to_string());
    for rates in ["measured", "measured/train.json"] {
        let report = plan(&world, &["--device", "cuda:0", "--rates", rates]).ok().stdout;
        assert!(!report.contains("not measured") && !report.contains("nothing is measured"), "{report}");
        assert!(
            report.contains("training: 1.3 TFLOP/s with llama-15m (15.2 million); recomputation"),
            "{report}"
        );
        assert!(report.contains("measured/train.json"), "{report}");
    }
    world.write("broken.json", "{\"rates\": [{\"stage\": \"sample\"}]}");
    world
        .selfplay(&["plan", "recipe.toml", "--rates", "broken.json"])
        .refused(&["broken.json", "missing field"]);
    world.selfplay(&["plan", "recipe.toml", "--rates", "absent.json"]).refused(&["absent.json"]);
    world.selfplay(&["plan", "recipe.toml", "--rates", "policy"]).refused(&["policy", "reference.json"]);
}

#[test]
fn every_recipe_whose_models_are_here_is_planned() {
    let mut planned = 0;
    for entry in fs::read_dir(root().join("recipes")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let outcome = SELFPLAY.run(&root(), &["plan", path.to_str().unwrap(), "--memory", "10TB"]);
        // Of a hub's model not even the configuration is on this machine.
        if outcome.stderr.contains("HF_HUB_OFFLINE") {
            outcome.refused(&[]);
        } else {
            outcome.ok();
            planned += 1;
        }
    }
    assert!(planned >= 1);
}

#[test]
fn the_published_setting_fits_the_gpu_that_its_recipe_names() {
    let world = crate::world();
    let config = |name: &str, extra: Value| {
        let a = Architecture::named(name).unwrap();
        let mut config = json!({
            "vocab_size": a.vocab_size, "hidden_size": a.hidden_size, "intermediate_size": a.intermediate_size,
            "num_hidden_layers": a.num_layers, "num_attention_heads": a.num_heads, "head_dim": a.head_dim,
            "num_key_value_heads": a.num_kv_heads, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
        });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config.to_string()
    };
    let llama = json!({"model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": false});
    let gemma =
        json!({"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true});
    for folder in ["llama", "gemma"] {
        fs::create_dir_all(world.path(folder)).unwrap();
    }
    world.write("llama/config.json", &config("llama-3-8b", llama));
    world.write("gemma/config.json", &config("gemma-2b", gemma));
    let recipe = root().join("recipes/gpo-llama-3-8b-instruct-gpm-2b.toml");
    let plan = |more: &[&str]| {
        let line = ["plan", recipe.to_str().unwrap(), "--device", "cuda:0"];
        let models = ["--set", "policy.model=llama", "--set", "score.model=gemma"];
        world.selfplay(&[&line[..], &models[..], more].concat())
    };
    let report = plan(&["--memory", "141GB"]).ok().stdout;
    // 14 bytes for each of 8.03 billion parameters, and as much for the backward as there is room for.
    let training = together(&report, "training");
    assert!((128e9..141e9).contains(&training), "{report}");
    assert!(report.contains("8.03 billion") && report.contains("of what is left"), "{report}");
    assert!(report.contains("1000 prompts"), "{report}");
    // Masters and squares go to the host: 8 bytes a parameter.
    let report = plan(&["--memory", "80GB"]).ok().stdout;
    let host = report.lines().find(|line| line.contains("in the host's memory")).unwrap_or_default();
    assert!(host.contains("64.2 GB") && together(&report, "training") < 80e9, "{report}");
    // The blocks' gradients too: 4 bytes for each of their 6.98 billion parameters.
    let report = plan(&["--memory", "40GB"]).ok().stdout;
    let host = report.lines().find(|line| line.contains("in the host's memory")).unwrap_or_default();
    assert!(host.contains("92.2 GB") && together(&report, "training") < 40e9, "{report}");
    let gradients_here = ["--memory", "40GB", "--set", "train.offload=optimizer"];
    plan(&gradients_here).refused(&["training", "alone take 48.2 GB", "no setting of this recipe"]);
    let here = |memory| plan(&["--memory", memory, "--set", "train.offload=none"]);
    here("80GB").refused(&["training", "alone take 112.4 GB", "no setting of this recipe"]);
    here("118GB").refused(&["--set train.micro_batch_tokens=", "is enough"]);
}

/// What `check` and `run` refuse is not planned as if it fitted.
#[test]
fn an_adapter_that_cannot_be_is_not_planned() {
    let world = crate::world();
    for (set, words) in [
        ("train.lora.rank=100000000", "rank 100000000"),
        ("train.lora.target_modules=[\"nosuch\"]", "nosuch"),
    ] {
        world.selfplay(&["plan", "recipe.toml", "--set", set]).refused(&[words]);
        world.selfplay(&["plan", "recipe.toml", "--gpus", "2", "--set", set]).refused(&[words]);
    }
    world.selfplay(&["plan", "recipe.toml", "--set", "train.lora.rank=4"]).ok();
}
