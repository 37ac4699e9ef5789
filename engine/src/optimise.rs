//! Optimisers: Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019), and gradient descent with
//! momentum. Every element is updated alone, so the number of threads changes nothing.

use rayon::prelude::*;

use crate::kernels::{lane_sum, simd};

/// Elements that one task updates.
const CHUNK: usize = 1 << 16;

/// An optimiser and its constants.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// θ ← θ − rate · m̂ / (√v̂ + ε)
    Adam {
        /// Decay of the mean of gradients.
        beta1: f32,
        /// Decay of the mean of squared gradients.
        beta2: f32,
        /// Keeps the division finite.
        epsilon: f32,
    },
    /// m ← momentum · m + g;  θ ← θ − rate · m
    Sgd {
        /// Share of the last step that is kept.
        momentum: f32,
    },
}

/// One step: what is the same for all elements.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate of this step.
    pub rate: f32,
    /// Factor on the gradient (clipping).
    pub scale: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub number: u64,
}

/// Updates parameters; `v` is empty for rules that keep one moment.
pub fn update(rule: Rule, step: Step, theta: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    match rule {
        Rule::Adam { beta1, beta2, epsilon } => {
            let correction = |beta: f32| (1.0 - f64::from(beta).powi(step.number.min(1 << 30) as i32)) as f32;
            let rate = step.rate / correction(beta1);
            let root = 1.0 / correction(beta2).sqrt();
            let parts = theta.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
            let parts = parts.zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
            parts.for_each(|(((theta, grad), m), v)| {
                simd(
                    #[inline(always)]
                    || {
                        let rows = theta.iter_mut().zip(grad).zip(m.iter_mut()).zip(v.iter_mut());
                        for (((t, g), m), v) in rows {
                            let g = *g * step.scale;
                            *m = beta1 * *m + (1.0 - beta1) * g;
                            *v = beta2 * *v + (1.0 - beta2) * g * g;
                            *t -= step.rate * step.weight_decay * *t;
                            *t -= rate * *m / (v.sqrt() * root + epsilon);
                        }
                    },
                );
            });
        }
        Rule::Sgd { momentum } => {
            let parts = theta.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK)).zip(m.par_chunks_mut(CHUNK));
            parts.for_each(|((theta, grad), m)| {
                simd(
                    #[inline(always)]
                    || {
                        for ((t, g), m) in theta.iter_mut().zip(grad).zip(m.iter_mut()) {
                            *m = momentum * *m + *g * step.scale;
                            *t -= step.rate * step.weight_decay * *t;
                            *t -= step.rate * *m;
                        }
                    },
                );
            });
        }
    }
}

/// Σ g², in chunks of constant size summed in order.
pub fn square_norm(grad: &[f32]) -> f64 {
    let parts: Vec<f64> = grad
        .par_chunks(CHUNK)
        .map(|c| {
            simd(
                #[inline(always)]
                || f64::from(lane_sum(c, |g| g * g)),
            )
        })
        .collect();
    parts.iter().sum()
}

/// Sets elements to zero where a mask's bit (lowest first) is 0.
pub fn hold(values: &mut [f32], mask: &[u8]) {
    values.par_chunks_mut(CHUNK).zip(mask.par_chunks(CHUNK / 8)).for_each(|(values, mask)| {
        for (eight, bits) in values.chunks_mut(8).zip(mask) {
            for (i, v) in eight.iter_mut().enumerate() {
                *v = if bits >> i & 1 == 0 { 0.0 } else { *v };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand: with one gradient of 1 Adam moves by the rate each time.
    #[test]
    fn adam_by_hand() {
        let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 0.0 };
        let (mut theta, mut m, mut v) = ([1.0f32], [0.0], [0.0]);
        for number in 1..=2 {
            let step = Step { rate: 0.1, scale: 2.0, weight_decay: 0.0, number };
            update(rule, step, &mut theta, &[0.5], &mut m, &mut v);
        }
        assert!((theta[0] - 0.8).abs() < 1e-6, "{theta:?}");
    }

    /// Momentum ½, gradient 1 clipped to ½, decay of a tenth of the rate: θ ← θ − rate·(0.1·θ + m).
    #[test]
    fn descent_with_momentum_and_decay_by_hand() {
        let rule = Rule::Sgd { momentum: 0.5 };
        let (mut theta, mut m) = ([2.0f32], [0.0]);
        let step = |number| Step { rate: 0.5, scale: 0.5, weight_decay: 0.1, number };
        update(rule, step(1), &mut theta, &[1.0], &mut m, &mut []);
        assert_eq!((theta[0], m[0]), (2.0 - 0.5 * 0.2 - 0.25, 0.5));
        let before = theta[0];
        update(rule, step(2), &mut theta, &[1.0], &mut m, &mut []);
        assert_eq!(m[0], 0.75);
        assert!((theta[0] - (before - 0.5 * 0.1 * before - 0.375)).abs() < 1e-6);
    }

    #[test]
    fn masks_hold() {
        let mut x = [1.0f32; 11];
        hold(&mut x, &[0b1010_1010, 0b101]);
        assert_eq!(x, [0., 1., 0., 1., 0., 1., 0., 1., 1., 0., 1.]);
    }
}
