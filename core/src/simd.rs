//! Wider vectors where the processor has them. Integer work and exact conversions only: the results are the same.
#![allow(unsafe_code)]

/// Runs a loop compiled for AVX2 where there is AVX2. The loop must be `#[inline(always)]` down to its arithmetic.
#[inline(always)]
pub fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just said that it has AVX2, the only feature that the function requires.
        return unsafe { with_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// What a scan of keys found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Keys that are 0.
    pub zeros: u64,
    /// Keys less than `low`.
    pub below: u64,
    /// Keys in [low, low + span).
    pub within: u64,
}

/// Counts keys, and sets the bits of those in [low, low + span). `bits` has one for each key, rounded up to words.
pub fn scan(keys: &[u32], low: u32, span: u32, bits: &mut [u64]) -> Scanned {
    bits.fill(0);
    let mut found = Scanned::default();
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if span > 0 && std::arch::is_x86_feature_detected!("avx2") {
        let whole = keys.as_chunks::<64>().0;
        // SAFETY: the processor has just said that it has AVX2, the only feature that the function requires.
        found = unsafe { avx2::scan(whole, low, span, bits) };
        done = whole.len() * 64;
    }
    for (i, key) in keys.iter().enumerate().skip(done) {
        let within = key.wrapping_sub(low) < span;
        found.zeros += u64::from(*key == 0);
        found.below += u64::from(*key < low);
        found.within += u64::from(within);
        bits[i / 64] |= u64::from(within) << (i % 64);
    }
    found
}

/// Sets a bit for each element of W bytes that are not all zero; `out` has one for each, rounded up to bytes.
pub fn nonzero_bits<const W: usize>(bytes: &[u8], out: &mut [u8]) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if (W == 2 || W == 4) && std::arch::is_x86_feature_detected!("avx2") {
        let whole = bytes.as_chunks::<32>().0;
        // SAFETY: the processor has just said that it has AVX2, the only feature that the functions require.
        unsafe { if W == 4 { avx2::nonzero4(whole, out) } else { avx2::nonzero2(whole, out) } };
        done = whole.len() * 32;
    }
    let rest = bytes[done..].as_chunks::<W>().0;
    for (o, run) in out[done / W / 8..].iter_mut().zip(rest.chunks(8)) {
        *o = run.iter().enumerate().fold(0, |bits, (i, e)| bits | u8::from(*e != [0; W]) << i);
    }
}

/// Puts the elements whose bits are 1 side by side, as far as `out` goes. How many there are.
pub fn compact<const W: usize>(bytes: &[u8], bits: &[u8], out: &mut [u8]) -> usize {
    let (elements, out) = (bytes.as_chunks::<W>().0, out.as_chunks_mut::<W>().0);
    let (mut first, mut kept) = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if W == 4 && std::arch::is_x86_feature_detected!("avx2") {
        let whole = bytes.as_chunks::<32>().0;
        // SAFETY: the processor has just said that it has AVX2, the only feature that the function requires.
        (first, kept) = unsafe { avx2::compact4(whole, bits, out.as_flattened_mut()) };
    }
    for (byte, run) in bits[first..].iter().zip(elements[first * 8..].chunks(8)) {
        let mut left = *byte;
        while left != 0 {
            if let (Some(o), Some(e)) = (out.get_mut(kept), run.get(left.trailing_zeros() as usize)) {
                *o = *e;
            }
            kept += 1;
            left &= left - 1;
        }
    }
    kept
}

