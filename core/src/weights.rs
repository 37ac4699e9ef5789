//! The weights of a run as they stand after the stages so far, produced on demand.
//!
//! A pruning by a method of reach `weight` is kept as its cut alone: whoever asks for a block scores it again and puts
//! zeros where the cut says so. Memory therefore does not grow with the model. Other prunings are kept as bits in a
//! file, and stages that change values (retraining, encodings) replace a tensor's base; what a method has factored or
//! hashed stays in that form.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use compress_sdk::{Array, Evidence, EvidenceKind, Part, Reach};

use crate::convert::{CHUNK_ELEMENTS, to_f32, zero_where};
use crate::encode::survey::Dense;
use crate::encode::{Decoder, Fitted, Pieces};
use crate::error::{Error, Result};
use crate::evidence::EvidenceFile;
use crate::model::Model;
use crate::packing::Coding;
use crate::registry::Instance;
use crate::select::{KeyCut, Magnitudes, count_below, keys_of, zero_below};
use crate::tensor::{Dtype, TensorId};

pub mod terms;

pub use terms::Terms;

/// Bytes that are read at once: they stay in the cache for what follows.
pub const READ_BYTES: usize = 256 * 1024;

/// A method at work in a stage.
pub struct Scoring {
    /// The method's state.
    pub instance: Box<dyn Instance>,
    /// Evidence in the shape of the weights that it reads.
    pub evidence: Option<(Arc<EvidenceFile>, Vec<EvidenceKind>)>,
    /// `None` where a score depends on more than its weight and its part.
    known: Option<Mutex<Known>>,
}

/// Keys by magnitude that a method was asked for.
#[derive(Default)]
struct Known {
    /// By tensor and offset.
    parts: BTreeMap<(TensorId, u64), Option<Arc<Magnitudes>>>,
    /// Nearly always all parts share one.
    distinct: Vec<Arc<Magnitudes>>,
}

/// Most that are kept, 128 KB each: memory does not grow with the model.
const MAX_DISTINCT: usize = 16;

/// Parts of fewer weights are scored weight by weight: nothing is gained by scoring each value.
const MIN_BY_VALUE: u64 = 1 << 17;

/// A part for a method, with the names that it is shown.
#[derive(Clone, Debug)]
pub struct PartPlace {
    /// The tensor's number.
    pub tensor: TensorId,
    /// The tensor's name.
    pub tensor_name: Arc<str>,
    /// The tensor's shape, to say where a weight lies.
    pub shape: Arc<[u64]>,
    /// The part's name.
    pub name: Arc<str>,
    /// The class's name.
    pub class: Arc<str>,
    /// Its first element within the tensor.
    pub offset: u64,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Whether element (r, c) lies at c · rows + r.
    pub column_major: bool,
    /// Position of its first element in the order that breaks ties.
    pub position: u64,
}

impl PartPlace {
    /// Number of weights.
    pub fn len(&self) -> u64 {
        self.rows * self.cols
    }

    /// Whether it has no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Scoring {
    /// A method's state for a stage, the kinds of evidence that it reads, and whether it draws random numbers.
    pub fn new(
        instance: Box<dyn Instance>,
        reach: Reach,
        random: bool,
        evidence: Option<(Arc<EvidenceFile>, Vec<EvidenceKind>)>,
    ) -> Scoring {
        let alone = reach == Reach::Weight && !random && evidence.as_ref().is_none_or(|(_, kinds)| kinds.is_empty());
        Scoring { instance, evidence, known: alone.then(Mutex::default) }
    }

    /// Asks for the keys of all values; `None` where there are none for some, or none to compare by magnitude.
    fn ask_values(&self, place: &PartPlace, dtype: &Dtype, infinity: u16) -> Option<Magnitudes> {
        let stored = Magnitudes::values(infinity);
        let (mut values, mut keys) = (vec![0f32; stored.len() / 2], vec![0; stored.len() / 2]);
        to_f32(dtype, &stored, &mut values);
        self.keys(place, 0, &values, &mut keys).ok()?;
        Magnitudes::new(&keys)
    }

    /// Scores a slice of a part that begins `start` elements into it.
    pub fn slice(&self, place: &PartPlace, start: u64, values: &[f32], scores: &mut [f32]) -> Result<()> {
        self.score_slice(place, start, values, scores).map_err(|e| blame_weights(place, start, values, e))
    }

