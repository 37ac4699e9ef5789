//! Wider vectors where the processor has them. Integer work and exact conversions only: the results are the same.
#![allow(unsafe_code)]

/// Runs a loop compiled for AVX2 where there is AVX2. The loop must be `#[inline(always)]` down to its arithmetic.
#[inline(always)]
pub fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just said that it has AVX2, the only feature that the function requires.
        return unsafe { with_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
