//! Every trainable parameter of every family has a finite, non-zero gradient that agrees with a directional
//! derivative of the loss taken in f64.
//!
//! The backward is written by hand (no tape), so that an operation cannot cut the gradient silently; what this
//! test catches is a backward that is wrong, or one that a new parameter was left out of.

use candle_core::DType;
use selfplay_model::Decoder;
use selfplay_model::cpu::storage::with_slice_mut;
use selfplay_model::decoder::KeepPlan;
use selfplay_testing::families::{FAMILIES, batch, coefficient, decoder, gradients, numbers};

fn loss(decoder: &Decoder) -> f64 {
    let (batch, rows, targets) = batch();
    let hidden = decoder.hidden(&batch).unwrap();
    let log_probs = decoder.token_log_probs_f64(&hidden, &rows, &targets).unwrap();
    log_probs.iter().enumerate().map(|(i, x)| (coefficient(i) as f32 as f64) * x).sum()
}

#[test]
fn every_gradient_agrees_with_a_directional_derivative() {
    for family in FAMILIES {
        let decoder = decoder(family, DType::F64);
        let gradients = gradients(&decoder, KeepPlan::ALL);
        for (id, parameter) in decoder.parameters().iter() {
            let gradient = numbers(gradients.get(id).unwrap());
            assert!(gradient.iter().all(|g| g.is_finite()), "{family} {}", parameter.name);
            assert!(gradient.iter().any(|&g| g != 0.0), "{family} {}: no gradient", parameter.name);
            let direction: Vec<f64> =
                (0..gradient.len()).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect();
            let shift = |by: f64| {
                with_slice_mut::<f64, _>(&parameter.value, |w| {
                    w.iter_mut().zip(&direction).for_each(|(w, v)| *w += by * v);
                })
                .unwrap();
            };
            // Five points: the error is of the order ε⁴.
            let e = 1e-6;
            shift(e);
            let plus = loss(&decoder);
            shift(e);
            let plus2 = loss(&decoder);
            shift(-3.0 * e);
            let minus = loss(&decoder);
            shift(-e);
            let minus2 = loss(&decoder);
            shift(2.0 * e);
            let want = (8.0 * (plus - minus) - (plus2 - minus2)) / (12.0 * e);
            let got: f64 = gradient.iter().zip(&direction).map(|(g, v)| g * v).sum();
            let size: f64 = gradient.iter().zip(&direction).map(|(g, v)| (g * v).abs()).sum();
            if family == "smollm3" && parameter.name == "model.layers.1.self_attn.k_proj.bias" {
                // Without rotation it shifts all scores of a query alike: the loss does not see it.
                assert!(got.abs() < 1e-12 && want.abs() < 1e-6, "{got} but {want}");
                continue;
            }
            // f32 tables of cos and sin are constants to both sides; what remains is the difference's own error.
            // A key's bias shifts all scores of a query alike before rope; its gradient is near 0 without being 0.
            assert!(
                (got - want).abs() <= 1e-6 * size.max(1e-4),
                "{family} {}: {got} but {want}",
                parameter.name
            );
        }
    }
}

#[test]
fn f32_gradients_agree_with_f64() {
    for family in FAMILIES {
        let (exact, work) = (decoder(family, DType::F64), decoder(family, DType::F32));
        let (exact_gradients, gradients) =
            (gradients(&exact, KeepPlan::ALL), gradients(&work, KeepPlan::ALL));
        for (id, parameter) in work.parameters().iter() {
            let (want, got) =
                (numbers(exact_gradients.get(id).unwrap()), numbers(gradients.get(id).unwrap()));
            let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let worst = want.iter().zip(&got).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 1e-3 * largest + 1e-5, "{family} {}: {worst} of {largest}", parameter.name);
        }
    }
}

/// Of three blocks: inputs, attention and everything in every mixture.
fn partial() -> [KeepPlan; 4] {
    [KeepPlan::LEAST, KeepPlan::new(1, 1), KeepPlan::new(1, 2), KeepPlan::new(2, 1)]
}

#[test]
fn recomputation_changes_no_bit() {
    for family in FAMILIES {
        let decoder = decoder(family, DType::F32);
        let kept = gradients(&decoder, KeepPlan::ALL);
        for plan in partial() {
            let recomputed = gradients(&decoder, plan);
            for (id, gradient) in kept.iter() {
                assert_eq!(numbers(gradient), numbers(recomputed.get(id).unwrap()), "{family} {plan:?}");
            }
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_change_no_other() {
    let mut decoder = decoder("qwen2", DType::F32);
    let all = gradients(&decoder, KeepPlan::ALL);
    decoder.parameters_mut().set_trainable(|p| p.name.contains("layers.1"));
    let some = gradients(&decoder, KeepPlan::ALL);
    for (id, parameter) in decoder.parameters().iter() {
        match some.get(id) {
            Some(gradient) => assert_eq!(numbers(gradient), numbers(all.get(id).unwrap())),
            None => assert!(!parameter.name.contains("layers.1")),
        }
    }
}
