//! What is trained in a packed weight's stead: its factors, buckets, codebook, scales or kept values.
//!
//! A packed tensor is a linear or bilinear function of a few arrays (θ). Training changes these and leaves alone what
//! says where they go: masks, gaps, hashes, indices into a codebook, the integers under a scale. So the result is again
//! in the encoding that it was in.
//!
//! | array | θ | weight k | gradient of θ |
//! |---|---|---|---|
//! | plain | the values | θ_k | g_k |
//! | f16, bf16 | the values, in f32 while they are trained | θ_k rounded | g_k (straight through the rounding) |
//! | codebook | the entries | θ_{index k} | Σ of g over the weights of an entry (Han, Mao & Dally, ICLR 2016, § 3) |
//! | int8 | the scales · 128 | q_k · θ_{scale of k} / 128 | Σ of q·g / 128 over the weights under a scale |
//!
//! and these values are, by layout: the kept weights (dense, mask, deltas, rice: all others stay zero), buckets
//! (w = ±b[h(i)]: a bucket's gradient is the signed sum over its weights; Chen et al., ICML 2015, eq. 12), or the factors
//! of U·V (∂U = G·Vᵀ, ∂V = Uᵀ·G). An entry of a codebook that is zero stays zero. Scales are trained times 128, which makes
//! them as large as the weights under them: one learning rate suits all.

use std::collections::BTreeMap;
use std::sync::Arc;

use compress_sdk::{Encoding, Layout};
use rayon::prelude::*;

use crate::convert::{from_f32, to_f32};
use crate::encode::coding::{Codebook, Scales, get_bits};
use crate::encode::decode::{Index, Rice};
use crate::encode::hash::bucket;
use crate::encode::{Fitted, Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding};
use crate::error::{Error, Result};
use crate::packing::Coding;
use crate::recipe::EncodeLayout;
use crate::tensor::{Dtype, TensorId};
use crate::weights::{Base, Rule, TensorState, Terms, Weights};

