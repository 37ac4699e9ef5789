//! Parts encoded anew by a method: what it is given, and what becomes of what it gives back.
//!
//! New values go part by part into an unnamed temp file, so memory is that of the parts at work. What a method factors
//! or hashes stays as terms.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use compress_sdk::{Encoded, Encoding, Evidence, EvidenceKind, Keep, Layout, Part};

use crate::convert::{from_f32, to_f32};
use crate::encode::stored::{as_dense, matrix_bits, stored_order};
use crate::error::{Error, Result};
use crate::evidence::EvidenceFile;
use crate::format::BLOCK_BYTES;
use crate::ordered::try_map;
use crate::plan::Matrix;
use crate::progress::Watch;
use crate::registry::Instance;
use crate::spool::Scratch;
use crate::tensor::TensorId;
use crate::weights::{Base, PartPlace, TensorState, Weights, not_finite};

/// Elements that are written at once.
const STEP: usize = 1 << 16;

/// What a method works with.
pub struct Reencoding<'a> {
    /// The method.
    pub instance: &'a dyn Instance,
    /// Evidence that it reads.
    pub evidence: Option<(Arc<EvidenceFile>, Vec<EvidenceKind>)>,
    /// The weights that it sees.
    pub weights: &'a Weights<'a>,
    /// What it encodes, each with what may be kept of it.
    pub matrices: Vec<(Matrix, May<'a>)>,
    /// n and m of an n:m pattern, or zeros.
    pub pattern: (usize, usize),
    /// Whether it may be called from several threads.
    pub parallel: bool,
    /// Beside which path temp files may lie.
    pub output: &'a Path,
    /// Progress and cancellation.
    pub watch: Watch<'a>,
}

/// What may be kept of a matrix.
#[derive(Clone, Copy)]
pub enum May<'a> {
    /// All of it.
    All,
    /// What is not zero in these weights.
    Mask(&'a Weights<'a>),
    /// All but this many weights, those that are zero already among them; the method chooses.
    Quota(u64),
}

/// What became of the tensors.
pub struct Reencoded {
    /// Those that have changed.
    pub tensors: BTreeMap<TensorId, New>,
    /// Matrices that the method gave back as they were.
    pub same: Vec<Matrix>,
    /// Matrices of which the method itself has pruned something.
    pub pruned: Vec<Matrix>,
}

/// What became of a tensor.
pub enum New {
    /// New values.
    Values(TensorState),
    /// A sum of terms.
    Terms(Encoding),
}

enum Outcome {
    Same,
    Values,
    Terms(Encoding),
}

