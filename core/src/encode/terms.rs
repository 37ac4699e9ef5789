//! Packing what a method returned: terms of f32 values, of which a part is the sum.

use compress_sdk::encoding::{Encoding, Layout, Term};

use super::coding::{Fitted, Scales, packed_bytes, put_bits, scale_for};
use super::decode::{Decoder, ReadAt, TermValues};
use super::fit::fit;
use super::hash::coefficients;
use super::outline::{Outline, PackedLayout, ValueCoding, i64_type, u8_type};
use super::pack::{Bytes, Packing};
use super::survey::{Dense, Survey};
use crate::convert::from_f32;
use crate::error::{Error, Result};
use crate::format::{Packed, PackedTerm, Piece};
use crate::progress::Watch;
use crate::tensor::Dtype;

/// Packs an encoding of a whole tensor, all in memory. Sparse terms become masks or deltas, whichever is smaller.
pub fn pack(encoding: &Encoding, dtype: &Dtype, shape: &[u64], values: ValueCoding) -> Result<Packed<'static>> {
    let elements: u64 = shape.iter().product();
    if encoding.rows as u64 * encoding.cols as u64 != elements {
        let (rows, cols) = (encoding.rows, encoding.cols);
        return Err(Error::failed(format!("an encoding of {rows} × {cols} weights for a tensor of {shape:?}")));
    }
    let terms = encoding.terms.iter().map(|t| pack_term(encoding, t, dtype, shape, values)).collect::<Result<_>>()?;
    Ok(Packed { dtype: dtype.clone(), shape: shape.to_vec(), terms })
}

/// Codes the values of each term of a packed tensor anew.
pub fn recode(decoder: &Decoder, values: ValueCoding) -> Result<Packed<'static>> {
    let outline = decoder.outline();
    let (dtype, shape) = (&outline.dtype, &outline.shape);
    let term = |i| {
        Ok(match decoder.values_of(i)? {
            TermValues::Placed { values: all, sparse } => placed(&all, dtype, shape, values, sparse)?,
            TermValues::Factored { rows, rank, cols, u, v } => factored((&u, &v), [rows, rank, cols], dtype, values)?,
            TermValues::Hashed { buckets, hash } => hashed(&buckets, hash, dtype, values)?,
        })
    };
    let terms = (0..outline.terms.len()).map(term).collect::<Result<_>>()?;
    Ok(Packed { dtype: dtype.clone(), shape: shape.clone(), terms })
}

fn factored(
    (u, v): (&[f32], &[f32]),
    [rows, rank, cols]: [u64; 3],
    dtype: &Dtype,
    values: ValueCoding,
) -> Result<PackedTerm<'static>> {
    let mut pieces = matrix(["u", "u_scale", "u_codebook"], u, [rows, rank], 0, dtype, values)?;
    pieces.extend(matrix(["v", "v_scale", "v_codebook"], v, [rank, cols], 1, dtype, values)?);
    Ok(PackedTerm { layout: PackedLayout::Factored, values, pieces })
}

fn hashed(buckets: &[f32], hash: Vec<u8>, dtype: &Dtype, values: ValueCoding) -> Result<PackedTerm<'static>> {
    let mut pieces = array(buckets, dtype, values)?;
    pieces.push(piece("hash", i64_type(), vec![5], hash));
    Ok(PackedTerm { layout: PackedLayout::Hashed, values, pieces })
}

fn pack_term(
    encoding: &Encoding,
    term: &Term,
    dtype: &Dtype,
    shape: &[u64],
    values: ValueCoding,
) -> Result<PackedTerm<'static>> {
    let (rows, cols) = (encoding.rows as u64, encoding.cols as u64);
    match &term.layout {
        Layout::Dense => placed(&term.values, dtype, shape, values, false),
        Layout::Sparse(bitmap) => {
            let mut kept = term.values.iter();
            let all: Vec<f32> = (0..encoding.rows * encoding.cols)
                .map(|i| if bitmap.get(i) { kept.next().copied().unwrap_or(0.0) } else { 0.0 })
                .collect();
            placed(&all, dtype, shape, values, true)
        }
        Layout::Factored { rank } => {
            let rank = *rank as u64;
            let (u, v) = term.values.split_at((rows * rank) as usize);
            factored((u, v), [rows, rank, cols], dtype, values)
        }
        Layout::Hashed { seed } => {
            let count = term.values.len() as u64;
            let mut hash: Vec<u8> = coefficients(u64::from(*seed)).iter().flat_map(|c| c.to_le_bytes()).collect();
            hash.extend(count.to_le_bytes());
            hashed(&term.values, hash, dtype, values)
        }
    }
}