/// How a tensor is trained.
pub enum Way {
    /// Its weights are what is trained.
    Itself,
    /// These are trained in its stead.
    By(Parameters),
    /// It stays as it is, and why.
    Never(&'static str),
}

impl Weights<'_> {
    /// How a tensor is trained after the stages so far.
    pub fn way(&self, id: TensorId) -> Result<Way> {
        let info = &self.model.tensors()[id];
        let state = &self.tensors[id];
        if let Base::Terms(terms) = &state.base {
            let pieces = terms.pieces();
            return Parameters::of_packed(pieces.outline(), &pieces.slices()).map(Way::By);
        }
        let fitted = match (&state.coding, self.decoder(id)) {
            (Some(coding), _) => coding.fitted.as_ref().clone(),
            (None, Some(decoder)) => match decoder.fitted()? {
                Some(fitted) => fitted,
                None => return Ok(Way::Never("the model has it packed as a sum of terms")),
            },
            (None, None) => Fitted::Plain,
        };
        if fitted == Fitted::Plain && !matches!(info.dtype, Dtype::F16 | Dtype::Bf16) {
            return Ok(Way::Itself);
        }
        let mut values = Vec::with_capacity(info.elements as usize);
        self.visit(id, 0, info.elements, &mut |_, piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(Way::By(Parameters::of_values(&values, &fitted, &info.dtype)))
    }

    /// A tensor after its parameters were trained. `base`: its trained values, dense.
    pub fn trained(&self, id: TensorId, theta: &[f32], base: Base) -> Result<TensorState> {
        let Way::By(parameters) = self.way(id)? else { return Ok(TensorState::new(base)) };
        let (info, state) = (&self.model.tensors()[id], &self.tensors[id]);
        if let Base::Terms(terms) = &state.base {
            let encoding = parameters.encoding(terms.encoding(), theta);
            let mut trained = Terms::new(encoding, &info.dtype, &info.shape, terms.source().cloned())?;
            if terms.values() != ValueCoding::Plain {
                trained = trained.recoded(terms.values())?;
            }
            return Ok(TensorState::new(Base::Terms(Arc::new(trained))));
        }
        let coding = match (&state.coding, self.decoder(id)) {
            (Some(coding), _) => coding.clone(),
            (None, Some(decoder)) => {
                let fitted = Arc::new(decoder.fitted()?.unwrap_or(Fitted::Plain));
                Coding { layout: EncodeLayout::Auto, fitted, keeps: true, decided: None }
            }
            (None, None) => return Ok(TensorState::new(base)),
        };
        let fitted = Arc::new(parameters.fitted(&coding.fitted, theta));
        let rules = if *fitted == Fitted::Plain { Vec::new() } else { vec![Rule::Coded(fitted.clone(), coding.keeps)] };
        let mut state = TensorState::new(base);
        (state.rules, state.coding) = (rules, Some(Coding { fitted, decided: None, ..coding }));
        Ok(state)
    }
}

/// The parameters of one packed tensor.
pub struct Parameters {
    dtype: Dtype,
    elements: usize,
    terms: Vec<Term>,
    start: Vec<f32>,
}

/// A term of the sum.
struct Term {
    place: Place,
    /// One, or those of U and V.
    arrays: Vec<Array>,
}

/// Which weights the values of a term are.
enum Place {
    /// All, in order.
    All,
    /// These, in order; [`FILLER`] is none.
    Kept(Vec<u32>),
    /// For each weight its bucket, and in the lowest bit whether it is negated.
    Buckets(Vec<u32>),
    /// U [rows, rank] · V [rank, cols].
    Product { rows: usize, rank: usize, cols: usize },
}

/// An array of values and how it is coded.
struct Array {
    coded: Coded,
    /// Number of its values.
    count: usize,
    /// Where its parameters begin.
    at: usize,
    /// Number of its parameters.
    len: usize,
}

enum Coded {
    /// Stored in a type.
    Stored(Dtype),
    /// Each value an index; an entry that is held at zero.
    Book { codes: Vec<u8>, zero: Option<usize> },
    /// Each value an integer and the number of its scale.
    Scaled { codes: Vec<i8>, scale: Vec<u32> },
}

/// What scales are trained times: a power of two, which rounds nothing.
const UNIT: f32 = 128.0;
/// The place of a value that is no weight.
const FILLER: u32 = u32::MAX;
/// Rows of a product that are worked on at once.
const ROWS: usize = 64;
/// Columns of a product that are worked on at once.
const COLS: usize = 256;

impl Parameters {
    /// Of a packed tensor: its outline, and for each term the bytes of its pieces in order. The outline and the bytes
    /// belong together, as [`crate::encode::Decoder`] has checked.
    pub fn of_packed(outline: &Outline, data: &[Vec<&[u8]>]) -> Result<Parameters> {
        let elements = outline.shape.iter().product::<u64>() as usize;
        if u32::try_from(elements).is_err() {
            return Err(Error::failed(format!("{elements} weights are too many to be trained in their encoding")));
        }
        let mut all = Parameters { dtype: outline.dtype.clone(), elements, terms: Vec::new(), start: Vec::new() };
        for (term, data) in outline.terms.iter().zip(data) {
            let pieces = Pieces { term, data };
            let (place, sizes) = pieces.place(elements)?;
            let arrays = match place {
                Place::Product { rows, rank, cols } => vec![
                    pieces.array("u", [rows, rank], &|k| (k / rank) as u64, &mut all)?,
                    pieces.array("v", [rank, cols], &|k| (k % cols) as u64, &mut all)?,
                ],
                _ => {
                    let scales = pieces.scales(&outline.shape)?;
                    let position = |k: usize| match &place {
                        Place::Kept(at) => u64::from(at[k]),
                        _ => k as u64,
                    };
                    let scale = |k: usize| scales.as_ref().map_or(0, |s| scale_of(s, position(k)));
                    vec![pieces.array("values", [1, sizes], &scale, &mut all)?]
                }
            };
            all.terms.push(Term { place, arrays });
        }
        Ok(all)
    }