impl Reencoding<'_> {
    /// Calls the method for every matrix.
    pub fn run(&self) -> Result<Reencoded> {
        let values = NewValues::create(self)?;
        let outcomes: Vec<(Outcome, bool)> = if self.parallel {
            try_map(&self.matrices, |(m, may)| self.one(&values, m, *may))?
        } else {
            self.matrices.iter().map(|(m, may)| self.one(&values, m, *may)).collect::<Result<_>>()?
        };
        let mut done = Reencoded { tensors: BTreeMap::new(), same: Vec::new(), pruned: Vec::new() };
        let mut changed = BTreeSet::new();
        for ((matrix, _), (outcome, pruned)) in self.matrices.iter().zip(outcomes) {
            match outcome {
                Outcome::Same => done.same.push(matrix.clone()),
                Outcome::Values => {
                    changed.insert(matrix.place.tensor);
                }
                Outcome::Terms(encoding) => {
                    done.tensors.insert(matrix.place.tensor, New::Terms(encoding));
                }
            }
            done.pruned.extend(pruned.then(|| matrix.clone()));
        }
        done.tensors.extend(values.states().filter(|(t, _)| changed.contains(t)).map(|(t, s)| (t, New::Values(s))));
        Ok(done)
    }

    /// The outcome, and whether the method has pruned.
    fn one(&self, new: &NewValues, matrix: &Matrix, may: May<'_>) -> Result<(Outcome, bool)> {
        self.watch.check()?;
        let place = &matrix.place;
        let (rows, cols) = (place.rows as usize, place.cols as usize);
        let values = read(self.weights, place)?;
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(not_finite(place, place.offset + i as u64, values[i], values[i]));
        }
        let bits = match may {
            May::All => None,
            May::Mask(weights) => Some(nonzero(&read(weights, place)?)),
            May::Quota(_) => Some(nonzero(&values)),
        };
        let mask = bits.clone().and_then(|bits| matrix_bits(bits, rows, cols, place.column_major));
        let keep = match (may, &mask) {
            (May::Mask(_), Some(mask)) => Keep::Mask(mask),
            (May::Quota(pruned), Some(eligible)) => {
                Keep::Quota { eligible, pruned, n: self.pattern.0, m: self.pattern.1 }
            }
            _ => Keep::All,
        };
        let encoded = self.call(place, &values, keep)?;
        let pruned = encoded.kept.count_ones() < encoded.kept.len() as u64;
        let located = |e: Error| e.at(format!("\"{}\"", place.name));
        let outcome = match as_dense(&encoded.encoding, place.column_major) {
            Some(found) if same(&found, &values) => Outcome::Same,
            Some(found) => {
                drop(encoded);
                new.write(self, place, &found)?;
                Outcome::Values
            }
            None => {
                if let May::Quota(_) = may {
                    return Err(located(Error::failed(
                        "the method gave a sum or a product for a quota; weights that it prunes must be zeros of a dense \
                         or sparse term",
                    )));
                }
                let encoding = stored_order(encoded.encoding, place.column_major);
                self.refuse_return(place, &encoding, bits.as_deref()).map_err(located)?;
                Outcome::Terms(encoding)
            }
        };
        self.watch.tick(place.len())?;
        Ok((outcome, pruned))
    }

    fn call(&self, place: &PartPlace, values: &[f32], keep: Keep<'_>) -> Result<Encoded> {
        let (rows, cols) = (place.rows as usize, place.cols as usize);
        let (row_stride, col_stride) = if place.column_major { (1, rows) } else { (cols, 1) };
        let part = Part {
            tensor: &place.tensor_name,
            name: &place.name,
            class: &place.class,
            rows,
            cols,
            row_stride,
            col_stride,
            data: values,
            first_row: 0,
            first_element: 0,
            part_rows: rows,
            part_cols: cols,
        };
        let Some((file, kinds)) = &self.evidence else {
            return self.instance.encode(&part, keep, &Evidence::default());
        };
        let elements = self.weights.model.tensors()[place.tensor].elements;
        let gathered = file.gather(kinds, place, elements, 0..place.rows)?;
        self.instance.encode(&part, keep, &Evidence { arrays: &gathered.arrays() })
    }

    /// Zeros that are to stay are zeros of a sum too. `bits`: as stored, 1 = kept.
    fn refuse_return(&self, place: &PartPlace, encoding: &Encoding, bits: Option<&[u8]>) -> Result<()> {
        let Some(bits) = bits else { return Ok(()) };
        let info = &self.weights.model.tensors()[place.tensor];
        let terms = crate::weights::Terms::new(encoding.clone(), &info.dtype, &info.shape, None)?;
        let width = info.dtype.float_bytes().unwrap_or(4);
        let mut returned = 0;
        for first in (0..info.elements as usize).step_by(STEP) {
            let count = STEP.min(info.elements as usize - first);
            let (mut bytes, mut found) = (vec![0; count * width], vec![0f32; count]);
            terms.fill((first * width) as u64, &mut bytes)?;
            to_f32(&info.dtype, &bytes, &mut found);
            let kept = |i: usize| bits[(first + i) / 8] >> ((first + i) % 8) & 1 == 1;
            returned += found.iter().enumerate().filter(|(i, v)| **v != 0.0 && !kept(*i)).count();
        }
        if returned == 0 {
            return Ok(());
        }
        let layout = encoding.terms.iter().find_map(|t| match t.layout {
            Layout::Factored { .. } => Some("product"),
            Layout::Hashed { .. } => Some("hash"),
            _ => None,
        });
        Err(Error::failed(format!(
            "{returned} weights that are pruned would come back: a {} cannot hold zeros; leave the tensor out by \
             \"classes\", or prune after it with residual = true",
            layout.unwrap_or("sum")
        )))
    }
}

