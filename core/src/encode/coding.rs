//! How values are written, fitted to a tensor, and what they are worth when they are read again.

use crate::convert::{CHUNK_ELEMENTS, from_f32, to_f32};
use crate::tensor::Dtype;

use super::outline::{PieceOutline, ValueCoding, i8_type, u8_type};

/// A coding with what was fitted to a tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum Fitted {
    /// As they are.
    Plain,
    /// IEEE half; beyond its range the largest finite value.
    F16,
    /// bfloat16; beyond its range the largest finite value.
    Bf16,
    /// int8 with scales.
    Int8(Scales),
    /// Indices into a codebook.
    Codebook(Codebook),
}

/// Scales of int8 values: that of element i is `values[i / inner % values.len()]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Scales {
    /// The tensor's rank; all 1 but for the axis that has a scale each.
    pub shape: Vec<u64>,
    /// Elements that lie side by side under one scale.
    pub inner: u64,
    /// The scales, not negative.
    pub values: Vec<f32>,
}

/// A codebook.
#[derive(Clone, PartialEq, Debug)]
pub struct Codebook {
    bits: u8,
    /// 2^bits values, rising, each representable in the tensor's type; the last repeated where fewer are needed.
    entries: Vec<f32>,
    /// Between neighbours: a value above goes to the upper one.
    middles: Vec<f32>,
    /// Of each entry the first that equals it.
    firsts: Vec<u8>,
}

impl Codebook {
    /// From at most 2^bits values of any order, at least one.
    pub fn new(bits: u8, mut entries: Vec<f32>, dtype: &Dtype) -> Codebook {
        entries.iter_mut().for_each(|v| *v = through(dtype, *v));
        entries.sort_by(f32::total_cmp);
        let last = entries.last().copied().unwrap_or(0.0);
        entries.resize(1 << bits, last);
        let middle = |p: &[f32]| ((f64::from(p[0]) + f64::from(p[1])) / 2.0) as f32;
        let middles = entries.windows(2).map(middle).collect();
        let firsts = entries.iter().map(|v| entries.partition_point(|e| e < v) as u8).collect();
        Codebook { bits, entries, middles, firsts }
    }

    /// The entries.
    pub fn entries(&self) -> &[f32] {
        &self.entries
    }

    /// Index of the nearest entry.
    fn nearest(&self, v: f32) -> u8 {
        let near = self.middles.partition_point(|m| *m < v);
        let first = usize::from(self.firsts[near]);
        if self.entries[near] != 0.0 {
            return first as u8;
        }
        // Of two zeros the positive one comes after.
        let exact = self.entries[first..=near].iter().position(|e| e.to_bits() == v.to_bits());
        (first + exact.unwrap_or(0)) as u8
    }

    /// The entry next to a value that is not zero, where there is one.
    fn nearest_not_zero(&self, v: f32) -> f32 {
        let distance = |e: &f32| (f64::from(*e) - f64::from(v)).abs();
        let others = self.entries.iter().filter(|e| **e != 0.0).copied();
        others.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0.0)
    }

    /// Index of +0.0.
    fn zero(&self) -> Option<u8> {
        self.entries.iter().position(|e| e.to_bits() == 0).map(|i| i as u8)
    }
}

/// A number as a type stores it.
fn through(dtype: &Dtype, v: f32) -> f32 {
    let (mut bytes, mut out) = ([0; 8], [0.0]);
    let width = dtype.float_bytes().unwrap_or(4);
    from_f32(dtype, &[v], &mut bytes[..width]);
    to_f32(dtype, &bytes[..width], &mut out);
    out[0]
}

impl Fitted {
    /// The coding without what was fitted.
    pub fn coding(&self) -> ValueCoding {
        match self {
            Fitted::Plain => ValueCoding::Plain,
            Fitted::F16 => ValueCoding::F16,
            Fitted::Bf16 => ValueCoding::Bf16,
            Fitted::Int8(_) => ValueCoding::Int8,
            Fitted::Codebook(book) => ValueCoding::Codebook(book.bits),
        }
    }

    /// Bytes of a code that is no packed index; packed indices are one byte before they are packed.
    pub fn width(&self, dtype: &Dtype) -> usize {
        match self {
            Fitted::Plain => dtype.float_bytes().unwrap_or(1),
            Fitted::F16 | Fitted::Bf16 => 2,
            Fitted::Int8(_) | Fitted::Codebook(_) => 1,
        }
    }

    /// The code of zero, for elements that are not kept and for fillers; `None` where there is none.
    pub fn zero(&self) -> Option<u8> {
        match self {
            Fitted::Codebook(book) => book.zero(),
            _ => Some(0),
        }
    }

