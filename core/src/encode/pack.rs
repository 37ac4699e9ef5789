//! A tensor as pieces, produced block by block from its dense bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use super::coding::{Fitted, put_bits};
use super::outline::{Outline, PackedLayout, PieceOutline, TermOutline, u8_type};
use super::survey::{Dense, Survey, mask_bits};
use crate::convert::to_f32;
use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, Blocks, Packed, PackedTerm, Piece};
use crate::hash::checksum;
use crate::ordered::try_map;
use crate::pump::with_buffer;
use crate::simd::compact;

/// How a tensor is to be packed.
pub struct Packing<'a> {
    /// Its bytes, as they are after the coding's rounding.
    pub dense: &'a dyn Dense,
    /// Counts of these bytes.
    pub survey: &'a Survey,
    /// Dense, mask, deltas or rice.
    pub layout: PackedLayout,
    /// The coding.
    pub fitted: &'a Fitted,
}

/// Checksums of the dense bytes, block by block of a survey, as they are packed.
pub struct Sums(Vec<OnceLock<Vec<u64>>>);

impl Sums {
    /// None yet. The blocks of the survey must be whole blocks of [`BLOCK_BYTES`].
    pub fn new(survey: &Survey) -> Sums {
        Sums(survey.before[1..].iter().map(|_| OnceLock::new()).collect())
    }

    fn take(&self, block: usize, bytes: &[u8]) {
        self.0[block].get_or_init(|| bytes.chunks(BLOCK_BYTES).map(checksum).collect());
    }

    /// All of them; `None` where a block was not packed.
    pub fn all(&self) -> Option<Vec<u64>> {
        let sums: Option<Vec<&Vec<u64>>> = self.0.iter().map(OnceLock::get).collect();
        Some(sums?.into_iter().flatten().copied().collect())
    }
}

/// The outline of a tensor under a layout (dense, mask, deltas or rice) and a coding.
pub fn outline(
    dtype: &crate::tensor::Dtype,
    shape: &[u64],
    survey: &Survey,
    layout: PackedLayout,
    fitted: &Fitted,
) -> Outline {
    let elements: u64 = shape.iter().product();
    let count = match layout {
        PackedLayout::Mask | PackedLayout::Rice => survey.kept(),
        PackedLayout::Deltas => survey.entries(),
        _ => elements,
    };
    let mut pieces = fitted.outlines(dtype, count);
    match layout {
        PackedLayout::Mask => pieces.push(PieceOutline::new("mask", u8_type(), vec![elements.div_ceil(8)])),
        PackedLayout::Deltas => pieces.push(PieceOutline::new("deltas", u8_type(), vec![count])),
        PackedLayout::Rice => {
            let l = survey.rice_bits();
            pieces.push(PieceOutline::new("unary", u8_type(), vec![survey.unary_bits(l).div_ceil(8)]));
            pieces.push(PieceOutline::new("rest", u8_type(), vec![count.div_ceil(8), u64::from(l)]));
        }
        _ => {}
    }
    let terms = vec![TermOutline { layout, values: fitted.coding(), pieces }];
    Outline { dtype: dtype.clone(), shape: shape.to_vec(), terms }
}

/// The layouts that can hold a surveyed tensor under a coding, with their outlines.
pub fn possible(dense: &dyn Dense, survey: &Survey, fitted: &Fitted) -> Vec<Outline> {
    let zero = fitted.zero().is_some();
    let fits = |layout| match layout {
        PackedLayout::Dense => zero || survey.kept() == dense.elements(),
        PackedLayout::Deltas => survey.sums.is_some() && (zero || survey.kept() == survey.entries()),
        PackedLayout::Rice => survey.sums.is_some(),
        _ => true,
    };
    [PackedLayout::Dense, PackedLayout::Mask, PackedLayout::Deltas, PackedLayout::Rice]
        .into_iter()
        .filter(|l| fits(*l))
        .map(|l| outline(dense.dtype(), dense.shape(), survey, l, fitted))
        // What hardly keeps anything unfolds to more than a reader allows.
        .filter(|o| dense.elements() * dense.width() as u64 <= o.bytes().saturating_mul(MAX_EXPAND))
        .collect()
}

/// A packed tensor unfolds to at most this many times its bytes, so that every reader opens it by default.
pub const MAX_EXPAND: u64 = 4096;

