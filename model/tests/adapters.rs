//! Adapters over small decoders: gradients against derivatives in f64, merged against applied, folders written and read.

use candle_core::DType;
use selfplay_model::adapter::{AdapterConfig, AdapterStart, BiasTraining, TargetModules};
use selfplay_model::cpu::storage::with_slice_mut;
use selfplay_model::decoder::KeepPlan;
use selfplay_model::{Decoder, Gradients};
use selfplay_records::{HasKind, Kind, atomic};
use selfplay_testing::families::{self, FAMILIES, batch, coefficient, decoder, gradients, numbers};

fn plain() -> AdapterConfig {
    AdapterConfig { rank: 3, alpha: 6.0, base: "base".to_owned(), ..AdapterConfig::default() }
}

/// A decoder with an adapter whose every number is far from 0.
fn adapted(family: &str, dtype: DType, config: AdapterConfig, start: AdapterStart) -> Decoder {
    let mut decoder = decoder(family, dtype);
    decoder.add_adapter(config, start, 11).unwrap();
    decoder.train_adapter();
    let names: Vec<String> = decoder.parameters().iter().map(|(_, one)| one.name.clone()).collect();
    for name in names.iter().filter(|name| name.contains("lora_") && !name.ends_with(".taken")) {
        let id = decoder.parameters().find(name).unwrap();
        let spread = |i: usize| ((i * 2654435761 + name.len() * 40503) % 1000) as f64 / 1000.0 - 0.5;
        let value = &decoder.parameters().get(id).value;
        match dtype {
            DType::F64 => with_slice_mut::<f64, _>(value, |w| {
                w.iter_mut().enumerate().for_each(|(i, x)| *x += 0.3 * spread(i));
            }),
            _ => with_slice_mut::<f32, _>(value, |w| {
                w.iter_mut().enumerate().for_each(|(i, x)| *x = (f64::from(*x) + 0.3 * spread(i)) as f32);
            }),
        }
        .unwrap();
    }
    decoder
}

fn log_probs(decoder: &Decoder) -> Vec<f64> {
    let (batch, rows, targets) = batch();
    let hidden = decoder.hidden(&batch).unwrap();
    decoder.token_log_probs_f64(&hidden, &rows, &targets).unwrap()
}

fn loss(decoder: &Decoder) -> f64 {
    log_probs(decoder).iter().enumerate().map(|(i, x)| (coefficient(i) as f32 as f64) * x).sum()
}

fn shift(decoder: &Decoder, name: &str, direction: &[f64], by: f64) {
    let value = &decoder.parameters().get(decoder.parameters().find(name).unwrap()).value;
    with_slice_mut::<f64, _>(value, |w| w.iter_mut().zip(direction).for_each(|(w, v)| *w += by * v)).unwrap();
}

fn value(decoder: &Decoder, name: &str) -> Vec<f64> {
    numbers(&decoder.parameters().get(decoder.parameters().find(name).unwrap()).value)
}

fn gradient(decoder: &Decoder, gradients: &Gradients, name: &str) -> Vec<f64> {
    numbers(gradients.get(decoder.parameters().find(name).unwrap()).unwrap())
}

#[track_caller]
fn agrees_with_derivative(decoder: &Decoder, gradients: &Gradients, name: &str) {
    let gradient = gradient(decoder, gradients, name);
    assert!(gradient.iter().any(|&g| g != 0.0), "{name}: no gradient");
    let direction: Vec<f64> =
        (0..gradient.len()).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect();
    let e = 1e-6;
    let mut losses = [0.0; 4];
    for (loss_at, by) in losses.iter_mut().zip([-2.0 * e, e, 2.0 * e, e]) {
        shift(decoder, name, &direction, by);
        *loss_at = loss(decoder);
    }
    shift(decoder, name, &direction, -2.0 * e);
    let [minus2, minus, plus, plus2] = losses;
    let want = (8.0 * (plus - minus) - (plus2 - minus2)) / (12.0 * e);
    let got: f64 = gradient.iter().zip(&direction).map(|(g, v)| g * v).sum();
    let size: f64 = gradient.iter().zip(&direction).map(|(g, v)| (g * v).abs()).sum();
    // The difference's own error; a key's bias in a layer without rotation has no gradient but that.
    assert!((got - want).abs() <= 1e-6 * size.max(1e-4) + 2e-8, "{name}: {got} but {want}");
}

