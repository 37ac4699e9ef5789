//! Packed tensors read again: any run of the dense bytes, from pieces that may be hostile.

use std::sync::OnceLock;

use super::coding::{Codebook, Fitted, Scales, get_bits, packed_bytes};
use super::outline::{Outline, PackedLayout, TermOutline, ValueCoding};
use crate::convert::{from_f32, to_f32};
use crate::error::{Error, Result};
use crate::simd::expand;
use crate::tensor::Dtype;

mod check;
mod index;

use check::Facts;
pub use check::check;
pub(crate) use index::{Index, Rice};

/// Bytes of a piece, from anywhere and any thread.
pub trait ReadAt: Send + Sync {
    /// Fills `out` from byte `offset`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

/// Elements that are decoded at once.
const CHUNK: u64 = 1 << 16;

/// A packed tensor, open for reading. Made from headers alone; what must be counted is counted on the first reading.
pub struct Decoder {
    outline: Outline,
    elements: u64,
    terms: Vec<Term>,
}

/// The values of a term in f32.
pub enum TermValues {
    /// All elements of a dense or sparse term.
    Placed {
        /// In flat order.
        values: Vec<f32>,
        /// Whether zeros are left out.
        sparse: bool,
    },
    /// U [rows, rank] and V [rank, cols].
    Factored {
        /// Rows of U.
        rows: u64,
        /// Columns of U.
        rank: u64,
        /// Columns of V.
        cols: u64,
        /// Row-major.
        u: Vec<f32>,
        /// Row-major.
        v: Vec<f32>,
    },
    /// Shared by hash.
    Hashed {
        /// The buckets.
        buckets: Vec<f32>,
        /// The piece of that name.
        hash: Vec<u8>,
    },
}

struct Term {
    outline: TermOutline,
    facts: Facts,
    shape: Vec<u64>,
    data: Vec<Box<dyn ReadAt>>,
    dtype: Dtype,
    elements: u64,
    /// Built on the first reading.
    index: OnceLock<Result<Index, String>>,
    arrays: OnceLock<Result<Arrays, String>>,
}

/// The small arrays of a term.
#[derive(Default)]
struct Arrays {
    scales: Option<Scales>,
    /// Of the tensor's type.
    codebook: Vec<u8>,
    /// V, or the buckets.
    whole: Vec<f32>,
    /// U is read by rows; its scales and codebook.
    u_scale: Vec<f32>,
    u_codebook: Vec<f32>,
    hash: [i64; 4],
}

impl Decoder {
    /// Checks an outline and that it does not unfold to more than `max_expand` times its bytes; `data` has one array
    /// for each piece, of exactly its bytes.
    pub fn new(outline: Outline, data: Vec<Vec<Box<dyn ReadAt>>>, max_expand: u64) -> Result<Decoder> {
        let (elements, facts) = check(&outline, max_expand)?;
        let dtype = outline.dtype.clone();
        let terms = outline.terms.iter().zip(data).zip(facts).map(|((term, data), facts)| Term {
            outline: term.clone(),
            facts,
            shape: outline.shape.clone(),
            data,
            dtype: dtype.clone(),
            elements,
            index: OnceLock::new(),
            arrays: OnceLock::new(),
        });
        let terms = terms.collect();
        Ok(Decoder { outline, elements, terms })
    }

    /// What it is made of.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The values of a term, all in memory.
    pub fn values_of(&self, term: usize) -> Result<TermValues> {
        let term = self.terms.get(term).ok_or_else(|| Error::failed("there is no such term"))?;
        match term.outline.layout {
            PackedLayout::Hashed => {
                let buckets = term.arrays()?.whole.clone();
                Ok(TermValues::Hashed { buckets, hash: term.all("hash")?.unwrap_or_default() })
            }
            PackedLayout::Factored => {
                let arrays = term.arrays()?;
                let (rank, cols) = (term.facts.rank, term.facts.cols);
                let rows = term.elements / cols.max(1);
                let mut u = Vec::with_capacity((rows * rank) as usize);
                for row in 0..rows {
                    let scale = |_| arrays.u_scale[row as usize % arrays.u_scale.len()];
                    u.extend(term.decode_row("u", row, rank, &arrays.u_codebook, &scale)?);
                }
                Ok(TermValues::Factored { rows, rank, cols, u, v: arrays.whole.clone() })
            }
            layout => {
                let mut values = vec![0f32; term.elements as usize];
                for (i, run) in values.chunks_mut(CHUNK as usize).enumerate() {
                    term.wide(i as u64 * CHUNK, run)?;
                }
                Ok(TermValues::Placed { values, sparse: layout != PackedLayout::Dense })
            }
        }
    }

