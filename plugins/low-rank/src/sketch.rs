//! The leading singular vectors of a large matrix from random products.
//!
//! Halko, Martinsson & Tropp, "Finding Structure with Randomness", SIAM Review 53 (2011), arXiv 0909.4061, algorithms
//! 4.4 (randomised subspace iteration) and 5.1 (direct SVD):
//!
//! ```text
//! Q = basis(A·Ω);   then, again and again, Q = basis(A·basis(Aᵀ·Q))                        (4.4)
//! Qᵀ·A = Ũ·Σ·Vᵀ;   U = Q·Ũ                                                                  (5.1)
//! ‖A − U_r·Σ_r·V_rᵀ‖² = ‖A‖² − Σ_{i≤r} σ_i²                                               (energy)
//! ```
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | A | `a` | m × n | the matrix |
//! | r | `rank` | 1 | the wanted rank |
//! | Ω | `omega` | n × (r + extra) | normal random numbers |
//! | Q | `q` | m × (r + extra) | orthonormal, nearly the range of A |
//! | Aᵀ·Q | `z` | n × (r + extra) | |
//!
//! How many iterations a matrix needs depends on how slowly its spectrum falls. By the last line the error is known in
//! each without forming the product, so they go on until the error has settled.

use compress_sdk::{Result, host};
use faer::Mat;

use crate::linear::{Svd, basis, decompose, product};
use crate::random::Normal;

/// Columns beyond the rank: the larger, the fewer iterations.
fn extra(rank: usize) -> usize {
    16.max(rank / 8)
}

/// Columns of a sketch.
pub fn width(rank: usize) -> usize {
    rank + extra(rank)
}

/// An iteration that lowers the error by less than this share of it is the last one.
const SETTLED: f64 = 5e-4;
/// Iterations after which even a spectrum without any gap has settled.
const MOST: usize = 12;

/// A matrix with its energy Σ a².
pub struct Large {
    pub a: Mat<f32>,
    pub energy: f64,
}

/// The leading singular triplets of a matrix, at least `rank` and nearly the best ones up to there.
pub fn leading(large: &Large, rank: usize, seed: u64) -> Result<Svd> {
    let a = &large.a;
    let mut normal = Normal::new(seed);
    let omega = Mat::from_fn(a.ncols(), width(rank), |_, _| normal.draw());
    let mut q = basis(product(a.as_ref(), omega.as_ref()));
    let mut before = f64::INFINITY;
    for iteration in 0.. {
        if host::cancelled() {
            return Err(compress_sdk::Error::new("it was interrupted"));
        }
        let z = product(a.transpose(), q.as_ref());
        let small = decompose(z.as_ref())?; // eq. 5.1, transposed: Aᵀ·Q = V·Σ·Ũᵀ
        let kept: f64 = small.s.iter().take(rank).map(|s| f64::from(*s).powi(2)).sum();
        let error = (large.energy - kept).max(0.0).sqrt(); // energy
        // Of what f32 can tell from zero nothing is left.
        let nothing = error <= 1e-5 * large.energy.sqrt();
        if nothing || iteration >= MOST || (iteration > 0 && before - error <= SETTLED * before) {
            return Ok(Svd { u: product(q.as_ref(), small.v.as_ref()), s: small.s, v: small.u });
        }
        before = error;
        // V spans what basis(Aᵀ·Q) would.
        q = basis(product(a.as_ref(), small.u.as_ref())); // eq. 4.4
    }
    unreachable!("the loop ends at MOST iterations")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::energy;
    use crate::testing::{noise, with_spectrum};

    fn error(energy: f64, svd: &Svd, rank: usize) -> f64 {
        (energy - svd.s[..rank].iter().map(|s| f64::from(*s).powi(2)).sum::<f64>()).max(0.0).sqrt()
    }

    /// Against the full decomposition, on spectra that fall slowly: within 1 % of the best error at every rank.
    #[test]
    fn the_error_is_within_a_hundredth_of_the_best() {
        let (m, n) = (400, 300);
        let spectra: [(&str, Box<dyn Fn(usize) -> f32>); 6] = [
            ("flat", Box::new(|_| 1.0)),
            ("i^-1/4", Box::new(|i| (i as f32 + 1.0).powf(-0.25))),
            ("i^-1/2", Box::new(|i| (i as f32 + 1.0).powf(-0.5))),
            ("1/i", Box::new(|i| 1.0 / (i as f32 + 1.0))),
            ("i^-3", Box::new(|i| (i as f32 + 1.0).powf(-3.0))),
            ("a step", Box::new(|i| if i < 40 { 1.0 } else { 0.5 })),
        ];
        for (name, spectrum) in &spectra {
            for a in [with_spectrum(m, n, spectrum), with_spectrum(n, m, spectrum)] {
                let best = decompose(a.as_ref()).unwrap();
                let large = Large { energy: energy(a.as_ref()), a };
                for rank in [1, 8, 32, 64] {
                    let svd = leading(&large, rank, 1).unwrap();
                    let (have, want) = (error(large.energy, &svd, rank), error(large.energy, &best, rank));
                    assert!(have <= 1.01 * want + 1e-5, "{name}, rank {rank}: {have} and {want}");
                }
            }
        }
    }

    /// The error that the singular values tell is that of the product.
    #[test]
    fn the_error_told_is_the_error_made() {
        let a = noise(200, 150, 5);
        let large = Large { energy: energy(a.as_ref()), a };
        let svd = leading(&large, 20, 1).unwrap();
        let scaled = Mat::from_fn(200, 20, |r, c| svd.u[(r, c)] * svd.s[c]);
        let made = energy((scaled * svd.v.as_ref().subcols(0, 20).transpose() - &large.a).as_ref()).sqrt();
        let told = error(large.energy, &svd, 20);
        assert!((made - told).abs() < 1e-4 * made, "{made} and {told}");
    }

    #[test]
    fn what_has_a_low_rank_comes_back() {
        let a = noise(120, 3, 1) * noise(3, 90, 2);
        let large = Large { energy: energy(a.as_ref()), a };
        let svd = leading(&large, 5, 1).unwrap();
        assert!(error(large.energy, &svd, 3) < 1e-3 * large.energy.sqrt());
    }
}
