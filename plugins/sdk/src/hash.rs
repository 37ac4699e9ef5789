//! The hash of shared weights: which bucket a weight has, and with which sign. Methods that fit buckets and whoever
//! decodes them must agree to the bit, so it stands here once.
//!
//! ```text
//! x = position mod p, p = 2³¹ − 1
//! t = ((c₀·x + c₁)·x + c₂)·x + c₃ mod p
//! u = t mod 2K;   w = b[u] where u < K, else −b[u − K]
//! ```
//! A cubic polynomial modulo a prime is 4-wise independent (Wegman & Carter 1981), and an ONNX graph can compute it in
//! Mul, Add and Mod. The position is that of the weight *as stored* (r · row_stride + c · col_stride of the whole part).

use crate::Part;

/// The prime 2³¹ − 1.
pub const PRIME: i64 = (1 << 31) - 1;

/// The most buckets that a hashed part can have: u < 2K must be reached by t < p.
pub const MAX_BUCKETS: u64 = 1 << 30;

/// The four coefficients that a seed stands for: SplitMix64 (Steele, Lea & Flood 2014), each draw modulo the prime.
pub fn coefficients(seed: u64) -> [i64; 4] {
    let mut state = seed;
    std::array::from_fn(|_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % PRIME as u64) as i64
    })
}

/// Bucket of a position, and whether it is negated. `buckets` is 1 … [`MAX_BUCKETS`].
pub fn bucket(c: &[i64; 4], position: u64, buckets: u64) -> (usize, bool) {
    let p = PRIME as u64;
    let x = position % p;
    let t = c[1..].iter().fold(c[0] as u64, |t, c| (t * x + *c as u64) % p);
    let u = t % (2 * buckets);
    if u < buckets { (u as usize, false) } else { ((u - buckets) as usize, true) }
}

/// Position of weight (r, c) of a whole part, as the hash counts it.
pub fn position(part: &Part<'_>, r: usize, c: usize) -> u64 {
    (r * part.row_stride + c * part.col_stride) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // ((2·3 + 5)·3 + 7)·3 + 11 = 131
        assert_eq!(bucket(&[2, 5, 7, 11], 3, 50), (31, false));
        assert_eq!(bucket(&[2, 5, 7, 11], 3, 100), (31, true));
        assert_eq!(bucket(&[2, 5, 7, 11], 3 + PRIME as u64, 50), (31, false));
    }

    #[test]
    fn the_seed_is_splitmix() {
        // The first four draws of SplitMix64 from 1, each modulo 2³¹ − 1, by Python's integers.
        assert_eq!(coefficients(1), [722_909_340, 1_667_631_020, 1_817_811_775, 1_371_919_918]);
    }

    #[test]
    fn buckets_and_signs_are_even() {
        let c = coefficients(1);
        let (mut counts, mut minus) = ([0u32; 64], 0);
        for i in 0..64_000 {
            let (bucket, negative) = bucket(&c, i, 64);
            counts[bucket] += 1;
            minus += u32::from(negative);
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
        assert!((31_000..33_000).contains(&minus));
    }

    #[test]
    fn positions_are_those_of_the_stored_part() {
        let part = Part::whole("w", 2, 3, &[0.0; 6]);
        assert_eq!(position(&part, 1, 2), 5);
        assert_eq!(position(&Part { row_stride: 1, col_stride: 2, ..part }, 1, 2), 5);
        assert_eq!(position(&Part { row_stride: 1, col_stride: 2, ..part }, 1, 0), 1);
    }
}