    /// Whether it is one term of dense, mask, deltas or rice, so that a later coding can take its values' place.
    pub fn is_placed(&self) -> bool {
        matches!(self.terms.as_slice(), [term] if term.outline.layout.is_placed())
    }

    /// The coding of its values, to write them again without a further loss; `None` where it is not one term of
    /// dense, mask, deltas or rice, or where what another program fitted is none of ours.
    pub fn fitted(&self) -> Result<Option<Fitted>> {
        let [term] = self.terms.as_slice() else { return Ok(None) };
        if !self.is_placed() {
            return Ok(None);
        }
        Ok(match term.outline.values {
            ValueCoding::Plain => Some(Fitted::Plain),
            ValueCoding::F16 => Some(Fitted::F16),
            ValueCoding::Bf16 => Some(Fitted::Bf16),
            ValueCoding::Int8 => {
                let scales = term.arrays()?.scales.clone();
                let ours = |s: &Scales| s.values.iter().all(|v| v.is_finite() && *v >= 0.0);
                scales.filter(ours).map(Fitted::Int8)
            }
            ValueCoding::Codebook(bits) => {
                let stored = &term.arrays()?.codebook;
                let mut entries = vec![0f32; 1 << bits];
                to_f32(&self.outline.dtype, stored, &mut entries);
                let mut again = vec![0; stored.len()];
                from_f32(&self.outline.dtype, &entries, &mut again);
                let ours = again == *stored && entries.iter().all(|v| v.is_finite());
                ours.then(|| Fitted::Codebook(Codebook::new(bits, entries, &self.outline.dtype)))
            }
        })
    }

    /// Fills `out` with dense bytes from byte `offset`.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let dtype = &self.outline.dtype;
        let width = dtype.float_bytes().unwrap_or(1) as u64;
        let end = offset + out.len() as u64;
        if end > self.elements * width {
            return Err(Error::failed(format!("{} bytes at {offset} of its {}", out.len(), self.elements * width)));
        }
        if !offset.is_multiple_of(width) || !end.is_multiple_of(width) {
            let first = offset / width * width;
            let mut whole = vec![0; (end.next_multiple_of(width) - first) as usize];
            self.read_at(first, &mut whole)?;
            out.copy_from_slice(&whole[(offset - first) as usize..][..out.len()]);
            return Ok(());
        }
        let mut wide = Vec::new();
        let mut sum = Vec::new();
        for (i, bytes) in out.chunks_mut((CHUNK * width) as usize).enumerate() {
            let first = offset / width + i as u64 * CHUNK;
            let n = bytes.len() / width as usize;
            match self.terms.as_slice() {
                [term] if term.is_raw() => term.raw(first, bytes)?,
                terms => {
                    sum.clear();
                    sum.resize(n, 0f32);
                    for (k, term) in terms.iter().enumerate() {
                        wide.resize(n, 0f32);
                        term.wide(first, &mut wide[..n])?;
                        // The first is taken as it is: −0.0 + 0.0 would be 0.0.
                        let pairs = sum.iter_mut().zip(&wide);
                        if k == 0 { pairs.for_each(|(s, w)| *s = *w) } else { pairs.for_each(|(s, w)| *s += *w) }
                    }
                    from_f32(dtype, &sum, bytes);
                }
            }
        }
        Ok(())
    }
}

impl Term {
    /// Whether its values are of the tensor's type as they stand.
    fn is_raw(&self) -> bool {
        self.outline.layout.is_placed() && matches!(self.outline.values, ValueCoding::Plain | ValueCoding::Codebook(_))
    }