    fn score_slice(&self, place: &PartPlace, start: u64, values: &[f32], scores: &mut [f32]) -> Result<()> {
        let part = Part {
            tensor: &place.tensor_name,
            name: &place.name,
            class: &place.class,
            rows: 1,
            cols: values.len(),
            row_stride: values.len(),
            col_stride: 1,
            data: values,
            first_row: 0,
            first_element: start,
            part_rows: place.rows as usize,
            part_cols: place.cols as usize,
        };
        let Some((file, kinds)) = &self.evidence else {
            return self.instance.score(&part, &Evidence::default(), scores);
        };
        let mut data = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let mut buffer = vec![0f32; values.len()];
            if file.read(&place.tensor_name, *kind, place.offset + start, &mut buffer)? {
                data.push((*kind, buffer, file.mean(*kind)?));
            }
        }
        let shape = [1, values.len() as u64];
        let arrays: Vec<Array> = data
            .iter()
            .map(|(kind, data, mean)| Array { kind: *kind, shape: &shape, data, model_mean: *mean })
            .collect();
        self.instance.score(&part, &Evidence { arrays: &arrays }, scores)
    }
}

/// Selection keys of slices of parts (see [`crate::select::key`]), from scores or from wherever they were put.
pub trait Keys: Send + Sync {
    /// Fills `keys` for the weights of a part from element `start` of it on, whose values are `values`. Weights and
    /// scores that are NaN or infinite are refused by tensor and index.
    fn keys(&self, place: &PartPlace, start: u64, values: &[f32], keys: &mut [u32]) -> Result<()>;

    /// Fills `scores` instead, of which [`key`](crate::select::key) makes the keys; `false` where there are only keys.
    /// They are not checked.
    fn scores(&self, place: &PartPlace, start: u64, values: &[f32], scores: &mut [f32]) -> Result<bool> {
        let _ = (place, start, values, scores);
        Ok(false)
    }

    /// How many weights a call should have: what fits into the caches, or more where each call is dear.
    fn block_weights(&self) -> usize {
        CHUNK_ELEMENTS
    }

    /// The keys of a part of this type by magnitude, where nothing else decides them.
    fn magnitudes(&self, place: &PartPlace, dtype: &Dtype) -> Option<Arc<Magnitudes>> {
        let _ = (place, dtype);
        None
    }
}

impl Keys for Scoring {
    fn keys(&self, place: &PartPlace, start: u64, values: &[f32], keys: &mut [u32]) -> Result<()> {
        with_scratch(|scratch| {
            let scores = sized(&mut scratch.scores, values.len());
            self.slice(place, start, values, scores)?;
            match keys_of(values, scores, keys) {
                Some(i) => Err(not_finite(place, place.offset + start + i as u64, values[i], scores[i])),
                None => Ok(()),
            }
        })
    }

    fn scores(&self, place: &PartPlace, start: u64, values: &[f32], scores: &mut [f32]) -> Result<bool> {
        self.slice(place, start, values, scores)?;
        Ok(true)
    }

    fn block_weights(&self) -> usize {
        self.instance.block_weights().max(CHUNK_ELEMENTS)
    }

    fn magnitudes(&self, place: &PartPlace, dtype: &Dtype) -> Option<Arc<Magnitudes>> {
        let infinity = match dtype {
            Dtype::Bf16 => 0x7f80,
            Dtype::F16 => 0x7c00,
            _ => return None,
        };
        let mut known = self.known.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        if place.len() < MIN_BY_VALUE {
            return None;
        }
        let part = (place.tensor, place.offset);
        if let Some(found) = known.parts.get(&part) {
            return found.clone();
        }
        let mut found = self.ask_values(place, dtype, infinity).map(Arc::new);
        if let Some(new) = &mut found {
            match known.distinct.iter().find(|k| *k == new) {
                Some(same) => *new = same.clone(),
                None if known.distinct.len() < MAX_DISTINCT => known.distinct.push(new.clone()),
                None => found = None,
            }
        }
        known.parts.insert(part, found.clone());
        found
    }
}

/// Bits of a tensor that can be read from any multiple of eight.
pub trait Bits: Send + Sync {
    /// Fills `out` with the packed bits from bit `first`, a multiple of 8; 1 = kept.
    fn read(&self, first: u64, out: &mut [u8]) -> Result<()>;
}

