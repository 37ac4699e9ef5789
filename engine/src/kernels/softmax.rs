//! Softmax, log-softmax, and the cross-entropy fused with it.

use crate::kernels::{dot, lane_max, lane_sum, simd};
use crate::real::Real;

/// Rows of `n`: y = e^(x − max) / Σ. A row of −∞ gives NaN, as in every runtime.
pub fn softmax<R: Real>(x: &[R], y: &mut [R], n: usize) {
    for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
        y.copy_from_slice(x);
        softmax_at(y, R::ONE);
    }
}

/// dx = y ⊙ (dy − Σ y·dy), into `dx`, which holds dy.
pub fn softmax_back<R: Real>(y: &[R], dx: &mut [R], n: usize) {
    for (y, d) in y.chunks_exact(n).zip(dx.chunks_exact_mut(n)) {
        simd(
            #[inline(always)]
            || {
                let s = dot(y, d);
                for (d, y) in d.iter_mut().zip(y) {
                    *d = *y * (*d - s);
                }
            },
        );
    }
}

/// Rows of `n`: y = x − log Σ e^x.
pub fn log_softmax<R: Real>(x: &[R], y: &mut [R], n: usize) {
    for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
        let lse = log_sum_exp(x);
        for (o, v) in y.iter_mut().zip(x) {
            *o = *v - lse;
        }
    }
}

/// dx = dy − e^y · Σ dy, into `dx`, which holds dy.
pub fn log_softmax_back<R: Real>(y: &[R], dx: &mut [R], n: usize) {
    for (y, d) in y.chunks_exact(n).zip(dx.chunks_exact_mut(n)) {
        let s = lane_sum(d, |v| v);
        for (d, y) in d.iter_mut().zip(y) {
            *d -= y.exp() * s;
        }
    }
}

/// log Σ e^x of one row.
pub fn log_sum_exp<R: Real>(x: &[R]) -> R {
    simd(
        #[inline(always)]
        || {
            let max = lane_max(x);
            if !max.finite() {
                return max;
            }
            max + lane_sum(x, |v| (v - max).exp()).ln()
        },
    )
}

/// One row becomes its softmax after it is multiplied with `factor`.
pub fn softmax_at<R: Real>(x: &mut [R], factor: R) {
    simd(
        #[inline(always)]
        || {
            let max = lane_max(x);
            for v in x.iter_mut() {
                *v = ((*v - max) * factor).exp();
            }
            let scale = R::ONE / lane_sum(x, |v| v);
            for v in x.iter_mut() {
                *v *= scale;
            }
        },
    );
}

/// −log softmax(x)[target] of one row. `x` becomes scale · ∂loss/∂x = scale · (softmax − one-hot).
pub fn cross_entropy_in_place<R: Real>(x: &mut [R], target: usize, scale: R) -> R {
    let at_target = x[target];
    let (max, sum) = simd(
        #[inline(always)]
        || {
            let max = lane_max(x);
            for v in x.iter_mut() {
                *v = (*v - max).exp();
            }
            let sum = lane_sum(x, |v| v);
            let factor = scale / sum;
            for v in x.iter_mut() {
                *v *= factor;
            }
            (max, sum)
        },
    );
    x[target] -= scale;
    max + sum.ln() - at_target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_of_two_equal_logits_is_ln_2() {
        let mut x = [3.0f64, 3.0];
        let loss = cross_entropy_in_place(&mut x, 1, 2.0);
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!(x, [1.0, -1.0]);
    }
}