    /// Of a tensor whose values are coded where they stand; weights that are +0.0 stay so.
    pub fn of_values(values: &[f32], fitted: &Fitted, dtype: &Dtype) -> Parameters {
        let mut all = Parameters { dtype: dtype.clone(), elements: values.len(), terms: Vec::new(), start: Vec::new() };
        let kept: Vec<u32> = (0..values.len()).filter(|i| values[*i].to_bits() != 0).map(|i| i as u32).collect();
        let chosen: Vec<f32> = kept.iter().map(|i| values[*i as usize]).collect();
        let codes = |width: usize| {
            let mut codes = vec![0; chosen.len() * width];
            fitted.code(|k| u64::from(kept[k]), &chosen, &mut codes);
            codes
        };
        let (coded, start) = match fitted {
            Fitted::Plain => (Coded::Stored(dtype.clone()), chosen.clone()),
            Fitted::F16 => (Coded::Stored(Dtype::F16), chosen.clone()),
            Fitted::Bf16 => (Coded::Stored(Dtype::Bf16), chosen.clone()),
            Fitted::Codebook(book) => {
                let zero = fitted.zero().map(usize::from);
                (Coded::Book { codes: codes(1), zero }, book.entries().to_vec())
            }
            Fitted::Int8(scales) => {
                let scale = kept.iter().map(|i| scale_of(scales, u64::from(*i)) as u32).collect();
                let codes = codes(1).into_iter().map(|q| q as i8).collect();
                (Coded::Scaled { codes, scale }, scales.values.iter().map(|s| s * UNIT).collect())
            }
        };
        let array = all.push(coded, kept.len(), start);
        let place = if kept.len() == values.len() { Place::All } else { Place::Kept(kept) };
        all.terms.push(Term { place, arrays: vec![array] });
        all
    }

    fn push(&mut self, coded: Coded, count: usize, start: Vec<f32>) -> Array {
        let array = Array { coded, count, at: self.start.len(), len: start.len() };
        self.start.extend(start);
        array
    }

    /// θ as it stands.
    pub fn start(&self) -> &[f32] {
        &self.start
    }

    /// Number of weights that θ stands for.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// The weights that θ stands for.
    pub fn expand(&self, theta: &[f32], weights: &mut [f32]) {
        weights.fill(0.0);
        for term in &self.terms {
            let values: Vec<Vec<f32>> = term.arrays.iter().map(|a| a.values(theta)).collect();
            match &term.place {
                Place::All => weights.iter_mut().zip(&values[0]).for_each(|(w, v)| *w += v),
                Place::Kept(at) => {
                    let placed = at.iter().zip(&values[0]).filter(|(i, _)| **i != FILLER);
                    placed.for_each(|(i, v)| weights[*i as usize] += v);
                }
                Place::Buckets(at) => {
                    let signed = |b: u32| {
                        let v = values[0][(b >> 1) as usize];
                        if b & 1 == 1 { -v } else { v }
                    };
                    weights.par_chunks_mut(1 << 14).zip(at.par_chunks(1 << 14)).for_each(|(w, at)| {
                        w.iter_mut().zip(at).for_each(|(w, b)| *w += signed(*b));
                    });
                }
                Place::Product { rank, cols, .. } => product(weights, &values[0], &values[1], *rank, *cols),
            }
        }
        // What is read again is of the tensor's type.
        if matches!(self.dtype, Dtype::F16 | Dtype::Bf16) {
            round(&self.dtype, weights);
        }
    }

    /// The gradient of θ from that of the weights; `out` has θ's length.
    pub fn gather(&self, theta: &[f32], grad: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for term in &self.terms {
            match &term.place {
                Place::All => term.arrays[0].pull(grad, out),
                Place::Kept(at) => {
                    let of = |i: &u32| grad.get(*i as usize).copied().unwrap_or(0.0);
                    let kept: Vec<f32> = at.iter().map(of).collect();
                    term.arrays[0].pull(&kept, out);
                }
                Place::Buckets(at) => {
                    let mut sums = vec![0f64; term.arrays[0].count];
                    for (b, g) in at.iter().zip(grad) {
                        let g = f64::from(*g);
                        sums[(b >> 1) as usize] += if b & 1 == 1 { -g } else { g };
                    }
                    let sums: Vec<f32> = sums.into_iter().map(|s| s as f32).collect();
                    term.arrays[0].pull(&sums, out);
                }
                Place::Product { rows, rank, cols } => {
                    let (u, v) = (term.arrays[0].values(theta), term.arrays[1].values(theta));
                    term.arrays[0].pull(&times_transposed(grad, &v, *rows, *rank, *cols), out);
                    term.arrays[1].pull(&transposed_times(&u, grad, *rows, *rank, *cols), out);
                }
            }
        }
    }