/// Names of what is trained.
fn trained(decoder: &Decoder) -> Vec<String> {
    decoder.parameters().iter().filter(|(_, one)| one.trainable).map(|(_, one)| one.name.clone()).collect()
}

#[test]
fn every_trained_number_has_the_gradient_of_a_derivative() {
    let saves = AdapterConfig {
        // Some families have one module for queries, keys and values.
        target_modules: TargetModules::Pattern(r".*(q|qkv|down)_proj|lm_head".into()),
        modules_to_save: vec!["embed_tokens".into(), "norm".into()],
        bias: BiasTraining::All,
        rslora: true,
        ..plain()
    };
    for family in FAMILIES {
        for (config, start) in [
            (plain(), AdapterStart::Default),
            (saves.clone(), AdapterStart::Gaussian),
            (plain(), AdapterStart::Pissa),
        ] {
            let decoder = adapted(family, DType::F64, config, start);
            let gradients = gradients(&decoder, KeepPlan::LEAST);
            let trained = trained(&decoder);
            assert!(gradients.iter().count() == trained.len() && !trained.is_empty());
            for name in &trained {
                agrees_with_derivative(&decoder, &gradients, name);
            }
        }
    }
}

#[test]
fn with_dropout_the_gradient_is_that_of_the_masked_step() {
    for dora in [false, true] {
        let config = AdapterConfig { dropout: 0.4, dora, ..plain() };
        let mut decoder = adapted("qwen2", DType::F64, config, AdapterStart::Default);
        let whole = log_probs(&decoder);
        decoder.set_dropout(Some(5));
        let masked = log_probs(&decoder);
        assert_ne!(whole, masked);
        let found = gradients(&decoder, KeepPlan::LEAST);
        for (id, gradient) in gradients(&decoder, KeepPlan::ALL).iter() {
            assert_eq!(numbers(gradient), numbers(found.get(id).unwrap()));
        }
        decoder.set_dropout(Some(6));
        assert_ne!(masked, log_probs(&decoder));
        decoder.set_dropout(None);
        assert_eq!(whole, log_probs(&decoder));
        decoder.set_dropout(Some(5));
        let names = trained(&decoder);
        // Through the norm of DoRA no gradient flows: its factors are held against another form below.
        for name in names.iter().filter(|name| !dora || name.contains("magnitude")) {
            agrees_with_derivative(&decoder, &found, name);
        }
    }
}