    /// The outlines of the array of `count` values and its companion.
    pub fn outlines(&self, dtype: &Dtype, count: u64) -> Vec<PieceOutline> {
        let array = |dtype, n| PieceOutline::new("values", dtype, vec![n]);
        match self {
            Fitted::Plain => vec![array(dtype.clone(), count)],
            Fitted::F16 => vec![array(Dtype::F16, count)],
            Fitted::Bf16 => vec![array(Dtype::Bf16, count)],
            Fitted::Int8(s) => {
                vec![array(i8_type(), count), PieceOutline::new("scale", Dtype::F32, s.shape.clone())]
            }
            Fitted::Codebook(book) => vec![
                array(u8_type(), packed_bytes(count, book.bits)),
                PieceOutline::new("codebook", dtype.clone(), vec![1 << book.bits]),
            ],
        }
    }

    /// The bytes of the companion.
    pub fn companion(&self, dtype: &Dtype) -> Vec<u8> {
        match self {
            Fitted::Int8(s) => s.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Fitted::Codebook(book) => {
                let mut bytes = vec![0; book.entries.len() * dtype.float_bytes().unwrap_or(4)];
                from_f32(dtype, &book.entries, &mut bytes);
                bytes
            }
            _ => Vec::new(),
        }
    }

    /// Codes values that stand at elements; `at(k)` is the element of value k. `out` has [`Fitted::width`] bytes a value.
    pub fn code(&self, at: impl Fn(usize) -> u64, values: &[f32], out: &mut [u8]) {
        match self {
            Fitted::Plain => unreachable!("plain values are copied as they are"),
            Fitted::F16 => narrow(values, half::f16::MAX.to_f32(), &Dtype::F16, out),
            Fitted::Bf16 => narrow(values, half::bf16::MAX.to_f32(), &Dtype::Bf16, out),
            Fitted::Int8(scales) => {
                for (k, (v, o)) in values.iter().zip(out).enumerate() {
                    *o = scales.code(at(k), *v) as u8;
                }
            }
            Fitted::Codebook(book) => values.iter().zip(out).for_each(|(v, o)| *o = book.nearest(*v)),
        }
    }

    /// Puts the values of a run of a tensor's elements, from `first` on, in place of what they were; +0.0 stays. With
    /// `keeps`, what is not zero does not become zero: the mask of a pruned tensor holds.
    pub fn round_trip(&self, dtype: &Dtype, keeps: bool, first: u64, bytes: &mut [u8]) {
        let width = dtype.float_bytes().unwrap_or(1);
        if *self == Fitted::Plain {
            return;
        }
        let mut all = [0f32; CHUNK_ELEMENTS];
        let (mut values, mut places) = ([0f32; CHUNK_ELEMENTS], [0u16; CHUNK_ELEMENTS]);
        let mut codes = [0u8; 2 * CHUNK_ELEMENTS];
        let mut after = vec![0u8; CHUNK_ELEMENTS * width];
        for (index, piece) in bytes.chunks_mut(CHUNK_ELEMENTS * width).enumerate() {
            let start = first + (index * CHUNK_ELEMENTS) as u64;
            let all = &mut all[..piece.len() / width];
            to_f32(dtype, piece, all);
            // What is not +0.0, side by side.
            let mut n = 0;
            for (i, v) in all.iter().enumerate() {
                (values[n], places[n]) = (*v, i as u16);
                n += usize::from(v.to_bits() != 0);
            }
            let (values, places) = (&mut values[..n], &places[..n]);
            let (codes, after) = (&mut codes[..n * self.width(dtype)], &mut after[..n * width]);
            let at = |k: usize| start + u64::from(places[k]);
            self.code(at, values, codes);
            self.values(at, codes, values);
            from_f32(dtype, values, after);
            if keeps && crate::convert::count_zeros(dtype, after) > 0 {
                for (k, new) in after.chunks_mut(width).enumerate() {
                    let old = all[usize::from(places[k])];
                    if old != 0.0 && crate::convert::count_zeros(dtype, new) > 0 {
                        from_f32(dtype, &[self.least(dtype, at(k), old)], new);
                    }
                }
            }
            for (place, new) in places.iter().zip(after.chunks(width)) {
                piece[usize::from(*place) * width..][..width].copy_from_slice(new);
            }
        }
    }

    /// The value next to zero on the side of `v`, at an element.
    fn least(&self, dtype: &Dtype, element: u64, v: f32) -> f32 {
        match self {
            Fitted::Plain => v,
            Fitted::F16 => half::f16::from_bits(1).to_f32().copysign(v),
            Fitted::Bf16 => half::bf16::from_bits(1).to_f32().copysign(v),
            Fitted::Int8(scales) => scales.of(element).max(smallest(dtype)).copysign(v),
            Fitted::Codebook(book) => book.nearest_not_zero(v),
        }
    }