    fn piece(&self, role: &str) -> Option<(usize, &dyn ReadAt)> {
        let i = self.outline.pieces.iter().position(|p| p.role == role)?;
        Some((i, self.data[i].as_ref()))
    }

    fn need(&self, role: &str) -> Result<&dyn ReadAt> {
        self.piece(role).map(|(_, data)| data).ok_or_else(|| Error::failed(format!("its piece \"{role}\" is missing")))
    }

    fn all(&self, role: &str) -> Result<Option<Vec<u8>>> {
        let Some((i, data)) = self.piece(role) else { return Ok(None) };
        let mut bytes = vec![0; self.outline.pieces[i].bytes() as usize];
        data.read_at(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn all_f32(&self, role: &str) -> Result<Vec<f32>> {
        let Some(bytes) = self.all(role)? else { return Ok(Vec::new()) };
        let dtype = match self.piece(role) {
            Some((i, _)) => &self.outline.pieces[i].dtype,
            None => return Ok(Vec::new()),
        };
        let mut out = vec![0f32; bytes.len() / dtype.float_bytes().unwrap_or(1)];
        to_f32(dtype, &bytes, &mut out);
        Ok(out)
    }

    fn index(&self) -> Result<&Index> {
        let made = self.index.get_or_init(|| self.make_index().map_err(|e| e.to_string()));
        made.as_ref().map_err(|e| Error::failed(e.clone()))
    }

    fn make_index(&self) -> Result<Index> {
        match self.outline.layout {
            PackedLayout::Mask => {
                let index = Index::of_mask(self.need("mask")?, self.elements)?;
                if !self.holds(index.count()) {
                    let (kept, count) = (index.count(), self.facts.count);
                    return Err(Error::failed(format!("its mask keeps {kept} elements, but there are {count} values")));
                }
                Ok(index)
            }
            PackedLayout::Rice => {
                let code = self.rice()?;
                let index = Index::of_rice(&code, self.elements)?;
                if !self.holds(index.count()) || index.count().div_ceil(8) * 8 != code.room {
                    let (kept, count) = (index.count(), self.facts.count);
                    let text = format!("its Rice code has {kept} gaps, but there are {count} values");
                    return Err(Error::failed(format!("{text} and room for {} rests", code.room)));
                }
                Ok(index)
            }
            _ => Index::of_deltas(self.need("deltas")?, self.facts.count, self.elements),
        }
    }

    /// Whether its values are so many.
    fn holds(&self, count: u64) -> bool {
        match self.outline.values {
            ValueCoding::Codebook(bits) => packed_bytes(count, bits) == self.facts.count,
            _ => count == self.facts.count,
        }
    }

    fn rice(&self) -> Result<Rice<'_>> {
        let (unary, rest) = (self.need("unary")?, self.need("rest")?);
        let shape = |role: &str| self.piece(role).map(|(i, _)| self.outline.pieces[i].shape.as_slice());
        match (shape("unary"), shape("rest")) {
            (Some([bytes]), Some([groups, bits @ 1..=8])) => {
                Ok(Rice { unary, bytes: *bytes, rest, room: groups * 8, bits: *bits as u8 })
            }
            _ => Err(Error::failed("its Rice code has no such shape")),
        }
    }

    fn arrays(&self) -> Result<&Arrays> {
        let made = self.arrays.get_or_init(|| self.make_arrays().map_err(|e| e.to_string()));
        made.as_ref().map_err(|e| Error::failed(e.clone()))
    }

    fn make_arrays(&self) -> Result<Arrays> {
        let mut arrays = Arrays { codebook: self.all("codebook")?.unwrap_or_default(), ..Arrays::default() };
        if let Some((i, _)) = self.piece("scale") {
            let shape = self.outline.pieces[i].shape.clone();
            let axis = shape.iter().position(|d| *d > 1);
            let tensor = self.outline.layout != PackedLayout::Hashed;
            let inner = axis.filter(|_| tensor).map_or(1, |a| self.shape[a + 1..].iter().product());
            arrays.scales = Some(Scales { shape, inner, values: self.all_f32("scale")? });
        }
        match self.outline.layout {
            PackedLayout::Hashed => {
                let bytes = self.all("hash")?.unwrap_or_default();
                for (c, b) in arrays.hash.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *c = i64::from_le_bytes(*b);
                    if !(0..super::hash::PRIME).contains(c) {
                        return Err(Error::failed(format!("a coefficient of its hash is {c}, not 0 … 2³¹ − 2")));
                    }
                }
                let count = bytes.as_chunks::<8>().0.get(4).map_or(0, |b| u64::from_le_bytes(*b));
                // More buckets than that no checked term has.
                if count == 0 || count > 1 << 30 || !self.holds(count) {
                    return Err(Error::failed(format!("its hash names {count} buckets, which its values do not hold")));
                }
                let codebook = self.all_f32("codebook")?;
                let scale = arrays.scales.as_ref().map_or(1.0, |s| s.values[0]);
                arrays.whole = self.decode_array("values", 0, count, &codebook, &|_| scale)?;
            }
            PackedLayout::Factored => {
                let codebook = self.all_f32("v_codebook")?;
                let scales = self.all_f32("v_scale")?;
                let (rank, cols) = (self.facts.rank, self.facts.cols);
                let scale = |k: u64| scales[(k % cols) as usize % scales.len()];
                for row in 0..rank {
                    arrays.whole.extend(self.decode_row("v", row, cols, &codebook, &scale)?);
                }
                (arrays.u_scale, arrays.u_codebook) = (self.all_f32("u_scale")?, self.all_f32("u_codebook")?);
            }
            _ => {}
        }
        Ok(arrays)
    }

