//! Scores as ordered integers.

use crate::simd::wide;

/// The key of a weight: 0 where the weight is zero already, else the score's bits mapped so that integers order as the
/// scores do (−0.0 and +0.0 alike). Finite scores never reach 0 or `u32::MAX`.
#[inline(always)]
pub fn key(value: f32, score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let flip = ((bits as i32 >> 31) as u32) | 0x8000_0000;
    if value == 0.0 { 0 } else { bits ^ flip }
}

/// The keys of a slice of weights; `None` where all weights and scores are finite, else the first index that is not.
pub fn keys_of(values: &[f32], scores: &[f32], out: &mut [u32]) -> Option<usize> {
    let worst = wide(|| {
        let mut worst = 0u32;
        for ((o, &v), &s) in out.iter_mut().zip(values).zip(scores) {
            *o = key(v, s);
            worst = worst.max(v.to_bits() & 0x7fff_ffff).max(s.to_bits() & 0x7fff_ffff);
        }
        worst
    });
    if worst < 0x7f80_0000 {
        return None;
    }
    values.iter().zip(scores).position(|(v, s)| !v.is_finite() || !s.is_finite())
}

/// Sets the stored elements of `width` bytes to +0.0 whose keys are below a bound; `false` where some weights or scores
/// are not finite, and then the elements are worth nothing.
pub fn zero_below(width: usize, stored: &mut [u8], values: &[f32], scores: &[f32], bound: u32) -> bool {
    #[inline(always)]
    fn each<const W: usize>(stored: &mut [u8], values: &[f32], scores: &[f32], bound: u32) -> u32 {
        let mut worst = 0u32;
        for ((b, &v), &s) in stored.as_chunks_mut::<W>().0.iter_mut().zip(values).zip(scores) {
            *b = if key(v, s) < bound { [0; W] } else { *b };
            worst = worst.max(v.to_bits() & 0x7fff_ffff).max(s.to_bits() & 0x7fff_ffff);
        }
        worst
    }
    // Each loop by itself: a closure with all of them is not inlined into the wide function.
    let worst = match width {
        2 => wide(|| each::<2>(stored, values, scores, bound)),
        4 => wide(|| each::<4>(stored, values, scores, bound)),
        _ => wide(|| each::<8>(stored, values, scores, bound)),
    };
    worst < 0x7f80_0000
}

/// How many keys are below a bound.
pub fn count_below(keys: &[u32], bound: u32) -> u64 {
    wide(|| keys.chunks(1 << 16).map(|run| u64::from(run.iter().map(|k| u32::from(*k < bound)).sum::<u32>())).sum())
}

/// The score of a key; 0 for a weight that is zero already.
pub fn score_of(key: u32) -> f32 {
    if key == 0 {
        return 0.0;
    }
    f32::from_bits(if key & 0x8000_0000 != 0 { key ^ 0x8000_0000 } else { !key })
}

fn ordered64(v: f64) -> u64 {
    let bits = (v + 0.0).to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

/// What divides the scores of a class.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Norm {
    /// Nothing.
    Plain,
    /// σ_c. A class whose weights are all alike has σ_c = 0: no λ·σ_c exceeds its weights, so they go last.
    By(f64),
}

impl Norm {
    /// The place of a key in the order that all classes of a population share.
    pub fn order(self, key: u32) -> u64 {
        match self {
            Norm::Plain => u64::from(key),
            Norm::By(_) if key == 0 => 0,
            Norm::By(0.0) => ordered64(f64::INFINITY),
            Norm::By(sigma) => ordered64(f64::from(score_of(key)) / sigma),
        }
    }

    /// The least key whose order is at least `order`; `u32::MAX` where there is none.
    pub fn least_key(self, order: u64) -> u32 {
        if let Norm::Plain = self {
            return u32::try_from(order).unwrap_or(u32::MAX);
        }
        let (mut low, mut high) = (0u32, u32::MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.order(middle) >= order {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

/// Where the order is cut: a weight goes if `(order, position) <= (cut.order, cut.last)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Order of the last weight that goes.
    pub order: u64,
    /// Position of the last weight of that order that goes.
    pub last: u64,
}

impl Cut {
    /// Only what is zero already.
    pub const NOTHING_NEW: Cut = Cut { order: 0, last: u64::MAX };

    /// The cut in the keys of one class.
    pub fn for_norm(self, norm: Norm) -> KeyCut {
        KeyCut {
            below: norm.least_key(self.order),
            upto: self.order.checked_add(1).map_or(u32::MAX, |o| norm.least_key(o)),
            last: self.last,
        }
    }
}

/// A cut in the keys of one class: a weight goes if `key < below`, or `key < upto` and its position is at most `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyCut {
    /// All keys below this go.
    pub below: u32,
    /// Keys from `below` to here (exclusive) are tied.
    pub upto: u32,
    /// Position of the last tied weight that goes.
    pub last: u64,
}

impl KeyCut {
    /// Whether the weight at a position goes.
    #[inline(always)]
    pub fn goes(&self, key: u32, position: u64) -> bool {
        key < self.below || (key < self.upto && position <= self.last)
    }

    /// One threshold for a run of positions (`key < threshold` goes), where no tie must be broken within it.
    pub fn threshold(&self, first: u64, len: usize) -> Option<u32> {
        if first.saturating_add(len as u64) <= self.last.saturating_add(1) {
            Some(self.upto)
        } else if first > self.last {
            Some(self.below)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores_do() {
        let scores = [f32::MIN, -1.0, -1e-40, 0.0, 1e-40, 1e-3, 1.0, f32::MAX];
        for pair in scores.windows(2) {
            assert!(key(1.0, pair[0]) < key(1.0, pair[1]), "{pair:?}");
            for norm in [Norm::Plain, Norm::By(0.1)] {
                assert!(norm.order(key(1.0, pair[0])) <= norm.order(key(1.0, pair[1])));
            }
        }
        assert_eq!(key(1.0, -0.0), key(1.0, 0.0));
        assert_eq!(key(-0.0, 5.0), 0);
        assert!(key(1.0, f32::MIN) > 0 && key(1.0, f32::MAX) < u32::MAX);
    }

    #[test]
    fn least_key_inverts_order() {
        for norm in [Norm::Plain, Norm::By(0.25), Norm::By(3.0), Norm::By(1e-30)] {
            for score in [-2.0f32, 1e-30, 0.7, 123.0] {
                let k = key(1.0, score);
                assert_eq!(norm.least_key(norm.order(k)), k, "{norm:?} {score}");
                assert_eq!(norm.least_key(norm.order(k) + 1), k + 1, "{norm:?} {score}");
            }
        }
        assert_eq!(Norm::Plain.least_key(u64::MAX), u32::MAX);
    }

    #[test]
    fn not_finite_is_found() {
        let mut out = [0; 3];
        assert_eq!(keys_of(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], &mut out), None);
        assert_eq!(keys_of(&[1.0, f32::NAN, 3.0], &[1.0, 2.0, 3.0], &mut out), Some(1));
        assert_eq!(keys_of(&[1.0, 2.0, 3.0], &[1.0, 2.0, f32::INFINITY], &mut out), Some(2));
    }
}
