use std::sync::atomic::Ordering::Relaxed;

use candle_core::{DType, Device, Tensor};

use super::super::adamw::AdamW;
use super::super::rmsprop::RmsProp;
use super::super::state::ParameterState;
use super::super::{StepScalars, step_cpu};
use super::staging::BUFFERS;
use super::staging::PIECE;
use super::*;
use crate::TrainSettings;
use crate::slow_copies::SlowCopies;

fn numbers(count: usize, seed: usize) -> Tensor {
    let values: Vec<f32> = (0..count).map(|i| ((i * 37 + seed * 101) % 89) as f32 / 44.0 - 1.0).collect();
    Tensor::from_vec(values, count, &Device::Cpu).unwrap()
}

const SCALARS: StepScalars = StepScalars { rate: 1e-2, clip_scale: 0.7, weight_decay: 0.1, step: 3 };

/// A parameter's tensors.
struct Numbers {
    weight: Tensor,
    copy: Tensor,
    gradient: Tensor,
    state: ParameterState,
}

impl Numbers {
    fn new(count: usize, copied: DType, state: ParameterState) -> Self {
        let copy = Tensor::zeros(count, copied, &Device::Cpu).unwrap();
        Self { weight: numbers(count, 1), copy, gradient: numbers(count, 2), state }
    }

    fn offloaded(&self, on_host: bool) -> OffloadedParameter {
        let gradient = match on_host {
            true => GradientPlace::Host(self.gradient.clone()),
            false => GradientPlace::Device(self.gradient.clone()),
        };
        OffloadedParameter {
            scalars: SCALARS,
            weight: self.weight.clone(),
            copy: Some(self.copy.clone()),
            gradient,
            state: self.state.clone(),
        }
    }

    fn state_bytes(&self) -> Vec<Vec<f32>> {
        let named = self.state.named([Some("first"), Some("second"), None], "");
        named.iter().map(|(_, tensor)| bits(tensor)).collect()
    }
}

fn bits(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn rmsprop() -> Rule {
    Rule::RmsProp(RmsProp::new(&TrainSettings::default()))
}

fn wide(count: usize) -> ParameterState {
    ParameterState::Wide([Some(numbers(count, 3).abs().unwrap()), None, None])
}

/// More pieces than are ever under way, the last one short, and parameters of one number; copies that are done when somebody waits.
#[test]
fn pieces_change_no_bit_and_all_weights_go_back() {
    let sizes = [1, 5 * PIECE + 3, 7, PIECE];
    for (on_host, copied) in [(false, DType::BF16), (true, DType::BF16), (false, DType::F32)] {
        let make = || sizes.map(|count| Numbers::new(count, copied, wide(count)));
        let (whole, parts) = (make(), make());
        for one in &whole {
            step_cpu(&rmsprop(), SCALARS, &one.weight, &one.gradient, &one.state).unwrap();
        }
        let copies = SlowCopies::default();
        let mut staging = Staging::new(Box::new(copies.clone()));
        let offloaded: Vec<_> = parts.iter().map(|one| one.offloaded(on_host)).collect();
        step(&rmsprop(), &offloaded, &mut staging, CopyStart::AfterWork).unwrap();
        for (want, got) in whole.iter().zip(&parts) {
            assert!(bits(&want.weight) == bits(&got.weight), "{copied:?}");
            assert!(bits(&want.weight.to_dtype(copied).unwrap()) == bits(&got.copy), "{copied:?}");
            assert!(want.state_bytes() == got.state_bytes());
        }
        let pieces = 1 + 6 + 1 + 1;
        assert_eq!(copies.seen.started.load(Relaxed), if on_host { pieces } else { 2 * pieces });
        let most = copies.seen.most.load(Relaxed);
        assert!((2..=BUFFERS).contains(&most) || (on_host && most <= BUFFERS), "{most} at a time");
        // Two rooms to a buffer, both large enough to be locked; kept for the next step, then given back.
        let locked = copies.seen.locked.load(Relaxed);
        assert_eq!((locked, copies.seen.unlocked.load(Relaxed)), (2 * BUFFERS, 0));
        step(&rmsprop(), &offloaded[..1], &mut staging, CopyStart::AfterWork).unwrap();
        assert_eq!(copies.seen.locked.load(Relaxed), locked);
        drop(staging);
        assert_eq!(copies.seen.unlocked.load(Relaxed), locked);
    }
}

#[test]
fn state_in_eight_bits_is_cut_between_its_blocks() {
    let count = PIECE + 12_345;
    let rule = Rule::AdamW(AdamW::new(&TrainSettings::default()));
    let make = || {
        let names = [Some("first"), Some("second"), None];
        Numbers::new(count, DType::BF16, ParameterState::zeros(names, &numbers(count, 1), true).unwrap())
    };
    let (whole, parts) = (make(), make());
    for _ in 0..2 {
        step_cpu(&rule, SCALARS, &whole.weight, &whole.gradient, &whole.state).unwrap();
    }
    let mut staging = Staging::new(Box::new(SlowCopies::default()));
    for _ in 0..2 {
        step(&rule, &[parts.offloaded(false)], &mut staging, CopyStart::AfterWork).unwrap();
    }
    assert!(bits(&whole.weight) == bits(&parts.weight) && whole.state_bytes() == parts.state_bytes());
    assert!(bits(&whole.weight.to_dtype(DType::BF16).unwrap()) == bits(&parts.copy));
}

#[test]
fn an_error_of_the_update_is_the_step_s() {
    // A state of another length.
    let broken = Numbers::new(8, DType::BF16, wide(3));
    let good: Vec<Numbers> = (0..9).map(|_| Numbers::new(5, DType::BF16, wide(5))).collect();
    let mut staging = Staging::new(Box::new(SlowCopies::default()));
    let all: Vec<_> = [&broken].into_iter().chain(&good).map(|one| one.offloaded(false)).collect();
    assert!(step(&rmsprop(), &all, &mut staging, CopyStart::Now).is_err());
}

#[test]
fn a_lost_copy_is_the_step_s_error_wherever_it_is() {
    for lost in 1..=8 {
        let parameters: Vec<Numbers> = (0..4).map(|_| Numbers::new(5, DType::BF16, wide(5))).collect();
        let copies = SlowCopies::default();
        copies.seen.refused.store(lost, Relaxed);
        let mut staging = Staging::new(Box::new(copies));
        let all: Vec<_> = parameters.iter().map(|one| one.offloaded(false)).collect();
        let error = step(&rmsprop(), &all, &mut staging, CopyStart::Now).unwrap_err().to_string();
        assert!(error.contains(&format!("copy {lost} is lost")), "{error}");
    }
}