    /// Values k0 … of an array in f32.
    fn decode_array(
        &self,
        role: &str,
        k0: u64,
        count: u64,
        codebook: &[f32],
        scale: &dyn Fn(u64) -> f32,
    ) -> Result<Vec<f32>> {
        let data = self.need(role)?;
        let mut out = vec![0f32; count as usize];
        let read = |width: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; (count * width) as usize];
            data.read_at(k0 * width, &mut bytes)?;
            Ok(bytes)
        };
        match self.outline.values {
            ValueCoding::Plain => to_f32(&self.dtype, &read(self.dtype.float_bytes().unwrap_or(1) as u64)?, &mut out),
            ValueCoding::F16 => to_f32(&Dtype::F16, &read(2)?, &mut out),
            ValueCoding::Bf16 => to_f32(&Dtype::Bf16, &read(2)?, &mut out),
            ValueCoding::Int8 => {
                for (i, (o, q)) in out.iter_mut().zip(read(1)?).enumerate() {
                    *o = f32::from(q as i8) * scale(k0 + i as u64);
                }
            }
            ValueCoding::Codebook(bits) => {
                for (o, index) in out.iter_mut().zip(self.indices(data, bits, k0, count)?) {
                    *o = codebook[usize::from(index)];
                }
            }
        }
        Ok(out)
    }

    /// A row of U or V.
    fn decode_row(&self, role: &str, row: u64, len: u64, book: &[f32], scale: &dyn Fn(u64) -> f32) -> Result<Vec<f32>> {
        match self.outline.values {
            ValueCoding::Codebook(bits) => {
                let mut bytes = vec![0; packed_bytes(len, bits) as usize];
                self.need(role)?.read_at(row * bytes.len() as u64, &mut bytes)?;
                let index = |k: u64| get_bits(&bytes, bits, k * u64::from(bits));
                Ok((0..len).map(|k| book[usize::from(index(k))]).collect())
            }
            _ => self.decode_array(role, row * len, len, book, scale),
        }
    }

    fn indices(&self, data: &dyn ReadAt, bits: u8, k0: u64, count: u64) -> Result<Vec<u8>> {
        let wide = u64::from(bits);
        let (from, upto) = (k0 * wide / 8, ((k0 + count) * wide).div_ceil(8));
        let mut bytes = vec![0; (upto - from) as usize];
        data.read_at(from, &mut bytes)?;
        Ok((0..count).map(|k| get_bits(&bytes, bits, (k0 + k) * wide - from * 8)).collect())
    }

    /// Which elements of a run have values: their places in the run, rising, and the number of the first value.
    fn places(&self, first: u64, n: usize) -> Result<(Vec<u32>, u64)> {
        match self.outline.layout {
            PackedLayout::Mask => self.index()?.mask_places(self.need("mask")?, first, n),
            PackedLayout::Deltas => self.index()?.delta_places(self.need("deltas")?, first, n),
            PackedLayout::Rice => self.index()?.rice_places(&self.rice()?, first, n),
            _ => Ok(((0..n as u32).collect(), first)),
        }
    }

    /// A run of a term whose values are of the tensor's type.
    fn raw(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let width = self.dtype.float_bytes().unwrap_or(1);
        let data = self.need("values")?;
        let dense = self.outline.layout == PackedLayout::Dense;
        if dense && self.outline.values == ValueCoding::Plain {
            return data.read_at(first * width as u64, out);
        }
        let n = out.len() / width;
        if self.outline.layout == PackedLayout::Mask && self.outline.values == ValueCoding::Plain {
            let (bits, k0, count) = self.index()?.mask_run(self.need("mask")?, first, n)?;
            let mut values = vec![0; count * width];
            data.read_at(k0 * width as u64, &mut values)?;
            match width {
                2 => expand::<2>(&values, &bits, out),
                4 => expand::<4>(&values, &bits, out),
                _ => expand::<8>(&values, &bits, out),
            }
            return Ok(());
        }
        let (places, k0) = self.places(first, n)?;
        let values = match self.outline.values {
            ValueCoding::Codebook(bits) => {
                let book = &self.arrays()?.codebook;
                let indices = self.indices(data, bits, k0, places.len() as u64)?;
                let mut values = vec![0; places.len() * width];
                for (v, i) in values.chunks_mut(width).zip(indices) {
                    v.copy_from_slice(&book[usize::from(i) * width..][..width]);
                }
                values
            }
            _ => {
                let mut values = vec![0; places.len() * width];
                data.read_at(k0 * width as u64, &mut values)?;
                values
            }
        };
        if !dense {
            out.fill(0);
        }
        index::scatter(width, &places, &values, out);
        Ok(())
    }

    /// A run of the term in f32.
    fn wide(&self, first: u64, out: &mut [f32]) -> Result<()> {
        match self.outline.layout {
            PackedLayout::Hashed => {
                let arrays = self.arrays()?;
                let buckets = arrays.whole.len() as u64;
                for (i, o) in out.iter_mut().enumerate() {
                    let (bucket, minus) = super::hash::bucket(&arrays.hash, first + i as u64, buckets);
                    *o = if minus { -arrays.whole[bucket] } else { arrays.whole[bucket] };
                }
                Ok(())
            }
            PackedLayout::Factored => self.product(first, out),
            _ if self.is_raw() => {
                let mut bytes = vec![0; out.len() * self.dtype.float_bytes().unwrap_or(1)];
                self.raw(first, &mut bytes)?;
                to_f32(&self.dtype, &bytes, out);
                Ok(())
            }
            _ => {
                let (places, k0) = self.places(first, out.len())?;
                let scales = self.arrays()?.scales.as_ref();
                let scale = |k: u64| scales.map_or(1.0, |s| s.of(first + u64::from(places[(k - k0) as usize])));
                let values = self.decode_array("values", k0, places.len() as u64, &[], &scale)?;
                out.fill(0.0);
                places.iter().zip(values).for_each(|(p, v)| out[*p as usize] = v);
                Ok(())
            }
        }
    }

    /// A run of U·V, summed over the rank in rising order.
    fn product(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let (rank, cols) = (self.facts.rank, self.facts.cols);
        let arrays = self.arrays()?;
        let (mut at, mut rest) = (first, out);
        while !rest.is_empty() {
            let (row, col) = (at / cols, (at % cols) as usize);
            let scale = |_| arrays.u_scale[row as usize % arrays.u_scale.len()];
            let u = self.decode_row("u", row, rank, &arrays.u_codebook, &scale)?;
            let (run, others) = rest.split_at_mut(rest.len().min(cols as usize - col));
            run.fill(0.0);
            for (u, v) in u.iter().zip(arrays.whole.chunks(cols as usize)) {
                run.iter_mut().zip(&v[col..]).for_each(|(o, v)| *o += u * v);
            }
            (at, rest) = (at + run.len() as u64, others);
        }
        Ok(())
    }
}
