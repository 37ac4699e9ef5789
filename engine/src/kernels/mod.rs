//! Mathematics on slices. Nothing here knows of graphs or operators.

pub mod activation;
pub mod broadcast;
pub mod conv;
pub mod gemm;
pub mod gru;
pub mod lstm;
pub mod norm;
pub mod pool;
pub mod reduce;
pub mod rnn;
pub mod sequence;
pub mod softmax;
pub mod view;

/// Runs a loop compiled for the widest vectors that the processor has. Only the width differs: kernels use no fused
/// multiply-add and reduce in a fixed number of lanes, so the bits are the same everywhere.
#[inline(always)]
pub fn simd<Out>(work: impl FnOnce() -> Out) -> Out {
    pulp::Arch::new().dispatch(work)
}

/// Lanes of every reduction: partial sums are added in this fixed order.
pub const LANES: usize = 16;

/// Σ f(i) over a slice in [`LANES`] partial sums.
#[inline(always)]
pub fn lane_sum<R: crate::real::Real>(x: &[R], f: impl Fn(R) -> R) -> R {
    let mut acc = [R::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for (a, v) in acc.iter_mut().zip(c) {
            *a += f(*v);
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *a += f(*v);
    }
    fold(acc)
}

/// Σ x·y in [`LANES`] partial sums.
#[inline(always)]
pub fn dot<R: crate::real::Real>(x: &[R], y: &[R]) -> R {
    let mut acc = [R::ZERO; LANES];
    let ((xc, xr), (yc, yr)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (c, d) in xc.iter().zip(yc) {
        for ((a, v), w) in acc.iter_mut().zip(c).zip(d) {
            *a += *v * *w;
        }
    }
    for ((a, v), w) in acc.iter_mut().zip(xr).zip(yr) {
        *a += *v * *w;
    }
    fold(acc)
}

#[inline(always)]
fn fold<R: crate::real::Real>(mut acc: [R; LANES]) -> R {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            let v = acc[i + n];
            acc[i] += v;
        }
        n /= 2;
    }
    acc[0]
}

/// The largest element in [`LANES`] lanes, −∞ for none; NaN may or may not win.
#[inline(always)]
pub fn lane_max<R: crate::real::Real>(x: &[R]) -> R {
    let mut acc = [R::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for (a, v) in acc.iter_mut().zip(c) {
            *a = if *v > *a { *v } else { *a };
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *a = if *v > *a { *v } else { *a };
    }
    acc.into_iter().fold(R::NEG_INFINITY, |a, v| if v > a { v } else { a })
}

/// y += x.
pub fn add_into<R: crate::real::Real>(y: &mut [R], x: &[R]) {
    simd(
        #[inline(always)]
        || {
            for (a, b) in y.iter_mut().zip(x) {
                *a += *b;
            }
        },
    );
}
