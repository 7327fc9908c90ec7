//! A trial of the kernels for Hopper in the emulator: of those that are right, of one that is wrong, of one that a device refuses.

use std::sync::Arc;

use candle_core::{Result, bail};
use selfplay_model::check::{CheckTarget, HopperTrial, InputSize, try_hopper};
use selfplay_model::gpu::{
    Argument, Captured, Gemm, HopperKernel, HopperKernels, Launch, Launcher, PageLocker,
};
use selfplay_testing::Emulator;

/// What happens to kernels of a name.
#[derive(Clone, Copy)]
enum Mistake {
    /// They write one number wrongly.
    WrongNumber,
    /// The device refuses them.
    Refused,
}

/// The emulator with a mistake in some kernels.
struct Faulty {
    emulator: Emulator,
    kernels: &'static str,
    mistake: Mistake,
}

impl PageLocker for Faulty {}

impl Launcher for Faulty {
    fn launch(&self, launch: &Launch) -> Result<()> {
        if !launch.kernel.starts_with(self.kernels) {
            return self.emulator.launch(launch);
        }
        if let Mistake::Refused = self.mistake {
            bail!("CUDA_ERROR_ILLEGAL_ADDRESS\n  and a backtrace")
        }
        self.emulator.launch(launch)?;
        let Some(&Argument::Pointer(output)) = launch.arguments.first() else { bail!("an output is first") };
        // SAFETY: the kernel has written its output there just now: bf16 of more numbers than one, here 2 to the power of 100.
        unsafe { *(output as *mut u16) = 0x7180 };
        Ok(())
    }

    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        self.emulator.gemm(gemm)
    }

    fn has_hopper(&self) -> bool {
        true
    }

    fn begin_capture(&self) -> Result<()> {
        self.emulator.begin_capture()
    }

    fn end_capture(&self) -> Result<Box<dyn Captured>> {
        self.emulator.end_capture()
    }
}

fn trial(target: &CheckTarget, kernels: &str) -> Vec<HopperTrial> {
    try_hopper(target, HopperKernels::parse(kernels).unwrap(), InputSize::Small, 1).unwrap()
}

#[test]
fn kernels_that_are_right_are_timed() {
    let Some(emulator) = Emulator::build() else { return };
    let target = CheckTarget::Emulator(Arc::new(emulator));
    let trials = trial(&target, "products,attention-64,attention-backward-64");
    let tried: Vec<HopperKernel> = trials.iter().map(|trial| trial.kernel).collect();
    assert_eq!(tried, [HopperKernel::Products, HopperKernel::Attention64, HopperKernel::AttentionBackward64]);
    for trial in &trials {
        assert!(trial.is_right() && trial.deviations.len() >= 8, "{trial:?}");
        // Two numbers of rows, and one batch.
        assert_eq!(trial.timings.len(), if trial.kernel.head_dim().is_some() { 1 } else { 2 }, "{trial:?}");
        for timing in &trial.timings {
            assert!(timing.usual_seconds > 0.0 && timing.hopper_seconds > 0.0, "{timing:?}");
        }
        let is_batch_free = trial.deviations.iter().any(|one| one.name.contains("in any batch"));
        assert_eq!(is_batch_free, trial.kernel == HopperKernel::Products);
    }
}

/// One number of a result that is far off is seen, and what is wrong is not timed; the others are tried all the same.
#[test]
fn a_kernel_that_is_wrong_or_refused_is_not_right_and_spoils_no_other() {
    let Some(emulator) = Emulator::build() else { return };
    for mistake in [Mistake::WrongNumber, Mistake::Refused] {
        let emulator = emulator.clone();
        let faulty = Faulty { emulator, kernels: "hopper_attention_forward_64", mistake };
        let target = CheckTarget::Emulator(Arc::new(faulty));
        let trials = trial(&target, "attention-64,attention-backward-64");
        let [wrong, right] = &trials[..] else { panic!("two") };
        assert!(!wrong.is_right() && wrong.timings.is_empty(), "{wrong:?}");
        match mistake {
            Mistake::WrongNumber => assert!(wrong.deviations.iter().any(|one| one.distance > one.bound)),
            Mistake::Refused => assert_eq!(wrong.error.as_deref(), Some("CUDA_ERROR_ILLEGAL_ADDRESS")),
        }
        assert!(right.is_right(), "the backward goes by the usual forward: {right:?}");
    }
}

#[test]
fn a_target_without_them_is_an_error() {
    let found =
        try_hopper(&CheckTarget::Device(candle_core::Device::Cpu), HopperKernels::ALL, InputSize::Small, 1);
    assert!(found.unwrap_err().to_string().contains("compute capability 9.0"));
}
