//! Where in a mask, in deltas or in a Rice code an element's value is: counts at intervals, made in one pass that also
//! checks them.

use super::ReadAt;
use crate::encode::coding::get_bits;
use crate::error::{Error, Result};

/// Elements between two counts of a mask.
const MASK_STEP: u64 = 1 << 16;
/// Entries between two positions of deltas or of a Rice code.
const DELTA_STEP: u64 = 1 << 10;
/// Bytes that are read at once.
const READ: usize = 1 << 18;

/// Counts at intervals.
pub struct Index {
    /// Mask: kept elements before each step of elements. Deltas, Rice: position after the entries before each step of entries.
    before: Vec<u64>,
    /// Rice: the bit of the unary part at which each step of entries begins.
    bits: Vec<u64>,
    count: u64,
    elements: u64,
}

impl Index {
    /// Values that there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts a mask; spare bits must be 0.
    pub fn of_mask(mask: &dyn ReadAt, elements: u64) -> Result<Index> {
        let mut index = Index { before: Vec::new(), bits: Vec::new(), count: 0, elements };
        let total = elements.div_ceil(8);
        let (mut at, mut buffer) = (0, vec![0; READ.min(total as usize)]);
        while at < total {
            let n = (total - at).min(READ as u64) as usize;
            let bytes = &mut buffer[..n];
            mask.read_at(at, bytes)?;
            if at + n as u64 == total && !elements.is_multiple_of(8) && bytes[n - 1] >> (elements % 8) != 0 {
                return Err(Error::failed(format!("its mask has bits beyond its {elements} elements")));
            }
            for run in bytes.chunks((MASK_STEP / 8) as usize) {
                index.before.push(index.count);
                index.count += ones(run);
            }
            at += n as u64;
        }
        Ok(index)
    }

    /// Adds deltas up; each must be at least 1, and the last position within the tensor.
    pub fn of_deltas(deltas: &dyn ReadAt, count: u64, elements: u64) -> Result<Index> {
        let mut index = Index { before: Vec::new(), bits: Vec::new(), count, elements };
        let (mut at, mut position, mut buffer) = (0, 0u64, vec![0; READ.min(count as usize)]);
        while at < count {
            let n = (count - at).min(READ as u64) as usize;
            deltas.read_at(at, &mut buffer[..n])?;
            for run in buffer[..n].chunks(DELTA_STEP as usize) {
                index.before.push(position);
                position += run.iter().map(|d| u64::from(*d)).sum::<u64>();
                if run.contains(&0) {
                    return Err(Error::failed(format!("one of its deltas {at} … {} is 0", at + n as u64)));
                }
            }
            at += n as u64;
        }
        if position > elements {
            return Err(Error::failed(format!("its deltas lead to element {}, of {elements}", position - 1)));
        }
        Ok(index)
    }

    /// Adds the gaps of a Rice code up; the last position must be within the tensor, and there must be a rest for each.
    pub fn of_rice(code: &Rice<'_>, elements: u64) -> Result<Index> {
        let mut index = Index { before: Vec::new(), bits: vec![0], count: 0, elements };
        let mut position = 0u64;
        code.walk(0, 0, &mut |bit, gap| {
            if index.count.is_multiple_of(DELTA_STEP) {
                index.before.push(position);
            }
            index.count += 1;
            position += gap;
            if index.count.is_multiple_of(DELTA_STEP) {
                index.bits.push(bit + 1);
            }
            position <= elements
        })?;
        if position > elements {
            return Err(Error::failed(format!("its Rice code leads to element {}, of {elements}", position - 1)));
        }
        Ok(index)
    }

    /// The bits of a run of elements (bit 0 = the first), the number of the first value, and how many there are.
    pub fn mask_run(&self, mask: &dyn ReadAt, first: u64, n: usize) -> Result<(Vec<u8>, u64, usize)> {
        if n == 0 {
            return Ok((Vec::new(), 0, 0));
        }
        let step = first / MASK_STEP;
        let from = step * MASK_STEP / 8;
        let upto = (first + n as u64).div_ceil(8);
        let mut bytes = vec![0; (upto - from) as usize];
        mask.read_at(from, &mut bytes)?;
        let skip = first - from * 8;
        let whole = (skip / 8) as usize;
        let before = ones(&bytes[..whole]) + u64::from((bytes[whole] & ((1u16 << (skip % 8)) - 1) as u8).count_ones());
        bytes.drain(..whole);
        let shift = skip % 8;
        if shift > 0 {
            for i in 0..bytes.len() {
                let high = bytes.get(i + 1).map_or(0, |b| b << (8 - shift));
                bytes[i] = bytes[i] >> shift | high;
            }
        }
        bytes.truncate(n.div_ceil(8));
        if !n.is_multiple_of(8) {
            bytes[n / 8] &= (1 << (n % 8)) - 1;
        }
        let count = ones(&bytes) as usize;
        Ok((bytes, self.before[step as usize] + before, count))
    }