/// The weights of a part in stored order.
pub fn read(weights: &Weights<'_>, place: &PartPlace) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(place.len() as usize);
    weights.visit(place.tensor, place.offset, place.len(), &mut |_, run| {
        values.extend_from_slice(run);
        Ok(())
    })?;
    Ok(values)
}

/// Bits of what is not zero.
fn nonzero(values: &[f32]) -> Vec<u8> {
    let byte = |run: &[f32]| run.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(*v != 0.0) << i);
    values.chunks(8).map(byte).collect()
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Values of whole tensors in an unnamed temp file, dense and in the tensors' types.
pub struct NewValues {
    scratch: Scratch,
    /// First byte of each tensor.
    starts: BTreeMap<TensorId, u64>,
}

impl NewValues {
    fn create(job: &Reencoding<'_>) -> Result<NewValues> {
        let values = NewValues::of(job.weights, job.matrices.iter().map(|(m, _)| m.place.tensor), job.output)?;
        let elements = |tensor: TensorId| job.weights.model.tensors()[tensor].elements;
        let split: BTreeSet<TensorId> = job
            .matrices
            .iter()
            .map(|(m, _)| &m.place)
            .filter(|p| p.len() < elements(p.tensor))
            .map(|p| p.tensor)
            .collect();
        split.into_iter().try_for_each(|tensor| values.copy(job, tensor))?;
        Ok(values)
    }

    /// Room for these tensors, in a file beside `output`.
    pub fn of(weights: &Weights<'_>, tensors: impl IntoIterator<Item = TensorId>, output: &Path) -> Result<NewValues> {
        let (mut starts, mut at) = (BTreeMap::new(), 0);
        for tensor in tensors {
            starts.entry(tensor).or_insert_with(|| {
                let start = at;
                at += weights.model.tensors()[tensor].dense_bytes().next_multiple_of(8);
                start
            });
        }
        Ok(NewValues { scratch: Scratch::beside(output)?, starts })
    }

    /// Writes the new values of a part. Those that are what they were keep their bytes: an f64 is not rounded to f32.
    fn write(&self, job: &Reencoding<'_>, place: &PartPlace, values: &[f32]) -> Result<()> {
        let dtype = &job.weights.model.tensors()[place.tensor].dtype;
        let width = dtype.float_bytes().unwrap_or(4);
        let (mut old, mut was) = (vec![0; STEP * width], vec![0f32; STEP]);
        for (index, run) in values.chunks(STEP).enumerate() {
            let at = (place.offset + (index * STEP) as u64) * width as u64;
            let (old, was) = (&mut old[..run.len() * width], &mut was[..run.len()]);
            job.weights.fill(place.tensor, at, old)?;
            to_f32(dtype, old, was);
            let mut bytes = vec![0; run.len() * width];
            from_f32(dtype, run, &mut bytes);
            let pairs = bytes.chunks_mut(width).zip(old.chunks(width)).zip(run.iter().zip(was.iter()));
            pairs.filter(|(_, (new, was))| new.to_bits() == was.to_bits()).for_each(|((b, o), _)| b.copy_from_slice(o));
            self.scratch.write_at(&bytes, self.starts[&place.tensor] + at)?;
        }
        Ok(())
    }

    /// Writes dense bytes of a tensor.
    pub fn write_bytes(&self, tensor: TensorId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.scratch.write_at(bytes, self.starts[&tensor] + offset)
    }

    /// Copies a tensor of which only parts are encoded.
    fn copy(&self, job: &Reencoding<'_>, tensor: TensorId) -> Result<()> {
        let bytes = job.weights.model.tensors()[tensor].dense_bytes();
        let mut block = vec![0; BLOCK_BYTES.min(bytes as usize)];
        for offset in (0..bytes).step_by(BLOCK_BYTES) {
            let block = &mut block[..BLOCK_BYTES.min((bytes - offset) as usize)];
            job.weights.fill(tensor, offset, block)?;
            self.write_bytes(tensor, offset, block)?;
        }
        Ok(())
    }

    /// The tensors as states that read from the file.
    pub fn states(self) -> impl Iterator<Item = (TensorId, TensorState)> {
        let (file, path) = self.scratch.share();
        let state = move |start| TensorState::new(Base::File(file.clone(), path.clone(), start));
        self.starts.into_iter().map(move |(tensor, start)| (tensor, state(start)))
    }
}