impl<'a> Packing<'a> {
    /// The pieces.
    pub fn packed(&self) -> Packed<'a> {
        self.packed_summing(None)
    }

    /// The pieces; `sums` takes the checksums of the dense bytes.
    pub fn packed_summing(&self, sums: Option<&Arc<Sums>>) -> Packed<'a> {
        let outline = outline(self.dense.dtype(), self.dense.shape(), self.survey, self.layout, self.fitted);
        let places = matches!(self.layout, PackedLayout::Mask | PackedLayout::Deltas | PackedLayout::Rice);
        let masks = (places && self.dense.elements() <= MAX_MASKS)
            .then(|| Arc::new(Masks(self.survey.before[1..].iter().map(|_| OnceLock::new()).collect())));
        let terms = outline.terms.into_iter().map(|term| PackedTerm {
            layout: term.layout,
            values: term.values,
            pieces: term.pieces.into_iter().map(|p| self.piece(p, &masks, sums)).collect(),
        });
        let terms = terms.collect();
        Packed { dtype: outline.dtype, shape: outline.shape, terms }
    }

    fn piece(&self, piece: PieceOutline, masks: &Option<Arc<Masks>>, sums: Option<&Arc<Sums>>) -> Piece<'a> {
        let (bytes, masks) = (piece.bytes(), masks.clone());
        let Packing { dense, survey, layout, fitted } = *self;
        let (sums, cut) = (sums.cloned(), Mutex::default());
        let walk = Walk { dense, survey, layout, fitted, bytes, masks, sums, cut };
        let data: Box<dyn Blocks + 'a> = match piece.role {
            "values" => Box::new(Values(walk)),
            "mask" => Box::new(Mask(walk)),
            "deltas" => Box::new(Deltas(walk)),
            "unary" => Box::new(Unary(walk)),
            "rest" => Box::new(Rest(walk)),
            _ => Box::new(Bytes(self.fitted.companion(self.dense.dtype()))),
        };
        Piece { role: piece.role, dtype: piece.dtype, shape: piece.shape, data }
    }
}

/// Bytes that are there already.
pub struct Bytes(pub Vec<u8>);

impl Blocks for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }
}

/// The mask or deltas of a tensor, block by block, as the values were made: whoever writes them, or a code of them, then
/// need not make the weights anew.
struct Masks(Vec<OnceLock<Vec<u8>>>);

/// Elements of a tensor whose mask is kept from the values to the mask: 64 MB of it; deltas are chosen where they are
/// fewer. Those of larger ones are made twice.
const MAX_MASKS: u64 = 1 << 29;

struct Walk<'a> {
    dense: &'a dyn Dense,
    survey: &'a Survey,
    layout: PackedLayout,
    fitted: &'a Fitted,
    bytes: u64,
    masks: Option<Arc<Masks>>,
    sums: Option<Arc<Sums>>,
    /// Blocks of which one call has used a part and another will use the rest.
    cut: Mutex<BTreeMap<usize, Vec<u8>>>,
}

struct Values<'a>(Walk<'a>);
struct Mask<'a>(Walk<'a>);
struct Deltas<'a>(Walk<'a>);
struct Unary<'a>(Walk<'a>);
struct Rest<'a>(Walk<'a>);

/// The entries of a block of a tensor.
struct Entries {
    /// First element of the block.
    first: u64,
    /// The block's dense bytes.
    bytes: Vec<u8>,
    /// For each entry its element within the block; fillers are `u32::MAX`.
    at: Vec<u32>,
    /// For each entry of deltas its delta.
    deltas: Vec<u8>,
}