    /// The places of kept elements in a run, and the number of the first value.
    pub fn mask_places(&self, mask: &dyn ReadAt, first: u64, n: usize) -> Result<(Vec<u32>, u64)> {
        let (bits, k0, count) = self.mask_run(mask, first, n)?;
        let mut places = Vec::with_capacity(count);
        for (i, byte) in bits.iter().enumerate() {
            let mut left = *byte;
            while left != 0 {
                places.push((i * 8) as u32 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        Ok((places, k0))
    }

    /// The places of entries in a run, and the number of the first one.
    pub fn rice_places(&self, code: &Rice<'_>, first: u64, n: usize) -> Result<(Vec<u32>, u64)> {
        let step = self.before.partition_point(|p| *p <= first).saturating_sub(1);
        let end = (first + n as u64).min(self.elements);
        let (mut at, mut after) = (step as u64 * DELTA_STEP, self.before.get(step).copied().unwrap_or(0));
        let (mut places, mut k0) = (Vec::new(), None);
        code.walk(at, self.bits[step], &mut |_, gap| {
            after += gap;
            if after > first && after <= end {
                k0.get_or_insert(at);
                places.push((after - 1 - first) as u32);
            }
            at += 1;
            after < end
        })?;
        Ok((places, k0.unwrap_or(0)))
    }

    /// The places of entries in a run, and the number of the first one.
    pub fn delta_places(&self, deltas: &dyn ReadAt, first: u64, n: usize) -> Result<(Vec<u32>, u64)> {
        // An entry of a step lies at a position of at least the step's start: the step before the first beyond `first`.
        let step = self.before.partition_point(|p| *p <= first).saturating_sub(1) as u64;
        let end = (first + n as u64).min(self.elements);
        let (mut at, mut after) = (step * DELTA_STEP, self.before.get(step as usize).copied().unwrap_or(0));
        let (mut places, mut k0) = (Vec::new(), None);
        let mut buffer = [0; DELTA_STEP as usize];
        while at < self.count {
            let bytes = &mut buffer[..(self.count - at).min(DELTA_STEP) as usize];
            deltas.read_at(at, bytes)?;
            for (i, d) in bytes.iter().enumerate() {
                after += u64::from(*d);
                if after > end {
                    return Ok((places, k0.unwrap_or(0)));
                }
                if after > first {
                    k0.get_or_insert(at + i as u64);
                    places.push((after - 1 - first) as u32);
                }
            }
            at += bytes.len() as u64;
        }
        Ok((places, k0.unwrap_or(0)))
    }
}

/// A Rice code: gap k is q·2^l − r, q the zeros before the k-th one of the unary part and that one, r the k-th rest of l
/// bits.
pub struct Rice<'a> {
    /// Its unary part.
    pub unary: &'a dyn ReadAt,
    /// Bytes of it.
    pub bytes: u64,
    /// The rests.
    pub rest: &'a dyn ReadAt,
    /// How many rests there are room for.
    pub room: u64,
    /// l, 1 to 8.
    pub bits: u8,
}

impl Rice<'_> {
    /// Hands the gaps from entry `at` on, whose unary part begins at bit `from`, to `each`, with the bit of its one; goes
    /// on while that is true.
    fn walk(&self, at: u64, from: u64, each: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let (mut at, mut next) = (at, from);
        let mut rests = Vec::new();
        let mut byte = from / 8;
        let mut unary = [0u8; UNARY];
        while byte < self.bytes {
            let n = (self.bytes - byte).min(UNARY as u64) as usize;
            self.unary.read_at(byte, &mut unary[..n])?;
            if byte == from / 8 {
                unary[0] &= u8::MAX << (from % 8);
            }
            for (i, chunk) in unary[..n].chunks(8).enumerate() {
                let mut padded = [0u8; 8];
                padded[..chunk.len()].copy_from_slice(chunk);
                let mut left = u64::from_le_bytes(padded);
                while left != 0 {
                    let bit = (byte + i as u64 * 8) * 8 + u64::from(left.trailing_zeros());
                    left &= left - 1;
                    if at >= self.room {
                        let text = format!("its Rice code has more gaps than there is room for, {} rests", self.room);
                        return Err(Error::failed(text));
                    }
                    let of_step = at % DELTA_STEP;
                    if of_step == 0 || rests.is_empty() {
                        self.rests(at, &mut rests)?;
                    }
                    let rest = get_bits(&rests, self.bits, of_step * u64::from(self.bits));
                    let gap = ((bit + 1 - next) << self.bits) - u64::from(rest);
                    (next, at) = (bit + 1, at + 1);
                    if !each(bit, gap) {
                        return Ok(());
                    }
                }
            }
            byte += n as u64;
        }
        Ok(())
    }

    /// The rests of the step of an entry.
    fn rests(&self, at: u64, out: &mut Vec<u8>) -> Result<()> {
        let first = at / DELTA_STEP * DELTA_STEP;
        let count = (self.room - first).min(DELTA_STEP);
        out.resize((count * u64::from(self.bits) / 8) as usize, 0);
        self.rest.read_at(first * u64::from(self.bits) / 8, out)
    }
}

/// Bytes of a unary part that are read at once.
const UNARY: usize = 1 << 12;

fn ones(bytes: &[u8]) -> u64 {
    crate::simd::wide(|| {
        let (words, rest) = bytes.as_chunks::<8>();
        let whole: u64 = words.iter().map(|w| u64::from(u64::from_le_bytes(*w).count_ones())).sum();
        whole + rest.iter().map(|b| u64::from(b.count_ones())).sum::<u64>()
    })
}

/// Puts elements of `width` bytes at places.
pub fn scatter(width: usize, places: &[u32], values: &[u8], out: &mut [u8]) {
    fn each<const W: usize>(places: &[u32], values: &[u8], out: &mut [u8]) {
        let out = out.as_chunks_mut::<W>().0;
        places.iter().zip(values.as_chunks::<W>().0).for_each(|(p, v)| out[*p as usize] = *v);
    }
    match width {
        2 => each::<2>(places, values, out),
        4 => each::<4>(places, values, out),
        _ => each::<8>(places, values, out),
    }
}
