//! BLEU from counts (Papineni et al. 2002): what is left of a corpus once its n-grams are counted. The counting belongs to
//! whoever has sentences; here stand the sums, so that a corpus, a resample of it and a difference of two are scored by
//! one formula.

use serde::{Deserialize, Serialize};

/// The counts of one sentence or of many: they add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// n-grams of the hypothesis that the reference has too, clipped, n = 1 … 4.
    pub correct: [u64; 4],
    /// n-grams of the hypothesis.
    pub total: [u64; 4],
    /// Words of the hypothesis.
    pub hypothesis: u64,
    /// Words of the reference.
    pub reference: u64,
}

impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        for n in 0..4 {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
    }

    /// The sum of many.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Counts>) -> Counts {
        all.into_iter().fold(Counts::default(), |mut sum, one| {
            sum.add(one);
            sum
        })
    }

    /// BLEU in percent with exponential smoothing, as sacrebleu computes it (Post 2018).
    pub fn score(&self) -> f64 {
        if self.correct.iter().all(|c| *c == 0) || self.total.contains(&0) {
            return 0.0;
        }
        let mut smooth = 1.0;
        let mut logs = 0.0;
        for (c, t) in self.correct.iter().zip(self.total) {
            let precision = if *c == 0 {
                smooth *= 2.0;
                1.0 / (smooth * t as f64)
            } else {
                *c as f64 / t as f64
            };
            logs += precision.ln();
        }
        let (hypothesis, reference) = (self.hypothesis as f64, self.reference as f64);
        let brevity = if hypothesis < reference { (1.0 - reference / hypothesis).exp() } else { 1.0 };
        100.0 * brevity * (logs / 4.0).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sentences_score_100_and_a_short_one_pays_for_it() {
        let whole = Counts { correct: [6, 5, 4, 3], total: [6, 5, 4, 3], hypothesis: 6, reference: 6 };
        assert!((whole.score() - 100.0).abs() < 1e-9);
        let short = Counts { reference: 12, ..whole };
        assert!((short.score() - 100.0 * (-1f64).exp()).abs() < 1e-9);
        // 6/6, 4/5, 2/4 and a smoothed 1/(2·3), by hand.
        let some = Counts { correct: [6, 4, 2, 0], total: [6, 5, 4, 3], hypothesis: 6, reference: 6 };
        assert!((some.score() - 100.0 * (0.8f64 * 0.5 / 6.0).powf(0.25)).abs() < 1e-9);
        assert_eq!(Counts::default().score(), 0.0);
    }

    #[test]
    fn counts_add_up() {
        let one = Counts { correct: [1, 2, 3, 4], total: [5, 6, 7, 8], hypothesis: 9, reference: 10 };
        let two = Counts::sum([&one, &one]);
        assert_eq!(two, Counts { correct: [2, 4, 6, 8], total: [10, 12, 14, 16], hypothesis: 18, reference: 20 });
        assert_eq!(two.score(), one.score());
    }
}