impl Walk<'_> {
    /// Entries that stand before a block.
    fn before(&self, block: usize) -> u64 {
        let before = &self.survey.before[block];
        match self.layout {
            PackedLayout::Mask | PackedLayout::Rice => before.kept,
            PackedLayout::Deltas => before.entries,
            _ => (block as u64 * self.survey.block).min(self.dense.elements()),
        }
    }

    fn blocks(&self) -> usize {
        self.survey.before.len() - 1
    }

    /// Lends the dense bytes of a block, and says which is its first element.
    fn with_dense<T>(&self, block: usize, work: impl FnOnce(u64, &[u8]) -> Result<T>) -> Result<T> {
        let first = block as u64 * self.survey.block;
        let n = (self.dense.elements() - first).min(self.survey.block) as usize;
        with_buffer(n * self.dense.width(), |bytes| {
            self.dense.read(first * self.dense.width() as u64, bytes)?;
            if let Some(sums) = &self.sums {
                sums.take(block, bytes);
            }
            work(first, bytes)
        })
    }

    fn read(&self, block: usize) -> Result<(u64, Vec<u8>)> {
        self.with_dense(block, |first, bytes| Ok((first, bytes.to_vec())))
    }

    /// The mask of a block, which is kept for who writes it.
    fn bits(&self, block: usize, bytes: &[u8]) -> Vec<u8> {
        let width = self.dense.width();
        let mut bits = vec![0u8; (bytes.len() / width).div_ceil(8)];
        mask_bits(bytes, width, &mut bits);
        if let Some(masks) = self.masks.as_ref().filter(|_| self.layout != PackedLayout::Deltas) {
            masks.0[block].get_or_init(|| bits.clone());
        }
        bits
    }

    fn entries(&self, block: usize) -> Result<Entries> {
        let (first, bytes) = self.read(block)?;
        let bits = self.bits(block, &bytes);
        let count = (self.before(block + 1) - self.before(block)) as usize;
        let gaps = self.layout == PackedLayout::Deltas;
        let (mut at, mut deltas) = (Vec::with_capacity(count), Vec::with_capacity(if gaps { count } else { 0 }));
        let mut after_last = self.survey.before[block].after_last;
        for (i, byte) in bits.iter().enumerate() {
            let mut left = *byte;
            while left != 0 {
                let element = (i * 8) as u32 + left.trailing_zeros();
                left &= left - 1;
                if gaps {
                    let position = first + u64::from(element);
                    let gap = position + 1 - after_last;
                    let fillers = ((gap - 1) / 255) as usize;
                    if fillers > 0 {
                        at.extend(std::iter::repeat_n(u32::MAX, fillers));
                        deltas.extend(std::iter::repeat_n(255, fillers));
                    }
                    deltas.push((gap - fillers as u64 * 255) as u8);
                    after_last = position + 1;
                }
                at.push(element);
            }
        }
        if at.len() != count {
            return Err(changed());
        }
        if let Some(masks) = self.masks.as_ref().filter(|_| gaps) {
            masks.0[block].get_or_init(|| deltas.clone());
        }
        Ok(Entries { first, bytes, at, deltas })
    }

    /// Writes the codes of all entries of a block.
    fn put_codes(&self, block: usize, out: &mut [u8]) -> Result<()> {
        if matches!(self.layout, PackedLayout::Mask | PackedLayout::Rice) && *self.fitted == Fitted::Plain {
            return self.with_dense(block, |_, bytes| {
                let bits = self.bits(block, bytes);
                let kept = match self.dense.width() {
                    2 => compact::<2>(bytes, &bits, out),
                    4 => compact::<4>(bytes, &bits, out),
                    _ => compact::<8>(bytes, &bits, out),
                };
                if kept * self.dense.width() == out.len() { Ok(()) } else { Err(changed()) }
            });
        }
        put(out, &self.codes(block)?)
    }

    /// The codes of all entries of a block, [`Fitted::width`] bytes each.
    fn codes(&self, block: usize) -> Result<Vec<u8>> {
        let dtype = self.dense.dtype();
        if self.layout == PackedLayout::Dense {
            let (first, bytes) = self.read(block)?;
            if *self.fitted == Fitted::Plain {
                return Ok(bytes);
            }
            let mut values = vec![0f32; bytes.len() / self.dense.width()];
            to_f32(dtype, &bytes, &mut values);
            let mut codes = vec![0; values.len() * self.fitted.width(dtype)];
            self.fitted.code(|k| first + k as u64, &values, &mut codes);
            if let (Fitted::Codebook(_), Some(zero)) = (self.fitted, self.fitted.zero()) {
                for (code, element) in codes.iter_mut().zip(bytes.chunks(self.dense.width())) {
                    if element.iter().all(|b| *b == 0) {
                        *code = zero;
                    }
                }
            }
            return Ok(codes);
        }
        let entries = self.entries(block)?;
        let width = self.dense.width();
        let mut kept = vec![0u8; entries.at.len() * width];
        for (at, out) in entries.at.iter().zip(kept.chunks_mut(width)) {
            if *at != u32::MAX {
                out.copy_from_slice(&entries.bytes[*at as usize * width..][..width]);
            }
        }
        if *self.fitted == Fitted::Plain {
            return Ok(kept);
        }
        let mut values = vec![0f32; entries.at.len()];
        to_f32(dtype, &kept, &mut values);
        let wide = self.fitted.width(dtype);
        let mut codes = vec![0; values.len() * wide];
        // A filler's value is 0 at whatever element.
        self.fitted.code(|k| entries.first + u64::from(entries.at[k]), &values, &mut codes);
        let zero = self.fitted.zero();
        for (code, at) in codes.chunks_mut(wide).zip(&entries.at) {
            if *at == u32::MAX {
                code.fill(0);
                code[0] = zero.ok_or_else(changed)?;
            }
        }
        Ok(codes)
    }

    /// Fills bytes of an array of which each entry has `width` bytes, from the whole blocks that `make` writes.
    fn fill(
        &self,
        width: usize,
        offset: u64,
        out: &mut [u8],
        make: &(dyn Fn(usize, &mut [u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let end = offset + out.len() as u64;
        let start_of = |block: usize| self.before(block) * width as u64;
        let mut block = first_block(self.blocks(), |b| start_of(b + 1) > offset);
        let (mut rest, mut at, mut jobs) = (out, offset, Vec::new());
        while at < end && block < self.blocks() {
            let upto = start_of(block + 1).min(end);
            let (mine, others) = rest.split_at_mut((upto - at) as usize);
            jobs.push((block, (at - start_of(block)) as usize, mine));
            (rest, at, block) = (others, upto, block + 1);
        }
        jobs.into_par_iter().try_for_each(|(block, skip, out)| {
            if out.is_empty() {
                return Ok(());
            }
            let whole = (start_of(block + 1) - start_of(block)) as usize;
            if out.len() == whole {
                return make(block, out);
            }
            let known = self.lock_cut().remove(&block);
            if let Some(made) = known {
                return put(out, made.get(skip..skip + out.len()).ok_or_else(changed)?);
            }
            let mut made = vec![0; whole];
            make(block, &mut made)?;
            put(out, &made[skip..skip + out.len()])?;
            // Who has made the rest at the same time has left it here, and needs it no more than we do.
            let mut cut = self.lock_cut();
            if whole <= BLOCK_BYTES && cut.remove(&block).is_none() {
                cut.insert(block, made);
            }
            Ok(())
        })
    }

    fn lock_cut(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<u8>>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gaps of a block's kept elements, the first from the last kept one before the block.
    fn gaps(&self, block: usize) -> Result<Vec<u64>> {
        let known = self.masks.as_ref().and_then(|m| m.0[block].get().cloned());
        let bits = match known {
            Some(bits) => bits,
            None => self.with_dense(block, |_, bytes| Ok(self.bits(block, bytes)))?,
        };
        let mut gaps = Vec::with_capacity((self.before(block + 1) - self.before(block)) as usize);
        let mut after_last = self.survey.before[block].after_last;
        let first = block as u64 * self.survey.block;
        for (i, byte) in bits.iter().enumerate() {
            let mut left = *byte;
            while left != 0 {
                let position = first + i as u64 * 8 + u64::from(left.trailing_zeros());
                left &= left - 1;
                gaps.push(position + 1 - after_last);
                after_last = position + 1;
            }
        }
        if gaps.len() as u64 != self.before(block + 1) - self.before(block) {
            return Err(changed());
        }
        Ok(gaps)
    }

    /// Fills bytes of packed indices.
    fn fill_indices(&self, bits: u8, offset: u64, out: &mut [u8]) -> Result<()> {
        self.fill_fields(bits, offset, out, &|block| self.codes(block))
    }

    /// Fills bytes of fields of `bits` bits, from those of whole blocks, a byte each, that `make` makes.
    fn fill_fields(
        &self,
        bits: u8,
        offset: u64,
        out: &mut [u8],
        make: &(dyn Fn(usize) -> Result<Vec<u8>> + Sync),
    ) -> Result<()> {
        out.fill(0);
        let wide = u64::from(bits);
        let (from, upto) = (offset * 8, (offset + out.len() as u64) * 8);
        let first = first_block(self.blocks(), |b| self.before(b + 1) * wide > from);
        let last = first_block(self.blocks(), |b| self.before(b) * wide >= upto);
        let codes = try_map(first..last, make)?;
        for (block, codes) in (first..last).zip(codes) {
            put_bits(&codes, bits, (self.before(block) * wide) as i64 - from as i64, out);
        }
        Ok(())
    }
}

/// The first block of which something holds that holds of all later ones.
fn first_block(blocks: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, blocks);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Copies what must be as long.
fn put(out: &mut [u8], made: &[u8]) -> Result<()> {
    if out.len() != made.len() {
        return Err(changed());
    }
    out.copy_from_slice(made);
    Ok(())
}

/// The error for weights that differ between two passes.
pub fn changed() -> Error {
    Error::failed("the weights changed between two passes: the input was modified meanwhile")
}

impl Blocks for Values<'_> {
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self.0.fitted {
            Fitted::Codebook(_) => {
                let bits = self.0.fitted.coding().bits(self.0.dense.dtype()) as u8;
                self.0.fill_indices(bits, offset, out)
            }
            fitted => self.0.fill(fitted.width(self.0.dense.dtype()), offset, out, &|b, o| self.0.put_codes(b, o)),
        }
    }
}

impl Blocks for Mask<'_> {
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (dense, block) = (self.0.dense, self.0.survey.block);
        let width = dense.width();
        let step = (block / 8) as usize;
        out.par_chunks_mut(step).enumerate().try_for_each(|(i, out)| {
            let first = (offset + (i * step) as u64) * 8;
            let at = (first / block) as usize;
            let known = self.0.masks.as_ref().and_then(|m| m.0.get(at)?.get());
            if let Some(bits) = known.filter(|bits| bits.len() == out.len()) {
                out.copy_from_slice(bits);
                return Ok(());
            }
            let n = (dense.elements() - first).min(block) as usize;
            if first.is_multiple_of(block) && out.len() == n.div_ceil(8) {
                return self.0.with_dense(at, |_, bytes| {
                    mask_bits(bytes, width, out);
                    Ok(())
                });
            }
            let n = n.min(out.len() * 8);
            with_buffer(n * width, |bytes| {
                dense.read(first * width as u64, bytes)?;
                mask_bits(bytes, width, out);
                Ok(())
            })
        })
    }
}