/// With the norms held, DoRA is a plain adapter with B′ = g∘B over W′ = g∘W, g = m/‖V‖.
#[test]
fn dora_trains_factors_as_if_its_norms_were_constants() {
    for (dropout, start) in
        [(0.0, AdapterStart::Default), (0.3, AdapterStart::Default), (0.0, AdapterStart::Pissa)]
    {
        let mut dora = adapted("llama", DType::F64, AdapterConfig { dora: true, dropout, ..plain() }, start);
        let mut held = adapted("llama", DType::F64, AdapterConfig { dropout, ..plain() }, start);
        let paths: Vec<String> = dora.adapter().unwrap().targets().to_vec();
        let mut gains = Vec::new();
        for path in &paths {
            let [w, a, b, m] =
                ["weight", "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map(|leaf| {
                    let name = if leaf == "weight" {
                        format!("{path}.{leaf}")
                    } else {
                        format!("base_model.model.{path}.{leaf}")
                    };
                    value(&dora, &name)
                });
            let taken = (start == AdapterStart::Pissa).then(|| {
                ["lora_A.weight.taken", "lora_B.weight.taken"]
                    .map(|leaf| value(&dora, &format!("base_model.model.{path}.{leaf}")))
            });
            let (rows, inputs, rank) = (m.len(), w.len() / m.len(), b.len() / m.len());
            let product = |a: &[f64], b: &[f64], row: usize, column: usize| -> f64 {
                (0..rank).map(|k| 2.0 * b[row * rank + k] * a[k * inputs + column]).sum()
            };
            let gain: Vec<f64> = (0..rows)
                .map(|row| {
                    let v = |column: usize| {
                        w[row * inputs + column]
                            + product(&a, &b, row, column)
                            + taken.as_ref().map_or(0.0, |[a, b]| product(a, b, row, column))
                    };
                    m[row] / (0..inputs).map(|column| v(column).powi(2)).sum::<f64>().sqrt()
                })
                .collect();
            for name in [
                format!("{path}.weight"),
                format!("base_model.model.{path}.lora_B.weight"),
                format!("base_model.model.{path}.lora_B.weight.taken"),
            ] {
                let Some(id) = held.parameters().find(&name) else { continue };
                with_slice_mut::<f64, _>(&held.parameters().get(id).value, |x| {
                    let width = x.len() / rows;
                    x.iter_mut().enumerate().for_each(|(i, x)| *x *= gain[i / width]);
                })
                .unwrap();
            }
            gains.push(gain);
        }
        // With dropout W itself sees all of x: the two differ, but not in how the factors' gradients are taken of dy.
        if dropout == 0.0 {
            let (got, want) = (log_probs(&dora), log_probs(&held));
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} {want:?}");
            let (of_dora, of_held) = (gradients(&dora, KeepPlan::LEAST), gradients(&held, KeepPlan::LEAST));
            for (path, gain) in paths.iter().zip(&gains) {
                for leaf in ["lora_A.weight", "lora_B.weight"] {
                    let name = format!("base_model.model.{path}.{leaf}");
                    let (got, mut want) =
                        (gradient(&dora, &of_dora, &name), gradient(&held, &of_held, &name));
                    if leaf == "lora_B.weight" {
                        let width = want.len() / gain.len();
                        want.iter_mut().enumerate().for_each(|(i, x)| *x *= gain[i / width]);
                    }
                    let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                    let worst = got.iter().zip(&want).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
                    assert!(worst < 1e-8 * largest.max(1e-3), "{name}: {worst:e} of {largest:e}");
                }
                let name = format!("base_model.model.{path}.lora_magnitude_vector");
                agrees_with_derivative(&dora, &of_dora, &name);
            }
        }
        dora.set_dropout(None);
        held.set_dropout(None);
    }
}