    /// The terms that θ stands for; `old` are those of [`Parameters::of_packed`], whose values are left behind.
    pub fn encoding(&self, old: &Encoding, theta: &[f32]) -> Encoding {
        let mut out = old.clone();
        for (term, made) in out.terms.iter_mut().zip(&self.terms) {
            let mut values: Vec<f32> = made.arrays.iter().flat_map(|a| a.values(theta)).collect();
            if let (Layout::Sparse(bits), Place::Kept(at)) = (&term.layout, &made.place) {
                // gaps have values that are no weights
                let placed: BTreeMap<u32, f32> = at.iter().copied().zip(values).collect();
                let kept = (0..self.elements as u32).filter(|i| bits.get(*i as usize));
                values = kept.map(|i| placed.get(&i).copied().unwrap_or(0.0)).collect();
            }
            term.values = values;
        }
        out
    }

    /// The coding of [`Parameters::of_values`] with what was trained in it.
    pub fn fitted(&self, fitted: &Fitted, theta: &[f32]) -> Fitted {
        match fitted {
            // A scale that has changed its sign turns the integers' instead.
            Fitted::Int8(s) => {
                Fitted::Int8(Scales { values: theta.iter().map(|v| v.abs() / UNIT).collect(), ..s.clone() })
            }
            Fitted::Codebook(_) => match fitted.coding() {
                ValueCoding::Codebook(bits) => Fitted::Codebook(Codebook::new(bits, theta.to_vec(), &self.dtype)),
                _ => fitted.clone(),
            },
            _ => fitted.clone(),
        }
    }
}

impl Array {
    /// Its values.
    fn values(&self, theta: &[f32]) -> Vec<f32> {
        let theta = &theta[self.at..][..self.len];
        match &self.coded {
            Coded::Stored(dtype) => {
                let mut values = theta.to_vec();
                if matches!(dtype, Dtype::F16 | Dtype::Bf16) {
                    round(dtype, &mut values);
                }
                values
            }
            Coded::Book { codes, .. } => codes.iter().map(|c| theta[usize::from(*c)]).collect(),
            Coded::Scaled { codes, scale } => {
                codes.iter().zip(scale).map(|(q, s)| f32::from(*q) * (theta[*s as usize] / UNIT)).collect()
            }
        }
    }

    /// Adds the gradient of its parameters, from that of its values.
    fn pull(&self, grad: &[f32], out: &mut [f32]) {
        let out = &mut out[self.at..][..self.len];
        let mut sums = vec![0f64; self.len];
        match &self.coded {
            Coded::Stored(_) => {
                out.iter_mut().zip(grad).for_each(|(o, g)| *o += g);
                return;
            }
            Coded::Book { codes, zero } => {
                codes.iter().zip(grad).for_each(|(c, g)| sums[usize::from(*c)] += f64::from(*g));
                zero.iter().for_each(|z| sums[*z] = 0.0);
            }
            Coded::Scaled { codes, scale } => {
                for ((q, s), g) in codes.iter().zip(scale).zip(grad) {
                    sums[*s as usize] += f64::from(*q) * f64::from(*g) / f64::from(UNIT);
                }
            }
        }
        out.iter_mut().zip(sums).for_each(|(o, s)| *o += s as f32);
    }
}

/// Which scale an element has.
fn scale_of(scales: &Scales, element: u64) -> u64 {
    element / scales.inner % scales.values.len() as u64
}

/// Each value as a type stores it, within its range; what is not zero stays so, lest it be taken for pruned.
fn round(dtype: &Dtype, values: &mut [f32]) {
    let (most, least) = match dtype {
        Dtype::F16 => (half::f16::MAX.to_f32(), half::f16::from_bits(1).to_f32()),
        _ => (half::bf16::MAX.to_f32(), half::bf16::from_bits(1).to_f32()),
    };
    for v in values.iter_mut().filter(|v| **v != 0.0) {
        *v = v.abs().clamp(least, most).copysign(*v);
    }
    let mut bytes = vec![0; 2 * values.len()];
    from_f32(dtype, values, &mut bytes);
    to_f32(dtype, &bytes, values);
}

/// W += U·V, the sum over the rank in rising order.
fn product(w: &mut [f32], u: &[f32], v: &[f32], rank: usize, cols: usize) {
    if rank == 0 || cols == 0 {
        return;
    }
    w.par_chunks_mut(cols).zip(u.par_chunks(rank)).for_each(|(row, u)| {
        let mut sum = vec![0f32; cols];
        for (u, v) in u.iter().zip(v.chunks_exact(cols)) {
            sum.iter_mut().zip(v).for_each(|(s, v)| *s += u * v);
        }
        row.iter_mut().zip(sum).for_each(|(w, s)| *w += s);
    });
}

/// G·Vᵀ [rows, rank].
fn times_transposed(g: &[f32], v: &[f32], rows: usize, rank: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0f32; rows * rank];
    if rank == 0 || cols == 0 {
        return out;
    }
    out.par_chunks_mut(rank).zip(g.par_chunks(cols)).for_each(|(out, g)| {
        for (o, v) in out.iter_mut().zip(v.chunks_exact(cols)) {
            *o = dot(g, v);
        }
    });
    out
}