impl Blocks for Deltas<'_> {
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.fill(1, offset, out, &|b, o| match self.0.masks.as_ref().and_then(|m| m.0[b].get()) {
            Some(deltas) => put(o, deltas),
            None => put(o, &self.0.entries(b)?.deltas),
        })
    }
}

impl Blocks for Unary<'_> {
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        let (walk, l) = (&self.0, self.0.survey.rice_bits());
        let low = (1 << l) - 1;
        let before = |block: usize| walk.survey.before[block].unary_bits(l);
        let (from, upto) = (offset * 8, (offset + out.len() as u64) * 8);
        let first = first_block(walk.blocks(), |b| before(b + 1) > from);
        let last = first_block(walk.blocks(), |b| before(b) >= upto);
        let gaps = try_map(first..last, |b| walk.gaps(b))?;
        for (block, gaps) in (first..last).zip(gaps) {
            let mut after = before(block);
            for gap in gaps {
                after += (gap + low) >> l;
                if let Some(bit) = (after - 1).checked_sub(from).filter(|bit| *bit < upto - from) {
                    out[(bit / 8) as usize] |= 1 << (bit % 8);
                }
            }
            if after != before(block + 1) {
                return Err(changed());
            }
        }
        Ok(())
    }
}

impl Blocks for Rest<'_> {
    fn bytes(&self) -> u64 {
        self.0.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (walk, l) = (&self.0, self.0.survey.rice_bits());
        // What is missing to a multiple of 2^l.
        let rest = |gap: u64| (gap.wrapping_neg() & ((1 << l) - 1)) as u8;
        walk.fill_fields(l, offset, out, &|block| Ok(walk.gaps(block)?.into_iter().map(rest).collect()))
    }
}