fn piece(role: &'static str, dtype: Dtype, shape: Vec<u64>, bytes: Vec<u8>) -> Piece<'static> {
    Piece { role, dtype, shape, data: Box::new(Bytes(bytes)) }
}

/// Values in memory as a tensor.
pub struct Values {
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Values {
    fn of(values: &[f32], dtype: &Dtype, shape: &[u64]) -> Values {
        let mut bytes = vec![0; values.len() * dtype.float_bytes().unwrap_or(4)];
        from_f32(dtype, values, &mut bytes);
        Values { dtype: dtype.clone(), shape: shape.to_vec(), bytes }
    }
}

impl Dense for Values {
    fn dtype(&self) -> &Dtype {
        &self.dtype
    }
    fn shape(&self) -> &[u64] {
        &self.shape
    }
    fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.bytes[offset as usize..][..out.len()]);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.as_slice().read_at(offset, out)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = usize::try_from(offset).ok().and_then(|o| self.get(o..o.checked_add(out.len())?));
        out.copy_from_slice(range.ok_or_else(|| Error::failed("a piece is too short"))?);
        Ok(())
    }
}

/// Bytes of a producer, all at once.
pub fn collect(data: &dyn crate::format::Blocks) -> Result<Vec<u8>> {
    let mut bytes = vec![0; data.bytes() as usize];
    for (i, block) in bytes.chunks_mut(crate::format::BLOCK_BYTES).enumerate() {
        data.fill((i * crate::format::BLOCK_BYTES) as u64, block)?;
    }
    Ok(bytes)
}

/// A dense or sparse term.
fn placed(all: &[f32], dtype: &Dtype, shape: &[u64], coding: ValueCoding, sparse: bool) -> Result<PackedTerm<'static>> {
    let mut dense = Values::of(all, dtype, shape);
    let fitted = fit(&dense, coding, sparse, Watch::silent())?;
    fitted.round_trip(dtype, sparse, 0, &mut dense.bytes);
    let survey = Survey::of(&dense, Watch::silent())?;
    let outline = super::pack::possible(&dense, &survey, &fitted)
        .into_iter()
        .filter(|o| (o.terms[0].layout == PackedLayout::Dense) != sparse)
        .min_by_key(Outline::bytes)
        .ok_or_else(|| Error::failed("no layout holds this term"))?;
    let layout = outline.terms[0].layout;
    let packed = Packing { dense: &dense, survey: &survey, layout, fitted: &fitted }.packed();
    let mut pieces = Vec::new();
    for p in packed.terms.into_iter().flat_map(|t| t.pieces) {
        let bytes = collect(p.data.as_ref())?;
        pieces.push(piece(p.role, p.dtype, p.shape, bytes));
    }
    Ok(PackedTerm { layout, values: coding, pieces })
}

/// A one-dimensional array of values that stand for themselves: buckets.
fn array(values: &[f32], dtype: &Dtype, coding: ValueCoding) -> Result<Vec<Piece<'static>>> {
    let term = placed(values, dtype, &[values.len() as u64], coding, false)?;
    Ok(term.pieces)
}

/// A factor. `axis`: which dimension has a scale each.
fn matrix(
    [role, scale, codebook]: [&'static str; 3],
    values: &[f32],
    shape: [u64; 2],
    axis: usize,
    dtype: &Dtype,
    coding: ValueCoding,
) -> Result<Vec<Piece<'static>>> {
    let dense = Values::of(values, dtype, &shape);
    let fitted = match coding {
        ValueCoding::Int8 => Fitted::Int8(scales(values, dtype, shape, axis)?),
        _ => fit(&dense, coding, false, Watch::silent())?,
    };
    let width = fitted.width(dtype);
    let mut codes = dense.bytes;
    if fitted != Fitted::Plain {
        codes = vec![0; values.len() * width];
        fitted.code(|k| k as u64, values, &mut codes);
    }
    let dense_type = fitted.outlines(dtype, 0).swap_remove(0).dtype;
    let Fitted::Codebook(_) = &fitted else {
        let mut pieces = vec![piece(role, dense_type, shape.to_vec(), codes)];
        if let Fitted::Int8(s) = &fitted {
            pieces.push(piece(scale, Dtype::F32, s.shape.clone(), fitted.companion(dtype)));
        }
        return Ok(pieces);
    };
    let bits = coding.bits(dtype) as u8;
    let across = packed_bytes(shape[1], bits) as usize;
    let mut packed = vec![0; across * shape[0] as usize];
    for (row, out) in codes.chunks((shape[1] as usize).max(1)).zip(packed.chunks_mut(across.max(1))) {
        put_bits(row, bits, 0, out);
    }
    Ok(vec![
        piece(role, u8_type(), vec![shape[0], across as u64], packed),
        piece(codebook, dtype.clone(), vec![1 << bits], fitted.companion(dtype)),
    ])
}

fn scales(values: &[f32], dtype: &Dtype, shape: [u64; 2], axis: usize) -> Result<Scales> {
    let mut most = vec![0f32; shape[axis] as usize];
    for (k, v) in values.iter().enumerate() {
        if !v.is_finite() {
            return Err(Error::failed(format!("the factors hold {v}, which has no place in int8")));
        }
        let place = if axis == 0 { k / (shape[1] as usize).max(1) } else { k % shape[1] as usize };
        most[place] = most[place].max(v.abs());
    }
    let mut scale_shape = vec![1, 1];
    scale_shape[axis] = shape[axis];
    let inner = if axis == 0 { shape[1] } else { 1 };
    Ok(Scales { shape: scale_shape, inner, values: most.into_iter().map(|m| scale_for(dtype, m)).collect() })
}