/// Sixteen sums side by side, then in order: the same bits on any machine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (head_a, tail_a) = a.as_chunks::<16>();
    let (head_b, tail_b) = b.as_chunks::<16>();
    for (a, b) in head_a.iter().zip(head_b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s += a * b);
    }
    tail_a.iter().zip(tail_b).zip(&mut lanes).for_each(|((a, b), s)| *s += a * b);
    lanes.iter().sum()
}

/// Uᵀ·G [rank, cols], in blocks of columns; rows are summed in order.
fn transposed_times(u: &[f32], g: &[f32], rows: usize, rank: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0f32; rank * cols];
    if rank == 0 || cols == 0 {
        return out;
    }
    let block = |first: usize| {
        let n = COLS.min(cols - first);
        let mut sums = vec![0f32; rank * n];
        for start in (0..rows).step_by(ROWS) {
            for k in 0..rank {
                let sum = &mut sums[k * n..][..n];
                for r in start..rows.min(start + ROWS) {
                    let u = u[r * rank + k];
                    sum.iter_mut().zip(&g[r * cols + first..][..n]).for_each(|(s, g)| *s += u * g);
                }
            }
        }
        sums
    };
    let firsts: Vec<usize> = (0..cols).step_by(COLS).collect();
    let blocks: Vec<Vec<f32>> = firsts.par_iter().map(|first| block(*first)).collect();
    for (first, sums) in firsts.into_iter().zip(blocks) {
        let n = sums.len() / rank;
        for k in 0..rank {
            out[k * cols + first..][..n].copy_from_slice(&sums[k * n..][..n]);
        }
    }
    out
}

/// The pieces of a term by role.
struct Pieces<'a> {
    term: &'a TermOutline,
    data: &'a [&'a [u8]],
}

