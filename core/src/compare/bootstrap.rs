//! Intervals of differences in BLEU by paired bootstrap resampling.
//!
//! Koehn, *Statistical Significance Tests for Machine Translation Evaluation*, EMNLP 2004: sentences are drawn with
//! replacement, the same ones for both systems, and the difference of the corpus scores is taken; the middle 95 % of
//! many such differences is the interval.
//!
//! | symbol | variable | meaning |
//! |---|---|---|
//! | B | `RESAMPLES` | resamples |
//! | n | `base.len()` | sentences |
//! | Δ_b | `differences[b]` | BLEU of the systems on resample b less that of the base |

use serde::{Deserialize, Serialize};

use crate::bleu::Counts;

/// Resamples.
pub const RESAMPLES: usize = 2000;

/// The seed of all resampling: equal counts give equal intervals.
const SEED: u64 = 2004;

/// A difference with its interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// On the sentences as they are.
    pub difference: f64,
    /// 2.5 % of the resamples lie below.
    pub low: f64,
    /// 2.5 % of the resamples lie above.
    pub high: f64,
}

/// The difference between `systems` (one a seed: their mean) and `base`, sentence by sentence the same test set. `None`
/// where the sentences do not pair up.
pub fn paired(base: &[Counts], systems: &[&[Counts]]) -> Option<Interval> {
    let n = base.len();
    if n == 0 || systems.is_empty() || systems.iter().any(|s| s.len() != n) {
        return None;
    }
    let mean = |times: &[u32]| {
        let score = |all: &[Counts]| weighted(all, times).score();
        systems.iter().map(|s| score(s)).sum::<f64>() / systems.len() as f64 - score(base)
    };
    let difference = mean(&vec![1; n]);
    let mut random = SplitMix(SEED);
    let mut differences: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut times = vec![0u32; n];
            (0..n).for_each(|_| times[random.below(n)] += 1);
            mean(&times)
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let at = |share: f64| differences[((share * RESAMPLES as f64) as usize).min(RESAMPLES - 1)];
    Some(Interval { difference, low: at(0.025), high: at(0.975) })
}

/// The counts with each sentence as often as it was drawn.
fn weighted(all: &[Counts], times: &[u32]) -> Counts {
    let mut sum = Counts::default();
    for (one, times) in all.iter().zip(times).filter(|(_, times)| **times > 0) {
        let times = u64::from(*times);
        for n in 0..4 {
            sum.correct[n] += times * one.correct[n];
            sum.total[n] += times * one.total[n];
        }
        sum.hypothesis += times * one.hypothesis;
        sum.reference += times * one.reference;
    }
    sum
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sentence of ten words of which `right` are the reference's, in a row.
    fn sentence(right: u64) -> Counts {
        let of = |n: u64| right.saturating_sub(n);
        Counts { correct: [of(0), of(1), of(2), of(3)], total: [10, 9, 8, 7], hypothesis: 10, reference: 10 }
    }

    #[test]
    fn a_system_does_not_differ_from_itself() {
        let base: Vec<Counts> = (0..50).map(|i| sentence(4 + i % 7)).collect();
        assert_eq!(paired(&base, &[&base]), Some(Interval { difference: 0.0, low: 0.0, high: 0.0 }));
        assert_eq!(paired(&base, &[&base, &base]).unwrap().high, 0.0);
    }

    #[test]
    fn worse_everywhere_is_worse_for_certain_and_a_toss_is_not() {
        let base: Vec<Counts> = (0..200).map(|i| sentence(6 + i % 5)).collect();
        let worse: Vec<Counts> = (0..200).map(|i| sentence(5 + i % 5)).collect();
        let sure = paired(&base, &[&worse]).unwrap();
        assert!(sure.low < sure.difference && sure.difference < sure.high && sure.high < 0.0, "{sure:?}");
        // Half of the sentences one word better, half one word worse.
        let toss: Vec<Counts> = (0..200).map(|i| sentence(6 + i % 5 + (i % 2) * 2 - 1)).collect();
        let unsure = paired(&base, &[&toss]).unwrap();
        assert!(unsure.low < 0.0 && unsure.high > 0.0, "{unsure:?}");
        assert_eq!(paired(&base, &[&toss]), Some(unsure), "the same again");
    }

    /// The standard error of a mean, where BLEU is close to linear: the interval has about that width.
    #[test]
    fn the_width_is_that_of_the_sampling_error() {
        let base: Vec<Counts> = (0..400).map(|_| sentence(8)).collect();
        let other: Vec<Counts> = (0..400).map(|i| sentence(if i % 2 == 0 { 9 } else { 8 })).collect();
        let got = paired(&base, &[&other]).unwrap();
        // A share p = 1/2 of sentences differs by d, so Δ = d·p and its standard error is d·√(p(1 − p)/n) = Δ/√n.
        let expected = got.difference / 20.0;
        let width = (got.high - got.low) / (2.0 * 1.96);
        assert!((width / expected - 1.0).abs() < 0.1, "{width} {expected}");
    }

    #[test]
    fn what_does_not_pair_up_has_no_interval() {
        let base = [sentence(5); 3];
        assert_eq!(paired(&base, &[&base[..2]]), None);
        assert_eq!(paired(&[], &[&[]]), None);
        assert_eq!(paired(&base, &[]), None);
    }
}
