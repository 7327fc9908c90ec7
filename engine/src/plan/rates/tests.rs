//! The built-in rates against their sources, the choice of a rate, and what a bench writes.

use selfplay_records::{HasKind, Kind};
use serde_json::json;

use super::*;

fn built_in() -> Vec<Rate> {
    read(BUILT_IN, "benches/runs/rates.json").unwrap()
}

#[test]
fn the_rates_built_in_are_those_of_their_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for rate in built_in() {
        let text = std::fs::read_to_string(root.join(&rate.source))
            .unwrap_or_else(|e| panic!("{}: {e}", rate.source));
        let source: Value = serde_json::from_str(&text).unwrap();
        if let Some(parts) = source["parts"].as_object() {
            // What `selfplay bench --json` wrote.
            let part = format!("{:?}", rate.stage).to_lowercase();
            let line = &parts[&part][0];
            let measured = [&line["seconds"], &line["flops"], &line["bytes"]].map(|x| x.as_f64().unwrap());
            assert_eq!(measured, [rate.seconds, rate.flops, rate.bytes], "{rate:?}");
            let ceilings = serde_json::from_value::<Ceilings>(source["ceilings"].clone()).unwrap();
            assert_eq!(rate.ceilings, Some(ceilings));
            let recomputes = rate.stage == RatedStage::Train && source["recompute"] == true;
            assert_eq!((rate.recompute, &source["device"]), (recomputes, &json!(rate.device)));
            let shape = Architecture::named(&rate.model).unwrap();
            assert_eq!(shape.parameter_count() as u64, rate.parameters, "{}", rate.model);
            continue;
        }
        // A result has its operations, and below them the contestants with their medians.
        let results = source["results"].as_object().unwrap().values();
        let ours = if rate.recompute { "ours, recompute" } else { "ours" };
        let same = |one: &Value| {
            one["flop"].as_f64() == Some(rate.flops)
                && one["contestants"][ours]["median"].as_f64() == Some(rate.seconds)
        };
        assert_eq!(results.filter(|one| same(one)).count(), 1, "{rate:?}");
        let shape = Architecture::named(&rate.model).unwrap();
        assert_eq!(shape.parameter_count() as u64, rate.parameters, "{}", rate.model);
    }
}

#[test]
fn the_nearest_size_is_taken_by_its_ratio() {
    let rates = Rates { given: Vec::new(), built_in: built_in() };
    let model = |stage, parameters, recompute| {
        let found = rates.nearest(stage, DeviceChoice::Cpu, DType::F32, parameters, recompute).unwrap();
        (found.model.as_str(), found.recompute, found.stage)
    };
    // The geometric mean of 15.2 and 109.5 million is 40.8 million.
    assert_eq!(model(RatedStage::Sample, 40_000_000, true), ("llama-15m", false, RatedStage::Sample));
    assert_eq!(model(RatedStage::Sample, 42_000_000, true), ("llama-110m", false, RatedStage::Sample));
    assert_eq!(model(RatedStage::Train, 1_000_000, true), ("llama-15m", true, RatedStage::Train));
    assert_eq!(model(RatedStage::Train, 8_000_000_000, false), ("llama-110m", false, RatedStage::Train));
    // Nobody has measured log-probs by themselves.
    assert_eq!(model(RatedStage::Reference, 1, false), ("llama-15m", false, RatedStage::Score));
    let on_gpu = rates.nearest(RatedStage::Train, DeviceChoice::Cuda(1), DType::BF16, 1, false).unwrap();
    assert_eq!((on_gpu.model.as_str(), on_gpu.recompute), ("llama-3-8b", true));
    assert!(rates.nearest(RatedStage::Train, DeviceChoice::Cuda(0), DType::F32, 1, false).is_none());
    assert!(rates.nearest(RatedStage::Train, DeviceChoice::Cpu, DType::BF16, 1, false).is_none());
}