/// What prunes a tensor.
#[derive(Clone)]
pub enum Rule {
    /// Scores against cuts, part by part in order of offset.
    Cut(Arc<dyn Keys>, Arc<Vec<(PartPlace, KeyCut)>>),
    /// Bits over the whole tensor.
    Bits(Arc<dyn Bits>),
    /// Values as a lossy coding leaves them; with the flag, what is not zero stays so.
    Coded(Arc<Fitted>, bool),
}

/// Where the values of a tensor come from before its rules.
#[derive(Clone)]
pub enum Base {
    /// The model.
    Model,
    /// A file of the run's state, dense little-endian from a byte on.
    File(Arc<File>, Arc<PathBuf>, u64),
    /// A sum of terms that a method made of it. No rules lie over it.
    Terms(Arc<Terms>),
    /// A sum of terms that the model has packed, their values coded anew. No rules lie over it.
    Pieces(Arc<Pieces>),
}

/// The state of one tensor.
#[derive(Clone)]
pub struct TensorState {
    /// Where its values come from.
    pub base: Base,
    /// What has pruned and coded it, in order.
    pub rules: Vec<Rule>,
    /// How many rules there were when the pruned weights of each block were counted, and these counts.
    pruned: Option<(usize, Arc<Vec<u64>>)>,
    /// What an encode stage decided; `None`: it is written in the way in which the model has it.
    pub coding: Option<Coding>,
}

impl TensorState {
    /// Values from somewhere, and nothing else.
    pub fn new(base: Base) -> TensorState {
        TensorState { base, rules: Vec::new(), pruned: None, coding: None }
    }

    /// Takes the counts of pruned weights of each block of [`BLOCK_WEIGHTS`](crate::population::BLOCK_WEIGHTS) under the
    /// rules as they are: these are +0.0, and no other weight is.
    pub fn set_pruned_blocks(&mut self, blocks: Vec<u64>) {
        self.pruned = Some((self.rules.len(), Arc::new(blocks)));
    }

    /// These counts, where they still hold.
    pub fn pruned_blocks(&self) -> Option<&[u64]> {
        self.pruned.as_ref().filter(|(rules, _)| *rules == self.rules.len()).map(|(_, blocks)| blocks.as_slice())
    }

    /// Adds a rule. What was counted for packing holds no longer.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
        if let Some(coding) = &mut self.coding {
            coding.decided = None;
        }
    }
}

/// The weights after the stages so far.
#[derive(Clone)]
pub struct Weights<'m> {
    /// The model.
    pub model: &'m Model,
    /// One state a tensor.
    pub tensors: Vec<TensorState>,
}

#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    values: Vec<f32>,
    scores: Vec<f32>,
    keys: Vec<u32>,
}

thread_local! {
    static POOL: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's buffers; loans may be nested.
fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = POOL.with(|pool| pool.borrow_mut().pop()).unwrap_or_default();
    let result = work(&mut scratch);
    POOL.with(|pool| pool.borrow_mut().push(scratch));
    result
}

/// The first `n` of a buffer that grows as needed.
fn sized<T: Copy + Default>(buffer: &mut Vec<T>, n: usize) -> &mut [T] {
    if buffer.len() < n {
        buffer.resize(n, T::default());
    }
    &mut buffer[..n]
}

impl<'m> Weights<'m> {
    /// The weights as the model has them.
    pub fn new(model: &'m Model) -> Weights<'m> {
        Weights { model, tensors: vec![TensorState::new(Base::Model); model.tensors().len()] }
    }

    /// Whether a tensor is as the model has it, and is written so.
    pub fn is_unchanged(&self, tensor: TensorId) -> bool {
        self.has_the_models_values(tensor) && self.tensors[tensor].coding.is_none()
    }

    /// Whether a tensor has the values that the model has.
    pub fn has_the_models_values(&self, tensor: TensorId) -> bool {
        let state = &self.tensors[tensor];
        state.rules.is_empty() && matches!(state.base, Base::Model)
    }

    /// The same weights, to be written without packed tensors.
    pub fn unpacked(&self) -> Weights<'m> {
        let mut plain = self.clone();
        for (id, state) in plain.tensors.iter_mut().enumerate() {
            let (source, inner) = self.model.origin(id);
            let packed = self.model.sources()[source].packed(inner).is_some();
            if packed || state.coding.is_some() || matches!(state.base, Base::Terms(_) | Base::Pieces(_)) {
                state.coding = Some(Coding::dense());
            }
        }
        plain
    }