impl Pieces<'_> {
    fn find(&self, role: &str) -> Option<(&PieceOutline, &[u8])> {
        let i = self.term.pieces.iter().position(|p| p.role == role)?;
        Some((&self.term.pieces[i], self.data.get(i)?))
    }

    fn need(&self, role: &str) -> Result<(&PieceOutline, &[u8])> {
        self.find(role).ok_or_else(|| Error::failed(format!("a packed tensor lacks its piece \"{role}\"")))
    }

    fn floats(&self, role: &str) -> Result<Vec<f32>> {
        let (piece, bytes) = self.need(role)?;
        let mut out = vec![0f32; piece.elements() as usize];
        to_f32(&piece.dtype, bytes, &mut out);
        Ok(out)
    }

    /// The scales of values that stand in the tensor.
    fn scales(&self, shape: &[u64]) -> Result<Option<Scales>> {
        let Some((piece, _)) = self.find("scale") else { return Ok(None) };
        let axis = piece.shape.iter().position(|d| *d > 1);
        let inner = axis.and_then(|a| shape.get(a + 1..)).map_or(1, |s| s.iter().product());
        Ok(Some(Scales { shape: piece.shape.clone(), inner, values: self.floats("scale")? }))
    }

    /// Where the values go, and how many there are.
    fn place(&self, elements: usize) -> Result<(Place, usize)> {
        Ok(match self.term.layout {
            PackedLayout::Dense => (Place::All, elements),
            PackedLayout::Mask => {
                let (_, mask) = self.need("mask")?;
                let kept = (0..elements as u32).filter(|i| mask[*i as usize / 8] >> (i % 8) & 1 == 1);
                let kept: Vec<u32> = kept.collect();
                let count = kept.len();
                (Place::Kept(kept), count)
            }
            PackedLayout::Deltas => {
                let (_, deltas) = self.need("deltas")?;
                let stored = match self.term.values {
                    ValueCoding::Plain | ValueCoding::F16 | ValueCoding::Bf16 => self.floats("values")?,
                    _ => Vec::new(),
                };
                let mut at = 0u32;
                let next = |(k, d): (usize, &u8)| {
                    at += u32::from(*d);
                    // A filler is no weight. Coded ones are zeros whatever is trained.
                    if *d == u8::MAX && stored.get(k).is_some_and(|v| v.to_bits() == 0) { FILLER } else { at - 1 }
                };
                (Place::Kept(deltas.iter().enumerate().map(next).collect()), deltas.len())
            }
            PackedLayout::Rice => {
                let ((_, unary), (rest, rests)) = (self.need("unary")?, self.need("rest")?);
                let (room, bits) = (rest.shape[0] * 8, rest.shape[1] as u8);
                let code = Rice { unary: &unary, bytes: unary.len() as u64, rest: &rests, room, bits };
                let (kept, _) = Index::of_rice(&code, elements as u64)?.rice_places(&code, 0, elements)?;
                let count = kept.len();
                (Place::Kept(kept), count)
            }
            PackedLayout::Hashed => {
                let (_, bytes) = self.need("hash")?;
                let words: Vec<i64> = bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
                let &[a, b, c, d, count] = &words[..] else {
                    return Err(Error::failed("a hashed tensor has no five numbers of its hash"));
                };
                let of = |i: u64| {
                    let (bucket, negative) = bucket(&[a, b, c, d], i, count as u64);
                    (bucket as u32) << 1 | u32::from(negative)
                };
                (Place::Buckets((0..elements as u64).into_par_iter().map(of).collect()), count as usize)
            }
            PackedLayout::Factored => {
                let first = |role: &str| Ok::<_, Error>(self.need(role)?.0.shape[0] as usize);
                let (rows, rank) = (first("u")?, first("v")?);
                (Place::Product { rows, rank, cols: elements / rows.max(1) }, 0)
            }
        })
    }

    /// An array of [rows, cols] values. `scale` tells which scale a value has, where there is more than one.
    fn array(
        &self,
        role: &str,
        [rows, cols]: [usize; 2],
        scale: &dyn Fn(usize) -> u64,
        all: &mut Parameters,
    ) -> Result<Array> {
        let companion = |what: &str| if role == "values" { what.to_string() } else { format!("{role}_{what}") };
        let (piece, bytes) = self.need(role)?;
        let count = rows * cols;
        Ok(match self.term.values {
            ValueCoding::Plain | ValueCoding::F16 | ValueCoding::Bf16 => {
                let start = self.floats(role)?;
                all.push(Coded::Stored(piece.dtype.clone()), count, start)
            }
            ValueCoding::Int8 => {
                let scales = self.floats(&companion("scale"))?;
                let of = |k: usize| if scales.len() == 1 { 0 } else { scale(k) as u32 };
                let scale = (0..count).map(of).collect();
                let codes = bytes.iter().map(|b| *b as i8).collect();
                all.push(Coded::Scaled { codes, scale }, count, scales.into_iter().map(|s| s * UNIT).collect())
            }
            ValueCoding::Codebook(bits) => {
                let entries = self.floats(&companion("codebook"))?;
                // Rows of a factor begin a new byte.
                let wide = u64::from(bits);
                let row_bytes = if role == "values" { bytes.len() } else { bytes.len() / rows.max(1) };
                let code = |k: usize| {
                    let row = &bytes[k / cols * row_bytes..][..row_bytes];
                    get_bits(row, bits, (k % cols) as u64 * wide)
                };
                let codes: Vec<u8> = (0..count).map(code).collect();
                let zero = entries.iter().position(|e| e.to_bits() == 0);
                all.push(Coded::Book { codes, zero }, count, entries)
            }
        })
    }
}

#[cfg(test)]
mod tests;
