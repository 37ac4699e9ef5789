//! One pass over a tensor that counts what packing needs to know before anything is written.

use rayon::prelude::*;

use crate::error::Result;
use crate::format::BLOCK_BYTES;
use crate::hash::checksum;
use crate::progress::Watch;
use crate::simd::{nonzero_bits, wide};
use crate::tensor::Dtype;

/// A tensor's dense bytes, from any thread.
pub trait Dense: Sync {
    /// Its type, a float.
    fn dtype(&self) -> &Dtype;
    /// Its shape.
    fn shape(&self) -> &[u64];
    /// Its number of elements.
    fn elements(&self) -> u64;
    /// Fills `out` from byte `offset`.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// Bytes of an element.
    fn width(&self) -> usize {
        self.dtype().float_bytes().unwrap_or(1)
    }
}

/// Dense bytes of a block of a survey: small enough for the cache.
pub const SURVEY_BYTES: usize = 256 * 1024;

/// What was counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Elements of a block; the last may have fewer.
    pub block: u64,
    /// Before each block and at the end.
    pub before: Vec<Before>,
    /// Checksums of each [`BLOCK_BYTES`] of the dense bytes; `None` where only kept elements were counted.
    pub sums: Option<Vec<u64>>,
}

/// What stands before a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Before {
    /// Kept elements.
    pub kept: u64,
    /// Entries of deltas.
    pub entries: u64,
    /// Position after the last kept element; 0 = none.
    pub after_last: u64,
    /// Zeros of the unary part of a Rice code of l bits: Σ ⌊(gap − 1) / 2^l⌋, for l = 1 … 8.
    pub unary: [u64; RICE_BITS],
}

/// Bits that the rest of a Rice code may have: 1 to this.
pub const RICE_BITS: usize = 8;

impl Before {
    /// Bits of the unary part of a Rice code whose rest has `l` bits: ⌈gap / 2^l⌉ for each gap.
    pub fn unary_bits(&self, l: u8) -> u64 {
        self.kept + self.unary[usize::from(l) - 1]
    }
}

struct Count {
    kept: u64,
    fillers: u64,
    first: u64,
    last: u64,
    unary: [u64; RICE_BITS],
}

impl Survey {
    /// Counts.
    pub fn of(dense: &dyn Dense, watch: Watch<'_>) -> Result<Survey> {
        let width = dense.width();
        let total = dense.elements() * width as u64;
        let found: Result<Vec<(u64, Vec<Count>)>> = (0..total.div_ceil(BLOCK_BYTES as u64))
            .into_par_iter()
            .map_init(Vec::new, |bytes: &mut Vec<u8>, i| {
                let offset = i * BLOCK_BYTES as u64;
                bytes.resize((total - offset).min(BLOCK_BYTES as u64) as usize, 0);
                dense.read(offset, bytes)?;
                watch.tick(bytes.len() as u64)?;
                let counts = bytes
                    .chunks(SURVEY_BYTES)
                    .enumerate()
                    .map(|(k, b)| count(b, width, (offset + (k * SURVEY_BYTES) as u64) / width as u64))
                    .collect();
                Ok((checksum(bytes), counts))
            })
            .collect();
        let mut survey = Survey { block: (SURVEY_BYTES / width) as u64, ..Survey::default() };
        let mut at = Before::default();
        survey.before.push(at);
        let found = found?;
        survey.sums = Some(found.iter().map(|(sum, _)| *sum).collect());
        for (_, counts) in found {
            for count in counts {
                if count.kept > 0 {
                    let skipped = count.first - at.after_last;
                    at.entries += count.kept + count.fillers + skipped / 255;
                    for (l, (all, more)) in at.unary.iter_mut().zip(count.unary).enumerate() {
                        *all += more + (skipped >> (l + 1));
                    }
                    at.kept += count.kept;
                    at.after_last = count.last + 1;
                }
                survey.before.push(at);
            }
        }
        Ok(survey)
    }

    /// From counts of kept elements in blocks. Neither deltas nor a Rice code can be made of it.
    pub fn of_kept(block: u64, kept: impl Iterator<Item = u64>) -> Survey {
        let mut at = Before::default();
        let before = std::iter::once(at).chain(kept.map(|n| {
            at.kept += n;
            at
        }));
        Survey { block, before: before.collect(), sums: None }
    }

    /// Kept elements.
    pub fn kept(&self) -> u64 {
        self.before.last().map_or(0, |b| b.kept)
    }

    /// Entries of deltas.
    pub fn entries(&self) -> u64 {
        self.before.last().map_or(0, |b| b.entries)
    }

    /// The bits of the rest with which a Rice code is shortest, the fewest of several.
    pub fn rice_bits(&self) -> u8 {
        let bytes = |l: &u8| self.kept().div_ceil(8) * u64::from(*l) + self.unary_bits(*l).div_ceil(8);
        (1..=RICE_BITS as u8).min_by_key(bytes).unwrap_or(1)
    }

    /// Bits of the unary part of a Rice code whose rest has `l` bits.
    pub fn unary_bits(&self, l: u8) -> u64 {
        self.before.last().map_or(0, |b| b.unary_bits(l))
    }
}

fn count(bytes: &[u8], width: usize, first_element: u64) -> Count {
    let mut bits = vec![0u8; (bytes.len() / width).div_ceil(8)];
    mask_bits(bytes, width, &mut bits);
    wide(|| count_bits(&bits, first_element))
}

#[inline(always)]
fn count_bits(bits: &[u8], first_element: u64) -> Count {
    let mut count = Count { kept: 0, fillers: 0, first: 0, last: 0, unary: [0; RICE_BITS] };
    // A block is short enough for sums of 32 bits.
    let mut unary = [0u32; RICE_BITS];
    let mut skip = |zeros: u32| {
        for (l, sum) in unary.iter_mut().enumerate() {
            *sum += zeros >> (l + 1);
        }
    };
    for (i, word) in bits.chunks(8).enumerate() {
        let mut padded = [0u8; 8];
        padded[..word.len()].copy_from_slice(word);
        let word = u64::from_le_bytes(padded);
        if word == 0 {
            continue;
        }
        let base = first_element + i as u64 * 64;
        let first = base + u64::from(word.trailing_zeros());
        if count.kept == 0 {
            count.first = first;
        } else {
            // Gaps within a word are below 64.
            count.fillers += (first - count.last - 1) / 255;
            skip((first - count.last - 1) as u32);
        }
        count.kept += u64::from(word.count_ones());
        count.last = base + 63 - u64::from(word.leading_zeros());
        // Ones that follow a one say nothing; runs of zeros between ones do.
        let mut inner = word >> word.trailing_zeros();
        while inner & inner.wrapping_add(1) != 0 {
            inner >>= inner.trailing_ones();
            let zeros = inner.trailing_zeros();
            skip(zeros);
            inner >>= zeros;
        }
    }
    count.unary = unary.map(u64::from);
    count
}

/// The mask of elements: 1 where the bits are not those of +0.0. `out` has a bit an element, rounded up to bytes.
pub fn mask_bits(bytes: &[u8], width: usize, out: &mut [u8]) {
    match width {
        2 => nonzero_bits::<2>(bytes, out),
        4 => nonzero_bits::<4>(bytes, out),
        _ => nonzero_bits::<8>(bytes, out),
    }
}
