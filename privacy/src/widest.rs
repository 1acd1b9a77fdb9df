//! Loops compiled for the vectors that the machine turns out to have.

/// Runs `f`, compiled for the widest vectors of this machine. Only what is inlined into `f` gains; integers
/// and single operations of floats are the same on every machine.
#[inline]
#[allow(unsafe_code, reason = "a safe function, compiled for a machine that is checked for here")]
pub(crate) fn widest<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("bmi2")
        {
            // SAFETY: the machine has what it needs.
            return unsafe { avx512(f) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
            // SAFETY: the machine has what it needs.
            return unsafe { avx2(f) };
        }
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,bmi2")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}