    /// A tensor's bytes as packing wants them.
    pub fn dense(&self, tensor: TensorId) -> TensorBytes<'_> {
        TensorBytes { weights: self, tensor }
    }

    /// What decodes a tensor that the model has packed and no stage has given another base.
    pub fn decoder(&self, tensor: TensorId) -> Option<&Decoder> {
        match &self.tensors[tensor].base {
            Base::Model => {
                let (source, inner) = self.model.origin(tensor);
                self.model.sources()[source].decoder(inner)
            }
            Base::Pieces(pieces) => Some(pieces.decoder()),
            Base::File(..) | Base::Terms(_) => None,
        }
    }

    /// The terms of a tensor that a method has encoded.
    pub fn terms(&self, tensor: TensorId) -> Option<&Arc<Terms>> {
        match &self.tensors[tensor].base {
            Base::Terms(terms) => Some(terms),
            Base::Model | Base::File(..) | Base::Pieces(_) => None,
        }
    }

    /// Fills `out` with a tensor's bytes, dense and little-endian, from byte `offset`.
    pub fn fill(&self, tensor: TensorId, offset: u64, out: &mut [u8]) -> Result<()> {
        let state = &self.tensors[tensor];
        let dtype = &self.model.tensors()[tensor].dtype;
        let dear = state.rules.iter().any(|rule| rule.block_weights() > CHUNK_ELEMENTS);
        let step = if dear { out.len().max(1) } else { READ_BYTES };
        for (index, bytes) in out.chunks_mut(step).enumerate() {
            let offset = offset + (index * step) as u64;
            match &state.base {
                Base::Model => self.model.read_at(tensor, offset, bytes)?,
                Base::File(file, path, start) => {
                    file.read_exact_at(bytes, start + offset).map_err(|e| Error::io("read the state file", path, &e))?
                }
                Base::Terms(terms) => {
                    terms.fill(offset, bytes).map_err(|e| e.at(format!("\"{}\"", self.model.tensors()[tensor].name)))?
                }
                Base::Pieces(pieces) => pieces
                    .fill(offset, bytes)
                    .map_err(|e| e.at(format!("\"{}\"", self.model.tensors()[tensor].name)))?,
            }
            let Some(width) = dtype.float_bytes() else { continue };
            for rule in &state.rules {
                rule.apply(dtype, width, offset / width as u64, bytes)
                    .map_err(|e| e.at(format!("\"{}\"", self.model.tensors()[tensor].name)))?;
            }
        }
        Ok(())
    }

    /// The mask of a run of a tensor's elements from `first`, a multiple of 8: one bit each, 1 where the weight is not
    /// zero. Bits beyond the tensor are 0.
    pub fn nonzero_bits(&self, tensor: TensorId, first: u64, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        let count = (out.len() as u64 * 8).min(self.model.tensors()[tensor].elements - first);
        self.visit(tensor, first, count, &mut |at, values| {
            let start = (at - first) as usize / 8;
            for (byte, run) in out[start..].iter_mut().zip(values.chunks(8)) {
                *byte = run.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(*v != 0.0) << i);
            }
            Ok(())
        })
    }

    /// Hands a run of elements of a tensor as f32 to `visit`, in pieces of at most [`CHUNK_ELEMENTS`], each with its
    /// first element.
    pub fn visit(
        &self,
        tensor: TensorId,
        first: u64,
        count: u64,
        visit: &mut dyn FnMut(u64, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let dtype = &self.model.tensors()[tensor].dtype;
        let width = dtype.float_bytes().unwrap_or(1);
        with_scratch(|scratch| {
            let step = (READ_BYTES / width) as u64;
            let mut at = first;
            while at < first + count {
                let run = step.min(first + count - at) as usize;
                let bytes = sized(&mut scratch.bytes, run * width);
                self.fill(tensor, at * width as u64, bytes)?;
                for (index, piece) in bytes.chunks(CHUNK_ELEMENTS * width).enumerate() {
                    let values = sized(&mut scratch.values, piece.len() / width);
                    to_f32(dtype, piece, values);
                    visit(at + (index * CHUNK_ELEMENTS) as u64, values)?;
                }
                at += run as u64;
            }
            Ok(())
        })
    }

    /// The keys of a part by magnitude, where nothing else decides them.
    pub fn magnitudes(&self, source: &dyn Keys, place: &PartPlace) -> Option<Arc<Magnitudes>> {
        source.magnitudes(place, &self.model.tensors()[place.tensor].dtype)
    }

    /// For each bound how many selection keys of a run of a part are below it.
    pub fn count_below(
        &self,
        source: &dyn Keys,
        place: &PartPlace,
        first: u64,
        count: u64,
        bounds: &[u32],
    ) -> Result<Vec<u64>> {
        if let Some(magnitudes) = self.magnitudes(source, place) {
            // The end of one likely order is often the beginning of the next.
            let limits: Vec<u16> = bounds.iter().map(|bound| magnitudes.below(*bound)).collect();
            let distinct: Vec<u16> = limits.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let mut counts = vec![0; distinct.len()];
            let finite = with_scratch(|scratch| {
                let step = (READ_BYTES / 2) as u64;
                for at in (first..first + count).step_by(step as usize) {
                    let bytes = sized(&mut scratch.bytes, step.min(first + count - at) as usize * 2);
                    self.fill(place.tensor, (place.offset + at) * 2, bytes)?;
                    if !magnitudes.count(bytes, &distinct, &mut counts) {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            if finite {
                let by_limit: BTreeMap<u16, u64> = distinct.into_iter().zip(counts).collect();
                return Ok(limits.iter().map(|limit| by_limit[limit]).collect());
            }
        }
        // Where weights are not finite, this says which.
        let mut counts = vec![0; bounds.len()];
        self.visit_keys(source, place, first, count, &mut |_, keys| {
            counts.iter_mut().zip(bounds).for_each(|(count, bound)| *count += count_below(keys, *bound));
        })?;
        Ok(counts)
    }

    /// Hands the selection keys of a run of a part to `visit`, each piece with its first element within the part.
    pub fn visit_keys(
        &self,
        source: &dyn Keys,
        place: &PartPlace,
        first: u64,
        count: u64,
        visit: &mut dyn FnMut(u64, &[u32]),
    ) -> Result<()> {
        if source.block_weights() > CHUNK_ELEMENTS {
            return self.visit_keys_at_once(source, place, first, count, visit);
        }
        self.visit(place.tensor, place.offset + first, count, &mut |at, values| {
            with_scratch(|scratch| {
                let keys = sized(&mut scratch.keys, values.len());
                source.keys(place, at - place.offset, values, keys)?;
                visit(at - place.offset, keys);
                Ok(())
            })
        })
    }

    /// The same in pieces as long as the source wants them.
    fn visit_keys_at_once(
        &self,
        source: &dyn Keys,
        place: &PartPlace,
        first: u64,
        count: u64,
        visit: &mut dyn FnMut(u64, &[u32]),
    ) -> Result<()> {
        let step = source.block_weights() as u64;
        with_scratch(|scratch| {
            for start in (first..first + count).step_by(step as usize) {
                let n = step.min(first + count - start);
                let values = sized(&mut scratch.values, n as usize);
                self.visit(place.tensor, place.offset + start, n, &mut |at, piece| {
                    let i = (at - place.offset - start) as usize;
                    values[i..i + piece.len()].copy_from_slice(piece);
                    Ok(())
                })?;
                let keys = sized(&mut scratch.keys, n as usize);
                source.keys(place, start, values, keys)?;
                visit(start, keys);
            }
            Ok(())
        })
    }
}

/// A tensor's bytes after the stages so far.
pub struct TensorBytes<'a> {
    weights: &'a Weights<'a>,
    tensor: TensorId,
}

impl Dense for TensorBytes<'_> {
    fn dtype(&self) -> &Dtype {
        &self.weights.model.tensors()[self.tensor].dtype
    }

    fn shape(&self) -> &[u64] {
        &self.weights.model.tensors()[self.tensor].shape
    }

    fn elements(&self) -> u64 {
        self.weights.model.tensors()[self.tensor].elements
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.weights.fill(self.tensor, offset, out)
    }
}

/// The error for a weight or score that is NaN or infinite, at a flat index of its tensor.
pub fn not_finite(place: &PartPlace, index: u64, value: f32, score: f32) -> Error {
    let (name, shape, at) = (&place.tensor_name, &place.shape, coordinates(&place.shape, index));
    if value.is_finite() {
        Error::failed(format!(
            "\"{name}\" {shape:?}: the method scored the weight at {at:?} (flat index {index}), {value}, as {score}; \
             scores must be finite"
        ))
    } else {
        Error::failed(format!(
            "\"{name}\" {shape:?}: the weight at {at:?} (flat index {index}) is {value}; repair the model, or leave the \
             tensor out by \"classes\""
        ))
    }
}

/// Where a method fails over weights that are NaN or infinite themselves, they are the reason. `values` are those of the
/// part from element `start` on.
pub fn blame_weights(place: &PartPlace, start: u64, values: &[f32], error: Error) -> Error {
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) if matches!(error, Error::Failed(_)) => {
            not_finite(place, place.offset + start + i as u64, values[i], values[i])
        }
        _ => error,
    }
}