/// Puts the next of `values` where a bit is 1 and zeros elsewhere.
pub fn expand<const W: usize>(values: &[u8], bits: &[u8], out: &mut [u8]) {
    let values = values.as_chunks::<W>().0;
    let (mut first, mut used) = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if W == 4 && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just said that it has AVX2, the only feature that the function requires.
        (first, used) = unsafe { avx2::expand4(values.as_flattened(), bits, out.as_chunks_mut::<32>().0) };
    }
    let mut values = values.get(used..).unwrap_or_default().iter();
    for (byte, run) in bits[first..].iter().zip(out.as_chunks_mut::<W>().0[first * 8..].chunks_mut(8)) {
        let mut left = *byte;
        run.fill([0; W]);
        while left != 0 {
            if let (Some(o), Some(v)) = (run.get_mut(left.trailing_zeros() as usize), values.next()) {
                *o = *v;
            }
            left &= left - 1;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Scanned;

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load<T: Copy, const N: usize>(from: &[T; N]) -> __m256i {
        const { assert!(size_of::<T>() * N == 32) };
        // SAFETY: the array has 32 bytes, any of which make a vector; the load needs no alignment.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(to: &mut [u8; 32], v: __m256i) {
        // SAFETY: the array has 32 bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
    }

    #[target_feature(enable = "avx2")]
    fn sum(lanes: __m256i) -> u64 {
        let mut bytes = [0; 32];
        store(&mut bytes, lanes);
        bytes.as_chunks::<4>().0.iter().map(|b| u64::from(u32::from_le_bytes(*b))).sum()
    }

    #[target_feature(enable = "avx2")]
    pub fn scan(keys: &[[u32; 64]], low: u32, span: u32, bits: &mut [u64]) -> Scanned {
        let zero = _mm256_setzero_si256();
        let (lows, most) = (_mm256_set1_epi32(low as i32), _mm256_set1_epi32((span - 1) as i32));
        let (mut zeros, mut others, mut withins) = (zero, zero, zero);
        for (run, out) in keys.iter().zip(bits) {
            let mut word = 0u64;
            for (i, eight) in run.as_chunks::<8>().0.iter().enumerate() {
                let key = load(eight);
                zeros = _mm256_sub_epi32(zeros, _mm256_cmpeq_epi32(key, zero));
                others = _mm256_sub_epi32(others, _mm256_cmpeq_epi32(_mm256_max_epu32(key, lows), key));
                let over = _mm256_sub_epi32(key, lows);
                let within = _mm256_cmpeq_epi32(_mm256_min_epu32(over, most), over);
                withins = _mm256_sub_epi32(withins, within);
                word |= u64::from(_mm256_movemask_ps(_mm256_castsi256_ps(within)) as u32) << (8 * i);
            }
            *out = word;
        }
        Scanned { zeros: sum(zeros), below: keys.len() as u64 * 64 - sum(others), within: sum(withins) }
    }

    #[target_feature(enable = "avx2")]
    pub fn nonzero4(bytes: &[[u8; 32]], out: &mut [u8]) {
        let zero = _mm256_setzero_si256();
        for (run, o) in bytes.iter().zip(out) {
            let zeros = _mm256_cmpeq_epi32(load(run), zero);
            *o = !(_mm256_movemask_ps(_mm256_castsi256_ps(zeros)) as u8);
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn nonzero2(bytes: &[[u8; 32]], out: &mut [u8]) {
        let zero = _mm256_setzero_si256();
        for (run, o) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
            let zeros = _mm256_packs_epi16(_mm256_cmpeq_epi16(load(run), zero), zero);
            // Each half of the vector was packed by itself.
            let zeros = _mm256_movemask_epi8(zeros);
            *o = [!(zeros as u8), !((zeros >> 16) as u8)];
        }
    }

    /// For each byte of a mask the lanes whose bits are 1.
    static KEPT: [[u32; 8]; 256] = {
        let mut table = [[0; 8]; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut lane, mut at) = (0, 0);
            while lane < 8 {
                if byte >> lane & 1 == 1 {
                    table[byte][at] = lane as u32;
                    at += 1;
                }
                lane += 1;
            }
            byte += 1;
        }
        table
    };

    /// For each byte of a mask how many of its bits are 1 before each lane; the top bit of a lane tells its own.
    static PLACES: [[u32; 8]; 256] = {
        let mut table = [[0; 8]; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut lane, mut at) = (0, 0);
            while lane < 8 {
                let kept = (byte >> lane & 1) as u32;
                table[byte][lane] = at | kept << 31;
                at += kept;
                lane += 1;
            }
            byte += 1;
        }
        table
    };

    /// Groups of eight that were done, and elements that were kept of them.
    #[target_feature(enable = "avx2")]
    pub fn compact4(bytes: &[[u8; 32]], bits: &[u8], out: &mut [u8]) -> (usize, usize) {
        let mut kept = 0;
        for (i, (run, byte)) in bytes.iter().zip(bits).enumerate() {
            // A whole vector is stored: what is beyond the kept ones is overwritten by the next.
            let Some(to) = out.get_mut(kept * 4..).and_then(|o| o.first_chunk_mut()) else { return (i, kept) };
            store(to, _mm256_permutevar8x32_epi32(load(run), load(&KEPT[usize::from(*byte)])));
            kept += byte.count_ones() as usize;
        }
        (bytes.len().min(bits.len()), kept)
    }

    /// Groups of eight that were done, and values that were used.
    #[target_feature(enable = "avx2")]
    pub fn expand4(values: &[u8], bits: &[u8], out: &mut [[u8; 32]]) -> (usize, usize) {
        let (mut used, groups) = (0, out.len().min(bits.len()));
        for (i, (to, byte)) in out.iter_mut().zip(bits).enumerate() {
            let Some(from) = values.get(used * 4..).and_then(|v| v.first_chunk()) else { return (i, used) };
            let places = load(&PLACES[usize::from(*byte)]);
            // Only the lowest three bits of a place count.
            let spread = _mm256_permutevar8x32_epi32(load::<u8, 32>(from), places);
            store(to, _mm256_and_si256(spread, _mm256_srai_epi32::<31>(places)));
            used += byte.count_ones() as usize;
        }
        (groups, used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, many of them 0.
    fn numbers(n: usize) -> Vec<u32> {
        (0..n as u32)
            .map(|i| i.wrapping_mul(2_654_435_761).rotate_left(11))
            .map(|x| if x % 3 == 0 { 0 } else { x })
            .collect()
    }

    const SIZES: [usize; 10] = [0, 1, 7, 8, 63, 64, 65, 128, 1000, 4096];

    #[test]
    fn a_scan_counts_what_it_marks() {
        for n in SIZES {
            let keys = numbers(n);
            for (low, span) in
                [(0, 1), (1, u32::MAX - 1), (5, 0), (1 << 30, 1 << 28), (u32::MAX, 0), (3 << 30, 1 << 29)]
            {
                let mut bits = vec![u64::MAX; n.div_ceil(64)];
                let found = scan(&keys, low, span, &mut bits);
                let within = |k: &u32| *k >= low && *k - low < span;
                assert_eq!(found.zeros, keys.iter().filter(|k| **k == 0).count() as u64);
                assert_eq!(found.below, keys.iter().filter(|k| **k < low).count() as u64);
                assert_eq!(found.within, keys.iter().filter(|k| within(k)).count() as u64);
                for (i, k) in keys.iter().enumerate() {
                    assert_eq!(bits[i / 64] >> (i % 64) & 1 == 1, within(k), "{n} {low} {span} {i}");
                }
            }
        }
    }

    fn packs<const W: usize>() {
        for n in SIZES {
            let bytes: Vec<u8> = numbers(n).iter().flat_map(|k| k.to_le_bytes().repeat(2)[..W].to_vec()).collect();
            let mut bits = vec![0xff; n.div_ceil(8)];
            nonzero_bits::<W>(&bytes, &mut bits);
            let kept: Vec<u8> = bytes.chunks(W).filter(|e| e.iter().any(|b| *b != 0)).flatten().copied().collect();
            let count = kept.len() / W;
            assert_eq!(bits.iter().map(|b| b.count_ones() as usize).sum::<usize>(), count);
            let mut out = vec![7; kept.len()];
            assert_eq!(compact::<W>(&bytes, &bits, &mut out), count);
            assert!(out == kept, "{W} {n}");
            let mut short = vec![7; kept.len() / 2 / W * W];
            assert_eq!(compact::<W>(&bytes, &bits, &mut short), count);
            assert!(short == kept[..short.len()]);
            let mut back = vec![7; bytes.len()];
            expand::<W>(&kept, &bits, &mut back);
            assert!(back == bytes, "{W} {n}");
        }
    }

    #[test]
    fn what_is_compacted_expands_again() {
        packs::<2>();
        packs::<4>();
        packs::<8>();
    }
}