    /// What codes are worth, in f32.
    fn values(&self, at: impl Fn(usize) -> u64, codes: &[u8], out: &mut [f32]) {
        match self {
            Fitted::Plain => unreachable!("plain values have no codes"),
            Fitted::F16 => to_f32(&Dtype::F16, codes, out),
            Fitted::Bf16 => to_f32(&Dtype::Bf16, codes, out),
            Fitted::Int8(scales) => {
                for (k, (q, o)) in codes.iter().zip(out).enumerate() {
                    *o = f32::from(*q as i8) * scales.of(at(k));
                }
            }
            Fitted::Codebook(book) => codes.iter().zip(out).for_each(|(c, o)| *o = book.entries[usize::from(*c)]),
        }
    }
}

/// The least positive value of a type, in f32.
fn smallest(dtype: &Dtype) -> f32 {
    match dtype {
        Dtype::F16 => half::f16::from_bits(1).to_f32(),
        Dtype::Bf16 => half::bf16::from_bits(1).to_f32(),
        _ => f32::from_bits(1),
    }
}

/// The scale under which the greatest magnitude of some values is 127 steps. No step is less than the tensor's type
/// can tell from zero.
pub fn scale_for(dtype: &Dtype, most: f32) -> f32 {
    if most == 0.0 { 0.0 } else { (most / 127.0).max(smallest(dtype)) }
}

impl Scales {
    /// The scale of an element.
    pub fn of(&self, element: u64) -> f32 {
        let n = self.values.len();
        if n == 1 {
            return self.values[0];
        }
        // Division of 32 bits is much faster.
        match (u32::try_from(element), u32::try_from(self.inner)) {
            (Ok(element), Ok(1)) => self.values[(element % n as u32) as usize],
            (Ok(element), Ok(inner)) => self.values[(element / inner % n as u32) as usize],
            _ => self.values[(element / self.inner) as usize % n],
        }
    }

    fn code(&self, element: u64, v: f32) -> i8 {
        let scale = self.of(element);
        if scale == 0.0 { 0 } else { (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8 }
    }
}

fn narrow(values: &[f32], most: f32, dtype: &Dtype, out: &mut [u8]) {
    from_f32(dtype, values, out);
    for (v, o) in values.iter().zip(out.chunks_mut(2)) {
        if v.is_finite() && v.abs() > most {
            from_f32(dtype, &[most.copysign(*v)], o);
        }
    }
}

/// Bytes of `count` indices of `bits` bits.
pub fn packed_bytes(count: u64, bits: u8) -> u64 {
    (u128::from(count) * u128::from(bits)).div_ceil(8) as u64
}

/// Writes indices into a stream that begins at bit 0 of `out`, from bit `at` on; what lies before or beyond `out` is
/// left out. `out` is zeros there.
pub fn put_bits(codes: &[u8], bits: u8, at: i64, out: &mut [u8]) {
    let end = at + codes.len() as i64 * i64::from(bits);
    if at >= 0 && (end as u64).div_ceil(8) <= out.len() as u64 {
        return put_bits_within(codes, bits, at as usize, out);
    }
    for (k, code) in codes.iter().enumerate() {
        let bit = at + k as i64 * i64::from(bits);
        let (byte, shift) = (bit.div_euclid(8), bit.rem_euclid(8) as u32);
        let wide = u16::from(*code) << shift;
        for (i, b) in wide.to_le_bytes().into_iter().enumerate() {
            let place = usize::try_from(byte + i as i64).ok().and_then(|i| out.get_mut(i));
            if let Some(o) = place {
                *o |= b;
            }
        }
    }
}

/// [`put_bits`] where all of it lies within `out`.
fn put_bits_within(codes: &[u8], bits: u8, at: usize, out: &mut [u8]) {
    let (mut byte, mut filled, mut word) = (at / 8, at % 8, 0u64);
    for code in codes {
        word |= u64::from(*code) << filled;
        filled += usize::from(bits);
        if filled >= 32 {
            let next = (word as u32).to_le_bytes();
            out[byte..byte + 4].iter_mut().zip(next).for_each(|(o, b)| *o |= b);
            (byte, filled, word) = (byte + 4, filled - 32, word >> 32);
        }
    }
    let rest = word.to_le_bytes();
    out[byte..].iter_mut().zip(&rest[..filled.div_ceil(8)]).for_each(|(o, b)| *o |= b);
}

/// Reads the index that begins at bit `at` of `bytes`.
pub fn get_bits(bytes: &[u8], bits: u8, at: u64) -> u8 {
    let (byte, shift) = ((at / 8) as usize, at % 8);
    let low = u16::from(bytes[byte]);
    let high = bytes.get(byte + 1).map_or(0, |b| u16::from(*b));
    (((high << 8 | low) >> shift) & ((1 << bits) - 1)) as u8
}
