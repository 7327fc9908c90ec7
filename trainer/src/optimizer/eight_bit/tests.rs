//! bitsandbytes' numbers, threads, a GPU's form, and states that go on from a checkpoint.

use candle_core::DType;
use selfplay_model::linear::{Linear, NewModule};
use selfplay_model::{Gradients, Parameters};
use selfplay_testing::Emulator;

use super::*;
use crate::TrainSettings;
use crate::optimizer::Optimizer;
use crate::settings::OptimizerKind;

/// Made by tests/parity/reference/optimizers_8bit.py, which also says what it runs.
const BITSANDBYTES: &str = include_str!("../../../../tests/parity/reference/optimizers_8bit.json");
const NUMBERS: usize = 4300;
const BIASES: usize = 100;
const STEPS: u32 = 6;

fn tensor(values: Vec<f64>) -> Tensor {
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// The gradient of step `t`, from 1, as the script has it.
fn gradient(t: u32) -> Tensor {
    let of = |i: usize| match i / BLOCK {
        2 => 0.0,
        _ => (0.7 * f64::from(t) + 0.013 * i as f64).sin() * 10f64.powf(-((i % 7) as f64) / 2.0),
    };
    tensor((0..NUMBERS).map(of).collect())
}

fn rate(t: u32) -> f64 {
    0.01 * f64::from(t - 1) / f64::from(STEPS)
}

/// A matrix as the script has it, whose state is coded, and a small bias, whose state is not; f32.
fn parameters() -> Parameters {
    of_values(tensor((0..NUMBERS).map(|i| (i as f64).sin() / 2.0).collect()))
}

fn of_values(values: Tensor) -> Parameters {
    let mut parameters = Parameters::default();
    let bias = values.narrow(0, 0, BIASES).unwrap().force_contiguous().unwrap();
    let weight = values.reshape((BIASES, ())).unwrap();
    let module = NewModule { name: "map".to_owned(), weight, bias: Some(bias) };
    Linear::insert(&mut parameters, vec![module]).unwrap();
    parameters.keep_masters().unwrap();
    parameters
}

fn cases() -> Vec<(&'static str, TrainSettings)> {
    let adamw = TrainSettings { optimizer: OptimizerKind::AdamW8Bit, ..TrainSettings::default() };
    let rmsprop = TrainSettings { optimizer: OptimizerKind::RmsProp8Bit, ..TrainSettings::default() };
    vec![
        ("adamw8bit", adamw.clone()),
        (
            "adamw8bit_decay",
            TrainSettings { adam_beta1: 0.8, adam_beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1, ..adamw },
        ),
        ("rmsprop8bit", rmsprop.clone()),
        (
            "rmsprop8bit_decay",
            TrainSettings { rmsprop_alpha: 0.95, epsilon: 1e-4, weight_decay: 0.1, ..rmsprop },
        ),
    ]
}

/// Takes the steps of `steps`, whose gradients come in divided by `clip_scale`.
fn run(
    optimizer: &mut Optimizer,
    parameters: &Parameters,
    steps: std::ops::RangeInclusive<u32>,
    clip_scale: f64,
) {
    for t in steps {
        let gradients = Gradients::zeros(parameters).unwrap();
        for (id, parameter) in parameters.iter() {
            let count = parameter.value.elem_count();
            let value = (gradient(t).narrow(0, 0, count).unwrap() / clip_scale).unwrap();
            let value = value.reshape(parameter.value.shape()).unwrap();
            gradients.get(id).unwrap().slice_set(&value, 0, 0).unwrap();
        }
        optimizer.step(parameters, &gradients, rate(t), clip_scale).unwrap();
    }
}

fn weights(parameters: &Parameters) -> Vec<f32> {
    let values = parameters.iter().map(|(_, p)| p.full().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    values.flatten().collect()
}

/// All state, as text that is equal for equal bits.
fn state(optimizer: &Optimizer) -> Vec<String> {
    let text = |(name, tensor): (String, Tensor)| match tensor.dtype() {
        DType::U8 => format!("{name} {:?}", tensor.to_vec1::<u8>().unwrap()),
        _ => {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            format!("{name} {:?}", values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        }
    };
    optimizer.state().into_iter().map(text).collect()
}

#[test]
fn maps_are_bitsandbytes_s_bit_for_bit() {
    let golden: serde_json::Value = serde_json::from_str(BITSANDBYTES).unwrap();
    for (name, code) in [("signed", Code::signed()), ("unsigned", Code::unsigned())] {
        let want: Vec<f32> =
            golden["maps"][name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(code.levels.as_slice(), want, "{name}");
    }
}

#[test]
fn six_steps_equal_bitsandbytes_s() {
    let golden: serde_json::Value = serde_json::from_str(BITSANDBYTES).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    for (name, settings) in cases() {
        let want = &golden[name];
        let parameters = parameters();
        let mut optimizer = Optimizer::new(&settings, &parameters).unwrap();
        run(&mut optimizer, &parameters, 1..=STEPS, 0.25);
        let got = weights(&parameters);
        // A number at the border between two levels may be rounded to either, and its weight moves by another step then.
        let far = numbers(&want["weights"])
            .iter()
            .zip(got.iter().step_by(13))
            .filter(|(want, got)| (**want - f64::from(**got)).abs() > 2e-6)
            .count();
        assert!(far <= 4, "{name}: {far} weights differ");
        let state = optimizer.state();
        let tensors: Vec<&(String, Tensor)> =
            state.iter().filter(|(name, _)| name.ends_with(".map.weight")).collect();
        let places = if want.get("codes2").is_some() { 2 } else { 1 };
        assert_eq!(tensors.len(), 2 * places, "{name}");
        for place in 0..places {
            let codes: Vec<u8> = tensors[2 * place].1.to_vec1().unwrap();
            let theirs = numbers(&want[format!("codes{}", place + 1)]);
            let (mut other, mut zeros) = (0, 0);
            for (i, (mine, theirs)) in codes.iter().step_by(13).zip(&theirs).enumerate() {
                // They give a block of zeros another magnitude.
                zeros += usize::from(i * 13 / BLOCK == 2);
                other += usize::from(f64::from(*mine) != *theirs);
                assert!(
                    (f64::from(*mine) - theirs).abs() <= 1.0,
                    "{name}: {i}: code {mine}, theirs {theirs}"
                );
            }
            assert!(other <= zeros + 4, "{name}: {other} codes differ");
            let magnitudes: Vec<f32> = tensors[2 * place + 1].1.to_vec1().unwrap();
            for (block, (mine, theirs)) in
                magnitudes.iter().zip(numbers(&want[format!("magnitudes{}", place + 1)])).enumerate()
            {
                let mine = f64::from(*mine);
                let is_zero = mine == 0.0 && theirs == 1.0;
                assert!(is_zero || (mine - theirs).abs() <= 1e-5 * theirs, "{name} {block}: {mine} {theirs}");
            }
        }
    }
}

#[test]
fn small_parameters_keep_their_state_in_32_bits() {
    for (_, settings) in cases() {
        let wide = match settings.optimizer {
            OptimizerKind::AdamW8Bit => OptimizerKind::AdamW,
            _ => OptimizerKind::RmsProp,
        };
        let ran = [settings.optimizer, wide].map(|optimizer| {
            let parameters = parameters();
            let mut optimizer =
                Optimizer::new(&TrainSettings { optimizer, ..settings.clone() }, &parameters).unwrap();
            run(&mut optimizer, &parameters, 1..=STEPS, 1.0);
            let all = optimizer.state();
            let bytes: usize = all.iter().map(|(_, t)| t.elem_count() * t.dtype().size_in_bytes()).sum();
            let planned =
                settings_bytes(&TrainSettings { optimizer: settings.optimizer, ..settings.clone() });
            if optimizer.tables.is_none() && all.iter().any(|(name, _)| name.contains("_codes.")) {
                assert_eq!(bytes as u64, planned);
            }
            weights(&parameters)[NUMBERS..].to_vec()
        });
        assert_eq!(ran[0], ran[1]);
    }
}

fn settings_bytes(settings: &TrainSettings) -> u64 {
    settings.state_bytes(NUMBERS as u64) + settings.state_bytes(BIASES as u64)
}

#[test]
fn threads_change_no_bit() {
    for (name, settings) in cases() {
        let ran = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let parameters = parameters();
            let mut optimizer = Optimizer::new(&settings, &parameters).unwrap();
            pool.install(|| run(&mut optimizer, &parameters, 1..=STEPS, 1.0));
            (weights(&parameters), state(&optimizer))
        });
        assert!(ran[0] == ran[1], "{name}");
    }
}

#[test]
fn a_state_that_was_kept_goes_on_to_the_same_bits() {
    for (name, settings) in cases() {
        let whole = parameters();
        let mut optimizer = Optimizer::new(&settings, &whole).unwrap();
        run(&mut optimizer, &whole, 1..=STEPS, 1.0);
        let parts = parameters();
        let mut first = Optimizer::new(&settings, &parts).unwrap();
        run(&mut first, &parts, 1..=3, 1.0);
        let mut second = Optimizer::new(&settings, &parts).unwrap();
        second.load_state(first.state(), 3).unwrap();
        run(&mut second, &parts, 4..=STEPS, 1.0);
        assert!(weights(&whole) == weights(&parts) && state(&optimizer) == state(&second), "{name}");
        // The state of another form is refused.
        let wide = TrainSettings { optimizer: OptimizerKind::AdamW, ..settings };
        assert!(Optimizer::new(&wide, &parts).unwrap().load_state(second.state(), 6).is_err(), "{name}");
    }
}

#[test]
fn a_gpu_s_steps_are_those_of_the_cpu() {
    // Numbers that bf16 holds, so that masters begin with the same ones.
    let values = parameters().iter().next().unwrap().1.value.flatten_all().unwrap();
    let rounded = values.to_dtype(DType::BF16).unwrap();
    for (name, settings) in cases() {
        let cpu = of_values(rounded.to_dtype(DType::F32).unwrap());
        let mut optimizer = Optimizer::new(&settings, &cpu).unwrap();
        run(&mut optimizer, &cpu, 1..=STEPS, 0.5);
        let want = state(&optimizer);
        let Some(_gpu) = Emulator::start() else { return };
        for dtype in [DType::F32, DType::BF16] {
            let gpu = of_values(rounded.to_dtype(dtype).unwrap());
            let mut optimizer = Optimizer::new(&settings, &gpu).unwrap();
            run(&mut optimizer, &gpu, 1..=STEPS, 0.5);
            assert!(weights(&gpu) == weights(&cpu) && state(&optimizer) == want, "{name} {dtype:?}");
            let numbers =
                |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            for (_, parameter) in gpu.iter() {
                let rounded = parameter.full().to_dtype(dtype).unwrap();
                assert!(
                    numbers(&rounded) == numbers(&parameter.value),
                    "{name} {dtype:?}: a copy is not its master's"
                );
            }
        }
    }
}
