//! One body, compiled for each instruction set, chosen at run time.
//!
//! A function declared inside `simd!` is compiled three times: AVX-512, AVX2 with
//! FMA, and the target's baseline. Loops in its body vectorise to what the machine has, with no rebuild.

use std::sync::OnceLock;

/// An instruction set that the bodies are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the build's target promises.
    Baseline,
    /// AVX2 and FMA (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, DQ, VL (x86-64-v4).
    Avx512,
}

impl Level {
    /// A short name for the manifest: bits of results may differ between levels.
    pub fn name(self) -> &'static str {
        match self {
            Level::Baseline => "baseline",
            Level::Avx2 => "avx2+fma",
            Level::Avx512 => "avx512",
        }
    }
}

/// The best level of this machine, or a lower one that `SELFPLAY_SIMD` names (`baseline`, `avx2`).
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = detected();
        match std::env::var("SELFPLAY_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("avx2") => best.min(Level::Avx2),
            _ => best,
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
    {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::Avx2
    } else {
        Level::Baseline
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    Level::Baseline
}

/// Asks for the cache line at `address`, into a core's L2 cache; every address is allowed.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see and faults nowhere.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Declares functions whose bodies are compiled per [`Level`] and dispatched at run time. Each stays a function of its own:
/// amid the code of a caller the compiler may keep its sums in memory, one number at a time.
macro_rules! simd {
    ($( $(#[$meta:meta])* $vis:vis fn $name:ident$(<$t:ident : Real $(, const $c:ident : usize)?>)?( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block )*) => { $(
        $(#[$meta])*
        $vis fn $name$(<$t: $crate::cpu::Real $(, const $c: usize)?>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body$(<$t: $crate::cpu::Real $(, const $c: usize)?>)?($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[inline(never)]
            fn avx512$(<$t: $crate::cpu::Real $(, const $c: usize)?>)?($($arg: $ty),*) $(-> $ret)? { body$(::<$t $(, $c)?>)?($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[inline(never)]
            fn avx2$(<$t: $crate::cpu::Real $(, const $c: usize)?>)?($($arg: $ty),*) $(-> $ret)? { body$(::<$t $(, $c)?>)?($($arg),*) }
            match $crate::cpu::simd::level() {
                // SAFETY: `level` found these instruction sets on this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512$(::<$t $(, $c)?>)?($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2$(::<$t $(, $c)?>)?($($arg),*) },
                _ => body$(::<$t $(, $c)?>)?($($arg),*),
            }
        }
    )* };
}
pub(crate) use simd;
