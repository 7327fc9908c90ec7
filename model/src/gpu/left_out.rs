//! What of a GPU's mechanisms is left out, so that whoever finds one faulty on a machine goes on without it: `SELFPLAY_WITHOUT` names
//! them, with commas between. Each has a plainer form that takes its place. Kernels for compute capability 9.0 alone have a variable of
//! their own (`hopper.rs`).

use std::cell::Cell;
use std::env;
use std::sync::OnceLock;

use candle_core::{Result, bail};

/// The variable.
const VARIABLE: &str = "SELFPLAY_WITHOUT";

/// What can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuMechanism {
    /// Steps of sampling as graphs; without, every kernel is started by itself. The same bits.
    CapturedSteps,
    /// Steps that begin before the last one is read; without, host and GPU wait for each other. The same bits.
    StepsAhead,
    /// A cache of keys and values that grows where it stands; without, a larger one takes its place. The same bits.
    GrowingCache,
    /// Page-locked memory of the host; without, copies wait for each other. The same bits.
    PageLocks,
    /// Weights that are read into page-locked memory piece by piece; without, tensor by tensor. The same bits.
    StagedLoading,
    /// Copies on streams of their own; without, on the stream that computes. The same bits.
    CopiesBeside,
    /// Products in FP8 by cuBLASLt; without, by our own kernel. Other bits.
    Fp8Library,
}

/// Some of them, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LeftOut(u8);

thread_local! {
    static CHOSEN: Cell<Option<LeftOut>> = const { Cell::new(None) };
}

impl GpuMechanism {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CapturedSteps,
        Self::StepsAhead,
        Self::GrowingCache,
        Self::PageLocks,
        Self::StagedLoading,
        Self::CopiesBeside,
        Self::Fp8Library,
    ];

    /// Its word in the variable.
    pub fn word(self) -> &'static str {
        match self {
            Self::CapturedSteps => "captured-steps",
            Self::StepsAhead => "steps-ahead",
            Self::GrowingCache => "growing-cache",
            Self::PageLocks => "page-locks",
            Self::StagedLoading => "staged-loading",
            Self::CopiesBeside => "copies-beside",
            Self::Fp8Library => "fp8-library",
        }
    }

    /// Whether it is left out on this thread.
    pub fn is_left_out(self) -> bool {
        // What is wrong in the variable is told where a GPU is opened.
        let left_out = CHOSEN.get().or_else(|| from_environment().as_ref().ok().copied());
        left_out.unwrap_or_default().has(self)
    }

    /// Runs `f`, whose operations on this thread go without these, whatever the environment says: for comparing.
    pub fn without<R>(mechanisms: &[Self], f: impl FnOnce() -> R) -> R {
        /// Also where `f` panics.
        struct Restore(Option<LeftOut>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CHOSEN.set(self.0);
            }
        }
        let left_out = mechanisms.iter().fold(LeftOut::default(), |all, &one| all.with(one));
        let _restore = Restore(CHOSEN.replace(Some(left_out)));
        f()
    }
}

impl LeftOut {
    fn has(self, one: GpuMechanism) -> bool {
        self.0 & (1 << one as u8) != 0
    }

    fn with(self, one: GpuMechanism) -> Self {
        Self(self.0 | 1 << one as u8)
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).try_fold(
            Self::default(),
            |all, word| match GpuMechanism::ALL.into_iter().find(|one| one.word() == word) {
                Some(one) => Ok(all.with(one)),
                None => {
                    let words = GpuMechanism::ALL.map(GpuMechanism::word).join(", ");
                    Err(format!("{word:?} is none of {words}"))
                }
            },
        )
    }
}

fn from_environment() -> &'static std::result::Result<LeftOut, String> {
    static FROM_ENVIRONMENT: OnceLock<std::result::Result<LeftOut, String>> = OnceLock::new();
    FROM_ENVIRONMENT.get_or_init(|| LeftOut::parse(&env::var(VARIABLE).unwrap_or_default()))
}

/// Refuses words in the variable that name nothing.
///
/// # Errors
/// The first of them.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn check_left_out() -> Result<()> {
    match from_environment() {
        Ok(_) => Ok(()),
        Err(problem) => bail!("{VARIABLE}: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_mechanisms() {
        assert_eq!(LeftOut::parse(""), Ok(LeftOut::default()));
        let both = LeftOut::parse(" page-locks,captured-steps,").unwrap();
        for one in GpuMechanism::ALL {
            let is_named = matches!(one, GpuMechanism::PageLocks | GpuMechanism::CapturedSteps);
            assert_eq!(both.has(one), is_named, "{one:?}");
            assert_eq!(LeftOut::parse(one.word()), Ok(LeftOut::default().with(one)));
        }
        let refused = LeftOut::parse("graphs").unwrap_err();
        assert!(refused.contains("\"graphs\" is none of captured-steps, steps-ahead"), "{refused}");
    }

    #[test]
    fn what_is_left_out_comes_back() {
        assert!(!GpuMechanism::PageLocks.is_left_out());
        GpuMechanism::without(&[GpuMechanism::PageLocks], || {
            assert!(GpuMechanism::PageLocks.is_left_out() && !GpuMechanism::GrowingCache.is_left_out());
        });
        assert!(!GpuMechanism::PageLocks.is_left_out());
    }
}
