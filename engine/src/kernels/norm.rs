//! Layer, batch and group normalisation.

use crate::kernels::{dot, lane_sum, simd};
use crate::real::Real;

/// Rows of `n` to mean 0 and variance 1: y = (x − mean) · rstd; gives rstd of each row. With `centred` false the mean
/// stays in (RMS normalisation).
pub fn normalise<R: Real>(x: &[R], y: &mut [R], n: usize, epsilon: R, centred: bool, rstd: &mut [R], mean: &mut [R]) {
    let count = R::count(n);
    for (((x, y), s), m) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(rstd).zip(mean) {
        simd(
            #[inline(always)]
            || {
                let mu = if centred { lane_sum(x, |v| v) / count } else { R::ZERO };
                let var = lane_sum(x, |v| (v - mu) * (v - mu)) / count;
                let r = R::ONE / (var + epsilon).sqrt();
                for (o, v) in y.iter_mut().zip(x) {
                    *o = (*v - mu) * r;
                }
                (*s, *m) = (r, mu);
            },
        );
    }
}

/// With y = (x − mean)·rstd and g = ∂L/∂y in `dx`: dx = rstd · (g − mean(g) − y · mean(g·y)).
pub fn normalise_back<R: Real>(y: &[R], rstd: &[R], dx: &mut [R], n: usize, centred: bool) {
    let count = R::count(n);
    for ((y, d), r) in y.chunks_exact(n).zip(dx.chunks_exact_mut(n)).zip(rstd) {
        simd(
            #[inline(always)]
            || {
                let mean = if centred { lane_sum(d, |v| v) / count } else { R::ZERO };
                let along = dot(y, d) / count;
                for (d, y) in d.iter_mut().zip(y) {
                    *d = *r * (*d - mean - *y * along);
                }
            },
        );
    }
}
