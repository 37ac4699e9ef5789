//! The hash of shared weights: a cubic polynomial modulo a prime, see [`crate::encode`].

/// The prime 2³¹ − 1.
pub const PRIME: i64 = (1 << 31) - 1;

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

/// Bucket of a flat element, and whether it is negated.
pub fn bucket(c: &[i64; 4], element: u64, buckets: u64) -> (usize, bool) {
    let p = PRIME as u64;
    let x = element % p;
    let t = c[1..].iter().fold(c[0] as u64, |t, c| (t * x + *c as u64) % p);
    let u = t % (2 * buckets);
    if u < buckets { (u as usize, false) } else { ((u - buckets) as usize, true) }
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
}