#[test]
fn merged_packed_and_applied_are_one_up_to_rounding() {
    let saves = AdapterConfig {
        target_modules: TargetModules::Names(vec!["q_proj".into(), "gate_proj".into(), "lm_head".into()]),
        modules_to_save: vec!["norm".into()],
        ..plain()
    };
    for family in ["llama", "gemma2", "qwen3"] {
        for (config, start) in [
            (plain(), AdapterStart::Default),
            (AdapterConfig { dora: true, ..plain() }, AdapterStart::Gaussian),
            (plain(), AdapterStart::Pissa),
            (saves.clone(), AdapterStart::Default),
        ] {
            let mut decoder = adapted(family, DType::F32, config, start);
            let bytes = decoder.footprint();
            let before = log_probs(&families::decoder(family, DType::F32));
            let applied = log_probs(&decoder);
            assert!(before.iter().zip(&applied).any(|(a, b)| (a - b).abs() > 1e-2), "{family}");
            let near = |other: &[f64], what: &str| {
                let worst = applied.iter().zip(other).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
                assert!(worst < 1e-4, "{family} {what}: {worst}");
            };
            decoder.prepare_inference().unwrap();
            near(&log_probs(&decoder), "packed");
            assert!(decoder.footprint() > bytes);
            decoder.drop_inference();
            assert_eq!(log_probs(&decoder), applied);
            let folder = tempfile::tempdir().unwrap();
            decoder.save(folder.path(), Some(DType::F32), usize::MAX).unwrap();
            near(&log_probs(&Decoder::load(folder.path(), &Default::default()).unwrap()), "written merged");
            decoder.merge_adapter().unwrap();
            assert!(decoder.adapter().is_none());
            near(&log_probs(&decoder), "merged");
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    for start in [AdapterStart::Default, AdapterStart::Gaussian, AdapterStart::Pissa] {
        for dora in [false, true] {
            let mut decoder = decoder("llama", DType::F32);
            let before = log_probs(&decoder);
            decoder.add_adapter(AdapterConfig { dora, ..plain() }, start, 3).unwrap();
            let after = log_probs(&decoder);
            let worst = before.iter().zip(&after).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(worst < 1e-4, "{start:?} {dora}: {worst}");
        }
    }
}

#[test]
fn a_folder_holds_the_adapter_bit_for_bit() {
    for (dora, start) in
        [(false, AdapterStart::Default), (true, AdapterStart::Default), (false, AdapterStart::Pissa)]
    {
        let config = AdapterConfig {
            dora,
            target_modules: TargetModules::Names(vec!["q_proj".into(), "v_proj".into()]),
            modules_to_save: vec!["lm_head".into()],
            bias: BiasTraining::LoraOnly,
            ..plain()
        };
        for family in ["qwen2", "gemma"] {
            let decoder_trained = adapted(family, DType::F32, config.clone(), start);
            let folder = tempfile::tempdir().unwrap();
            decoder_trained.save_adapter(folder.path()).unwrap();
            let mut read = decoder(family, DType::F32);
            read.load_adapter(folder.path()).unwrap();
            read.train_adapter();
            if start == AdapterStart::Pissa {
                let worst = log_probs(&read)
                    .iter()
                    .zip(log_probs(&decoder_trained))
                    .fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
                assert!(worst < 1e-4, "{worst}");
                read.split_adapter().unwrap();
                read.train_adapter();
            }
            assert_eq!(trained(&read), trained(&decoder_trained));
            assert_eq!(log_probs(&read), log_probs(&decoder_trained), "{family} {start:?}");
            let again = tempfile::tempdir().unwrap();
            read.save_adapter(again.path()).unwrap();
            for name in ["adapter_config.json", "adapter_model.safetensors"] {
                let bytes = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).unwrap();
                assert!(bytes(&folder) == bytes(&again), "{name}");
            }
        }
    }
}

#[test]
fn decoders_beside_each_other_have_one_base_and_adapters_of_their_own() {
    let dora = AdapterConfig { dora: true, ..plain() };
    let saves = AdapterConfig { modules_to_save: vec!["lm_head".into()], ..plain() };
    for family in ["llama", "gemma2", "qwen2"] {
        let mut base = decoder(family, DType::F32);
        base.prepare_inference().unwrap();
        let before = log_probs(&base);
        let mut besides = Vec::new();
        for config in [plain(), dora.clone(), saves.clone()] {
            let alone = adapted(family, DType::F32, config, AdapterStart::Default);
            let folder = tempfile::tempdir().unwrap();
            alone.save_adapter(folder.path()).unwrap();
            let mut beside = base.beside().unwrap();
            beside.load_adapter(folder.path()).unwrap();
            beside.prepare_beside(&base).unwrap();
            besides.push((beside, log_probs(&alone)));
        }
        for (beside, wanted) in &besides {
            let found = log_probs(beside);
            let worst = found.iter().zip(wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(worst < 1e-4, "{family}: {worst}");
            // The same memory, not a copy.
            let norm = |decoder: &Decoder| {
                let id = decoder.parameters().find("model.norm.weight").unwrap();
                decoder.parameters().get(id).value.id()
            };
            assert_eq!(norm(beside), norm(&base));
            assert!(beside.beside().is_err(), "an adapter is not shared");
        }
        let mut same = base.beside().unwrap();
        same.prepare_beside(&base).unwrap();
        assert_eq!(log_probs(&same), before, "{family}");
        assert_eq!(log_probs(&base), before, "{family}");
    }
}

#[test]
fn a_module_that_an_adapter_brings_whole_is_what_is_computed_with() {
    // Queries are one tensor with keys and values, of which this one leaves.
    let config = AdapterConfig {
        target_modules: TargetModules::Names(vec!["v_proj".into()]),
        modules_to_save: vec!["q_proj".into()],
        ..plain()
    };
    let trained = adapted("llama", DType::F32, config, AdapterStart::Default);
    let names: Vec<String> = trained.parameters().iter().map(|(_, one)| one.name.clone()).collect();
    for name in names.iter().filter(|name| name.ends_with("q_proj.weight")) {
        let id = trained.parameters().find(name).unwrap();
        with_slice_mut::<f32, _>(&trained.parameters().get(id).value, |w| {
            w.iter_mut().enumerate().for_each(|(i, x)| *x += if i % 2 == 0 { 0.5 } else { -0.25 });
        })
        .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    trained.save_adapter(folder.path()).unwrap();
    let mut read = decoder("llama", DType::F32);
    read.load_adapter(folder.path()).unwrap();
    let (wanted, found) = (log_probs(&trained), log_probs(&read));
    let worst = found.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn only_the_adapter_takes_memory_of_a_training() {
    let decoder = adapted("llama", DType::F32, plain(), AdapterStart::Default);
    let gradients = Gradients::zeros(decoder.parameters()).unwrap();
    let numbers: usize = gradients.iter().map(|(_, gradient)| gradient.elem_count()).sum();
    assert_eq!(numbers, plain().trained_numbers(decoder.architecture()).unwrap());
}

#[test]
fn adapters_of_other_models_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    adapted("llama", DType::F32, plain(), AdapterStart::Default).save_adapter(folder.path()).unwrap();
    let refused = |decoder: &mut Decoder, words: &[&str]| {
        let error = decoder.load_adapter(folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let told = error.to_string();
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    };
    let mut wider = families::config("llama");
    wider["hidden_size"] = 32.into();
    let wide = selfplay_model::Architecture::from_json(&wider, "config.json".as_ref()).unwrap();
    let mut wide = Decoder::random(wide, 1, &Default::default()).unwrap();
    refused(&mut wide, &["adapter_model.safetensors", "q_proj.lora_A.weight", "[3, 24]", "[3, 32]"]);
    let mut fewer = families::config("llama");
    fewer["num_hidden_layers"] = 2.into();
    let few = selfplay_model::Architecture::from_json(&fewer, "config.json".as_ref()).unwrap();
    let mut few = Decoder::random(few, 1, &Default::default()).unwrap();
    refused(&mut few, &["layers.2"]);
    let path = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str| atomic::write_bytes(&path, text.replace(from, to).as_bytes()).unwrap();
    with("\"use_dora\": false", "\"use_dora\": true");
    refused(&mut decoder("llama", DType::F32), &["lora_magnitude_vector"]);
    with("\"r\": 3", "\"r\": 4");
    refused(&mut decoder("llama", DType::F32), &["lora_A.weight", "[3, 24]"]);
    with("\"peft_type\": \"LORA\"", "\"peft_type\": \"VERA\"");
    refused(&mut decoder("llama", DType::F32), &["adapter_config.json", "VERA"]);
    with("\"r\": 3", "\"r\": 3");
    let weights = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    atomic::write_bytes(&weights, &bytes[..bytes.len() / 2]).unwrap();
    refused(&mut decoder("llama", DType::F32), &["adapter_model.safetensors"]);
}