/// A flat index, row-major, as one index a dimension.
fn coordinates(shape: &[u64], index: u64) -> Vec<u64> {
    let mut left = index;
    let mut at: Vec<u64> = shape
        .iter()
        .rev()
        .map(|d| {
            let i = left % (*d).max(1);
            left /= (*d).max(1);
            i
        })
        .collect();
    at.reverse();
    at
}

impl Rule {
    /// How many weights it should be given at once.
    fn block_weights(&self) -> usize {
        match self {
            Rule::Cut(keys, _) => keys.block_weights(),
            Rule::Bits(_) | Rule::Coded(..) => CHUNK_ELEMENTS,
        }
    }

    /// Zeroes what goes among the elements from `first` on, or codes and decodes them.
    fn apply(&self, dtype: &Dtype, width: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        match self {
            Rule::Cut(keys, parts) => {
                let end = first + (bytes.len() / width) as u64;
                let begin = parts.partition_point(|(p, _)| p.offset + p.len() <= first);
                for (place, cut) in parts[begin..].iter().take_while(|(p, _)| p.offset < end) {
                    let from = place.offset.max(first);
                    let upto = (place.offset + place.len()).min(end);
                    let piece = &mut bytes[(from - first) as usize * width..(upto - first) as usize * width];
                    apply_cut(keys.as_ref(), place, cut, dtype, width, from, piece)?;
                }
                Ok(())
            }
            Rule::Bits(bits) => {
                let start = first & !7;
                let count = (first - start) as usize + bytes.len() / width;
                let mut packed = vec![0u8; count.div_ceil(8)];
                bits.read(start, &mut packed)?;
                let shift = (first - start) as usize;
                zero_where(width, bytes, |i| packed[(i + shift) / 8] >> ((i + shift) % 8) & 1 == 0);
                Ok(())
            }
            Rule::Coded(fitted, keeps) => {
                fitted.round_trip(dtype, *keeps, first, bytes);
                Ok(())
            }
        }
    }
}

