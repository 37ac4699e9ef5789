//! Keys of 16-bit weights by magnitude.
//!
//! A method of reach `weight` that draws no random numbers and reads no evidence scores a weight by its value alone, and
//! 16-bit types have few values. Where the keys also do not depend on the sign and never fall as |w| rises, a key is
//! less than a bound exactly where the stored bits without the sign are less than some limit: the method is asked once
//! for each value instead of once for each weight, and passes over weights compare stored bits.

use crate::simd::wide;

const SIGN: u16 = 0x8000;

/// The keys of all finite magnitudes of a 16-bit type, rising.
#[derive(PartialEq, Eq, Debug)]
pub struct Magnitudes(Vec<u32>);

impl Magnitudes {
    /// From the keys of all finite values, first without sign, then with; `None` where they are not as the module says.
    pub fn new(keys: &[u32]) -> Option<Magnitudes> {
        let (plus, minus) = keys.split_at(keys.len() / 2);
        (plus == minus && plus.is_sorted() && plus.len() <= usize::from(SIGN)).then(|| Magnitudes(plus.to_vec()))
    }

    /// The stored bits, little-endian, of all finite values of a type whose infinity has the bits `infinity`, in the
    /// order of [`Magnitudes::new`].
    pub fn values(infinity: u16) -> Vec<u8> {
        (0..infinity).chain(SIGN..SIGN + infinity).flat_map(u16::to_le_bytes).collect()
    }

    /// The limit of a bound.
    pub fn below(&self, bound: u32) -> u16 {
        self.0.partition_point(|k| *k < bound) as u16
    }

    /// Adds to each count how many stored values are below its limit; `false` where some are not finite.
    pub fn count(&self, stored: &[u8], limits: &[u16], counts: &mut [u64]) -> bool {
        // Few enough for 16-bit sums and the first-level cache.
        stored.chunks(4096).all(|run| {
            let run = run.as_chunks::<2>().0;
            for (limit, count) in limits.iter().zip(counts.iter_mut()) {
                *count += u64::from(wide(|| run.iter().map(|b| u16::from(magnitude(*b) < *limit as i16)).sum::<u16>()));
            }
            self.are_finite(run)
        })
    }

    /// Sets what is below a limit to +0.0; `false`, and nothing is set, where some are not finite.
    pub fn zero(&self, stored: &mut [u8], limit: u16) -> bool {
        let run = stored.as_chunks_mut::<2>().0;
        let finite = self.are_finite(run);
        if finite {
            wide(|| run.iter_mut().for_each(|b| *b = if magnitude(*b) < limit as i16 { [0; 2] } else { *b }));
        }
        finite
    }

    fn are_finite(&self, run: &[[u8; 2]]) -> bool {
        let most = wide(|| run.iter().map(|b| magnitude(*b)).fold(0, i16::max));
        usize::from(most as u16) < self.0.len()
    }
}

/// The bits without the sign.
#[inline(always)]
fn magnitude(stored: [u8; 2]) -> i16 {
    (u16::from_le_bytes(stored) & !SIGN) as i16
}

#[cfg(test)]
mod tests {
    use super::super::key::key;
    use super::*;
    use crate::convert::to_f32;
    use crate::tensor::Dtype;

    fn keys(dtype: &Dtype, infinity: u16, score: impl Fn(f32) -> f32) -> Vec<u32> {
        let stored = Magnitudes::values(infinity);
        let mut values = vec![0.0; stored.len() / 2];
        to_f32(dtype, &stored, &mut values);
        assert!(values.iter().all(|v| v.is_finite()));
        values.iter().map(|v| key(*v, score(*v))).collect()
    }

    #[test]
    fn counts_and_zeros_are_those_of_the_keys() {
        for (dtype, infinity) in [(Dtype::Bf16, 0x7f80), (Dtype::F16, 0x7c00)] {
            let magnitudes = Magnitudes::new(&keys(&dtype, infinity, f32::abs)).unwrap();
            let stored: Vec<u8> = (0..10_007u32)
                .map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) as u16 & SIGN) | (i * 3 % u32::from(infinity)) as u16)
                .flat_map(u16::to_le_bytes)
                .collect();
            let mut values = vec![0.0; stored.len() / 2];
            to_f32(&dtype, &stored, &mut values);
            for bound in [0, 1, key(1.0, 1e-3), key(1.0, 2.0), u32::MAX] {
                let goes: Vec<bool> = values.iter().map(|v| key(*v, v.abs()) < bound).collect();
                let (limit, mut count) = (magnitudes.below(bound), [0]);
                assert!(magnitudes.count(&stored, &[limit], &mut count));
                assert_eq!(count[0], goes.iter().filter(|g| **g).count() as u64);
                let mut zeroed = stored.clone();
                assert!(magnitudes.zero(&mut zeroed, limit));
                let expected =
                    stored.chunks(2).zip(&goes).flat_map(|(b, goes)| if *goes { [0; 2] } else { [b[0], b[1]] });
                assert!(zeroed == expected.collect::<Vec<u8>>());
            }
            for odd in [infinity, infinity | SIGN, 0x7fff, 0xffff] {
                let mut with = [&stored[..], &odd.to_le_bytes()].concat();
                assert!(!magnitudes.count(&with, &[5], &mut [0]));
                let before = with.clone();
                assert!(!magnitudes.zero(&mut with, 5));
                assert_eq!(with, before);
            }
        }
    }

    #[test]
    fn other_orders_are_left_to_the_keys() {
        for (case, score) in [
            ("signed", (|v| v) as fn(f32) -> f32),
            ("the largest first", |v| -v.abs()),
            ("neither", |v| (v - 1.0).abs()),
        ] {
            assert_eq!(Magnitudes::new(&keys(&Dtype::Bf16, 0x7f80, score)), None, "{case}");
        }
        assert!(Magnitudes::new(&keys(&Dtype::Bf16, 0x7f80, |_| 1.0)).is_some(), "all alike");
    }
}
