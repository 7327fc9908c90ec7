//! Which of the kernels for compute capability 9.0 operations take in the place of those for every GPU.
//!
//! `SELFPLAY_HOPPER` names them. Where it names none, whoever runs the program chooses, before the first operation, by what this
//! machine has shown ([`crate::check::try_hopper`]); of a library nobody does, and none runs. On other GPUs, in builds for other
//! capabilities, for f32 and for shapes that they are not made for, the others run whatever is chosen.

use std::cell::Cell;
use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use candle_core::{Result, bail};

use super::Gpu;
use super::hopper::HopperKernels;

/// The variable that names them, with commas between. Absent, empty or `auto`: what the machine has shown.
pub const HOPPER_VARIABLE: &str = "SELFPLAY_HOPPER";

thread_local! {
    static CHOSEN: Cell<Option<HopperKernels>> = const { Cell::new(None) };
}

/// The process's: the bits of the kernels, and [`IS_INSTALLED`].
static INSTALLED: AtomicU16 = AtomicU16::new(0);

/// Whether there is a choice.
const IS_INSTALLED: u16 = 1 << 8;

impl HopperKernels {
    /// Runs `f`, whose operations on this thread take these kernels whatever else says: for comparing them with the others.
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        /// Also where `f` panics.
        struct Restore(Option<HopperKernels>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CHOSEN.set(self.0);
            }
        }
        let _restore = Restore(CHOSEN.replace(Some(self)));
        f()
    }

    /// From here on the operations of all threads take these kernels, in the place of an earlier choice.
    pub fn install(self) {
        INSTALLED.store(u16::from(self.bits) | IS_INSTALLED, Ordering::Relaxed);
    }

    /// What was installed last.
    fn installed() -> Option<Self> {
        let [is_installed, bits] = INSTALLED.load(Ordering::Relaxed).to_be_bytes();
        (is_installed != 0).then_some(Self { bits })
    }

    /// Those that the variable names; `None` where it leaves it to the program.
    ///
    /// # Errors
    /// Words in it that name none.
    pub fn named() -> std::result::Result<Option<Self>, String> {
        static NAMED: OnceLock<std::result::Result<Option<HopperKernels>, String>> = OnceLock::new();
        let named = NAMED.get_or_init(|| of_variable(&env::var(HOPPER_VARIABLE).unwrap_or_default()));
        named.clone().map_err(|problem| format!("{HOPPER_VARIABLE}: {problem}"))
    }

    /// Those that run on this GPU.
    ///
    /// # Errors
    /// Words in the variable that name none.
    pub(crate) fn on(gpu: &Gpu) -> Result<Self> {
        if gpu.has_hopper() { Self::on_hopper() } else { Ok(Self::NONE) }
    }

    /// Those that would run on a GPU of compute capability 9.0, for whoever plans for one.
    ///
    /// # Errors
    /// Words in the variable that name none.
    pub fn on_hopper() -> Result<Self> {
        if let Some(chosen) = CHOSEN.get().or_else(Self::installed) {
            return Ok(chosen);
        }
        match Self::named() {
            Ok(named) => Ok(named.unwrap_or(Self::NONE)),
            Err(problem) => bail!("{problem}"),
        }
    }
}

fn of_variable(text: &str) -> std::result::Result<Option<HopperKernels>, String> {
    match text.trim() {
        "" | "auto" => Ok(None),
        words => HopperKernels::parse(words).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::super::HopperKernel;
    use super::*;

    #[test]
    fn the_variable_leaves_it_to_the_program_or_names_kernels() {
        for text in ["", " ", "auto"] {
            assert_eq!(of_variable(text), Ok(None), "{text:?}");
        }
        assert_eq!(of_variable("none"), Ok(Some(HopperKernels::NONE)));
        assert_eq!(of_variable("products"), Ok(Some(HopperKernels::only(HopperKernel::Products))));
        assert!(of_variable("auto,products").is_err());
    }

    #[test]
    fn a_choice_ends_with_its_closure() {
        assert_eq!(CHOSEN.get(), None);
        HopperKernels::ALL.run(|| {
            assert_eq!(CHOSEN.get(), Some(HopperKernels::ALL));
            HopperKernels::NONE.run(|| assert_eq!(CHOSEN.get(), Some(HopperKernels::NONE)));
            assert_eq!(CHOSEN.get(), Some(HopperKernels::ALL));
        });
        assert_eq!(CHOSEN.get(), None);
    }

    /// The choice of a thread goes before that of the process, which stays for its threads.
    #[test]
    fn what_is_installed_is_for_all_threads() {
        let some = HopperKernels::only(HopperKernel::Attention128);
        // Of this process's tests no other asks without a choice of its own.
        some.install();
        assert_eq!(std::thread::spawn(|| HopperKernels::on_hopper().unwrap()).join().unwrap(), some);
        HopperKernels::ALL.run(|| assert_eq!(HopperKernels::on_hopper().unwrap(), HopperKernels::ALL));
        HopperKernels::NONE.install();
        assert_eq!(HopperKernels::on_hopper().unwrap(), HopperKernels::NONE);
    }
}
