//! torch's numbers, a scalar reference in f64, chunks and threads.

use proptest::prelude::*;

use candle_core::{DType, Device};

use super::*;

/// Made by tests/parity/reference/optimizers.py, which also says what it runs.
const TORCH: &str = include_str!("../../../tests/parity/reference/optimizers.json");
const WEIGHTS: [f64; 5] = [0.5, -1.0, 0.0, 2.0, -0.25];

/// The gradient of step `t`, from 1, as the script has it.
fn gradient(t: u64) -> Vec<f64> {
    let mut g: Vec<f64> =
        (0..5).map(|i| f64::from(3 * t as u32 + i).sin() * f64::from(i + 1) / 4.0).collect();
    if t % 2 == 1 {
        g[2] = 0.0;
    }
    g
}

fn rate(t: u64) -> f64 {
    0.01 * (t - 1) as f64 / 10.0
}

fn rule(settings: &TrainSettings) -> Rule {
    match settings.optimizer {
        OptimizerKind::RmsProp | OptimizerKind::RmsProp8Bit => Rule::RmsProp(RmsProp::new(settings)),
        OptimizerKind::AdamW | OptimizerKind::AdamW8Bit => Rule::AdamW(AdamW::new(settings)),
    }
}

fn tensor(values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn zero_state(rule: &Rule, length: usize) -> ParameterState {
    let value = Tensor::zeros(length, DType::F32, &Device::Cpu).unwrap();
    ParameterState::zeros(rule.state_names(), &value, false).unwrap()
}

/// The settings of the script's cases.
fn cases() -> Vec<(&'static str, TrainSettings)> {
    let rmsprop = TrainSettings::default();
    let adamw = TrainSettings { optimizer: OptimizerKind::AdamW, ..TrainSettings::default() };
    vec![
        ("rmsprop", rmsprop.clone()),
        (
            "rmsprop_centered",
            TrainSettings { rmsprop_alpha: 0.9, epsilon: 1e-3, centered: true, ..rmsprop.clone() },
        ),
        ("rmsprop_momentum", TrainSettings { momentum: 0.9, ..rmsprop.clone() }),
        (
            "rmsprop_all",
            TrainSettings {
                rmsprop_alpha: 0.95,
                epsilon: 1e-4,
                centered: true,
                momentum: 0.8,
                weight_decay: 0.1,
                ..rmsprop
            },
        ),
        ("adamw", adamw.clone()),
        (
            "adamw_decay",
            TrainSettings { adam_beta1: 0.8, adam_beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1, ..adamw },
        ),
    ]
}

struct Ran {
    weights: Vec<f32>,
    state: Vec<(String, Vec<f32>)>,
}

/// Ten steps; gradients come in divided by `clip_scale`, so that the result is the same for any.
fn ten_steps(settings: &TrainSettings, clip_scale: f64) -> Ran {
    let rule = rule(settings);
    let weights = tensor(&WEIGHTS);
    let state = zero_state(&rule, WEIGHTS.len());
    for step in 1..=10 {
        let g: Vec<f64> = gradient(step).iter().map(|g| g / clip_scale).collect();
        let scalars = StepScalars { rate: rate(step), clip_scale, weight_decay: settings.weight_decay, step };
        step_cpu(&rule, scalars, &weights, &tensor(&g), &state).unwrap();
    }
    Ran {
        weights: weights.to_vec1().unwrap(),
        state: state
            .named(rule.state_names(), "w")
            .into_iter()
            .map(|(name, tensor)| (name.trim_end_matches(".w").to_owned(), tensor.to_vec1().unwrap()))
            .collect(),
    }
}

#[track_caller]
fn near(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    // A momentum buffer passes through values of the vector's size on its way to a small one: rounding is that size's.
    let size = want.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
    for (got, want) in got.iter().zip(want) {
        let off = (f64::from(*got) - want).abs();
        assert!(off <= 3e-6 * want.abs().max(0.1 * size), "{what}: got {got}, want {want}");
    }
}

#[test]
fn ten_steps_equal_torchs() {
    let torch: serde_json::Value = serde_json::from_str(TORCH).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    for (name, settings) in cases() {
        for clip_scale in [1.0, 0.25] {
            let ran = ten_steps(&settings, clip_scale);
            near(&ran.weights, &numbers(&torch[name]["weights"]), name);
            assert_eq!(ran.state.len(), torch[name]["state"].as_object().unwrap().len(), "{name}");
            for (state, values) in ran.state {
                near(&values, &numbers(&torch[name]["state"][&state]), &format!("{name} {state}"));
            }
        }
    }
}

/// One element over ten steps, written down from the equations, in f64.
fn reference(settings: &TrainSettings, mut w: f64, gradients: impl Fn(u64) -> f64) -> f64 {
    let (mut first, mut second, mut buffer) = (0.0, 0.0, 0.0);
    for t in 1..=10u64 {
        let mut g = gradients(t);
        match settings.optimizer {
            OptimizerKind::RmsProp | OptimizerKind::RmsProp8Bit => {
                g += settings.weight_decay * w;
                let alpha = settings.rmsprop_alpha;
                second = alpha * second + (1.0 - alpha) * g * g;
                first = alpha * first + (1.0 - alpha) * g;
                let variance: f64 = if settings.centered { second - first * first } else { second };
                buffer = settings.momentum * buffer + g / (variance.sqrt() + settings.epsilon);
                w -= rate(t) * buffer;
            }
            OptimizerKind::AdamW | OptimizerKind::AdamW8Bit => {
                let (b1, b2) = (settings.adam_beta1, settings.adam_beta2);
                w -= rate(t) * settings.weight_decay * w;
                first = b1 * first + (1.0 - b1) * g;
                second = b2 * second + (1.0 - b2) * g * g;
                let mean = first / (1.0 - b1.powi(t as i32));
                let square: f64 = second / (1.0 - b2.powi(t as i32));
                w -= rate(t) * mean / (square.sqrt() + settings.epsilon);
            }
        }
    }
    w
}

#[test]
fn ten_steps_equal_a_reference_in_f64() {
    for (name, settings) in cases() {
        let want: Vec<f64> =
            WEIGHTS.iter().enumerate().map(|(i, &w)| reference(&settings, w, |t| gradient(t)[i])).collect();
        near(&ten_steps(&settings, 1.0).weights, &want, name);
    }
}

#[test]
fn rate_0_fills_the_state_and_moves_nothing() {
    for (name, settings) in cases() {
        let rule = rule(&settings);
        let weights = tensor(&WEIGHTS);
        let state = zero_state(&rule, WEIGHTS.len());
        let scalars = StepScalars { rate: 0.0, clip_scale: 1.0, weight_decay: 0.1, step: 1 };
        step_cpu(&rule, scalars, &weights, &tensor(&gradient(2)), &state).unwrap();
        assert_eq!(weights.to_vec1::<f32>().unwrap(), WEIGHTS.map(|x| x as f32), "{name}");
        for (_, tensor) in state.named(rule.state_names(), "w") {
            assert!(tensor.to_vec1::<f32>().unwrap().iter().all(|&x| x != 0.0), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every element gets its own state whatever chunk it is in: a long tensor of repeated values stays so.
    #[test]
    fn chunks_and_threads_change_no_bit(length in 1usize..70_000, threads in 1usize..4, case in 0usize..6) {
        let (_, settings) = cases().swap_remove(case);
        let short = ten_steps(&settings, 1.0);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let repeat = |values: &[f64]| -> Vec<f64> { values.iter().copied().cycle().take(length).collect() };
        let rule = rule(&settings);
        let weights = tensor(&repeat(&WEIGHTS));
        let state = zero_state(&rule, length);
        for step in 1..=10 {
            let scalars =
                StepScalars { rate: rate(step), clip_scale: 1.0, weight_decay: settings.weight_decay, step };
            pool.install(|| step_cpu(&rule, scalars, &weights, &tensor(&repeat(&gradient(step))), &state)).unwrap();
        }
        let got = weights.to_vec1::<f32>().unwrap();
        prop_assert!(got.iter().zip(short.weights.iter().cycle()).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