fn apply_cut(
    source: &dyn Keys,
    place: &PartPlace,
    cut: &KeyCut,
    dtype: &Dtype,
    width: usize,
    from: u64,
    bytes: &mut [u8],
) -> Result<()> {
    with_scratch(|scratch| {
        let step = source.block_weights();
        let magnitudes = source.magnitudes(place, dtype);
        for (index, piece) in bytes.chunks_mut(step * width).enumerate() {
            let n = piece.len() / width;
            let start = from + (index * step) as u64 - place.offset;
            let position = place.position + start;
            let threshold = cut.threshold(position, n);
            if let (Some(magnitudes), Some(threshold)) = (&magnitudes, threshold)
                && magnitudes.zero(piece, magnitudes.below(threshold))
            {
                continue;
            }
            let values = sized(&mut scratch.values, n);
            to_f32(dtype, piece, values);
            if let Some(threshold) = threshold {
                let scores = sized(&mut scratch.scores, n);
                if source.scores(place, start, values, scores)? && zero_below(width, piece, values, scores, threshold) {
                    continue;
                }
            }
            let keys = sized(&mut scratch.keys, n);
            source.keys(place, start, values, keys)?;
            match threshold {
                Some(threshold) => zero_where(width, piece, |i| keys[i] < threshold),
                None => zero_where(width, piece, |i| cut.goes(keys[i], position + i as u64)),
            }
        }
        Ok(())
    })
}