/// As `selfplay bench --json` writes it: 2 GB/s and 1 TFLOP/s at most.
fn bench_file() -> String {
    json!({
        "version": "0.1.0", "device": "cuda:1", "dtype": "BF16", "model": "random:llama-15m",
        "preference_model": "random:llama-110m", "pairs": 4, "rows": 8, "recompute": true,
        "ceilings": {"bytes_per_second": 2e9, "flops_per_second": 1e12},
        "parts": {
            "sample": [
                {"name": "sampling", "seconds": 4.0, "bytes": 4e9, "flops": 1e12, "floor_seconds": 2.0},
                // As the bench writes what did not come about.
                {"name": "decode step", "seconds": null, "bytes": 1.0, "flops": null, "floor_seconds": 1.0},
            ],
            "reference": [{"name": "reference", "seconds": null, "bytes": 0.0, "flops": 1.0, "floor_seconds": 1.0}],
            "train": [
                {"name": "training step", "seconds": 6.0, "bytes": 0.0, "flops": 3e12, "floor_seconds": 3.0},
                {"name": "  gradient norm", "seconds": 1.0, "bytes": 1.0, "flops": 0.0, "floor_seconds": 1.0},
            ],
            "score": [{"name": "scoring", "seconds": 1.0, "bytes": 0.0, "flops": 5e11, "floor_seconds": 0.5}],
            "kernels": [{"name": "norm", "seconds": 1.0, "bytes": 1.0, "flops": 0.0, "floor_seconds": 1.0}],
        },
    })
    .to_string()
}

#[test]
fn a_bench_s_lines_are_rates() {
    let given = read(&bench_file(), "bench.json").unwrap();
    assert_eq!(given.len(), 3);
    let rates = Rates { given, built_in: built_in() };
    let on = |stage| rates.nearest(stage, DeviceChoice::Cuda(0), DType::BF16, 1, true).unwrap();
    // Twice its floor of 2 s, which bytes decide: 8 GB take 8 s; 6e12 operations, 6 s at the ceiling, take 12.
    let sample = on(RatedStage::Sample);
    assert_eq!(sample.seconds(Work { flops: 1e12, bytes: 8e9 }, sample.parameters), 8.0);
    assert_eq!(sample.seconds(Work { flops: 6e12, bytes: 8e9 }, sample.parameters), 12.0);
    // 3e12 operations and a third of them again took 6 s.
    assert_eq!(
        on(RatedStage::Train).seconds(Work { flops: 8e12, bytes: 0.0 }, on(RatedStage::Train).parameters),
        12.0
    );
    assert_eq!(on(RatedStage::Score).model, "llama-110m");
    assert_eq!(on(RatedStage::Score).source, "bench.json");
    // What --rates does not have is built in.
    assert!(rates.nearest(RatedStage::Train, DeviceChoice::Cpu, DType::F32, 1, true).is_some());
}

#[test]
fn without_ceilings_operations_decide() {
    let rate = &built_in()[0];
    let twice = rate.seconds(Work { flops: 2.0 * rate.flops, bytes: 1e15 }, rate.parameters);
    assert!((twice / rate.seconds - 2.0).abs() < 1e-12, "{twice}");
    // 152.55 GFLOP in 1.2513 s.
    assert!(
        rate.describe().starts_with("121.9 GFLOP/s with llama-15m (15.2 million)"),
        "{}",
        rate.describe()
    );
}

#[test]
fn a_file_that_is_none_is_told_what_would_be_right() {
    let refused = |text: &str, word: &str| {
        let error = read(text, "f.json").unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains(word), "{error}");
        assert!(error.to_string().contains("f.json"), "{error}");
    };
    refused("{", "selfplay bench --json");
    refused("{\"rates\": []}", "has no rate");
    refused("{\"parts\": {}}", "missing field");
    let changed = |from: &str, to: &str| bench_file().replace(from, to);
    refused(&changed("random:llama-15m", "random:nobody"), "nobody");
    refused(&changed("\"seconds\":4.0", "\"seconds\":0.0"), "above 0");
    refused(&changed("\"dtype\":\"BF16\"", "\"dtype\":\"U8\""), "f32, bf16 or f16");
    refused(&changed("cuda:1", "tpu:1"), "cpu or cuda:N");
}
