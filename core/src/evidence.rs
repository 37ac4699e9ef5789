//! Evidence files: safetensors with tensors named `<weight>.<kind>`, written by a measure stage or by any tool.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use compress_sdk::EvidenceKind;

use crate::error::{Error, Result, did_you_mean};
use crate::stfile::{Entry, Spec, StFile, StWriter};
use crate::tensor::{Dtype, TensorInfo};

mod gather;

pub use gather::Gathered;

/// An open evidence file.
pub struct EvidenceFile {
    file: StFile,
    index: BTreeMap<(String, EvidenceKind), usize>,
    /// Of `fisher_diag` and `hessian_diag`, once asked for.
    means: [OnceLock<f64>; 2],
}

/// Adds the tensors of the evidence file `other` to those of `path`: of one name `other`'s stays. What was measured with
/// (`__metadata__`) is told of the first file.
pub fn join(path: &Path, other: &Path) -> Result<()> {
    let (old, new) = (StFile::open(path)?, StFile::open(other)?);
    let kept = old.entries().iter().filter(|e| new.entry(&e.name).is_none()).map(|e| (&old, e));
    let mut all: Vec<_> = kept.chain(new.entries().iter().map(|e| (&new, e))).collect();
    all.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    let spec = |e: &Entry| Spec { name: e.name.clone(), dtype: e.dtype.clone(), shape: e.shape.clone() };
    let specs: Vec<Spec> = all.iter().map(|(_, e)| spec(e)).collect();
    let writer = StWriter::create(path, &specs, old.metadata())?;
    let mut buffer = vec![0; 4 * READ];
    for (i, (file, entry)) in all.into_iter().enumerate() {
        for first in (0..entry.bytes()).step_by(buffer.len()) {
            let part = (buffer.len() as u64).min(entry.bytes() - first) as usize;
            file.read_at(entry, first, &mut buffer[..part])?;
            writer.write_at(i, first, &buffer[..part])?;
        }
    }
    writer.finish()?.persist(path)
}

/// Numbers that are read at once.
const READ: usize = 1 << 18;

impl EvidenceFile {
    /// Opens a file and checks that every tensor in it is a known kind of f32 evidence for a tensor of the model, in
    /// the shape that belongs to it. Shapes of `gram` are checked where a part is read.
    pub fn open(path: &Path, tensors: &[TensorInfo]) -> Result<EvidenceFile> {
        let file = StFile::open(path)?;
        let wrong = |name: &str, why: String| Error::failed(format!("{}: \"{name}\" {why}", path.display()));
        let mut index = BTreeMap::new();
        for (i, entry) in file.entries().iter().enumerate() {
            let (weight, kind) = entry
                .name
                .rsplit_once('.')
                .and_then(|(w, k)| Some((w, EvidenceKind::from_name(k)?)))
                .ok_or_else(|| wrong(&entry.name, "is not named <weight>.<kind> with a known kind".into()))?;
            let tensor = tensors.iter().find(|t| t.name == weight).ok_or_else(|| {
                let hint = did_you_mean(weight, tensors.iter().map(|t| t.name.as_str()));
                wrong(&entry.name, format!("belongs to no tensor of the model{hint}"))
            })?;
            if entry.dtype != Dtype::F32 {
                return Err(wrong(&entry.name, format!("has type {}, but evidence is F32", entry.dtype.name())));
            }
            let fits = match kind {
                EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => entry.shape == tensor.shape,
                EvidenceKind::RowCount => entry.shape.len() == 1 && tensor.shape.first() == entry.shape.first(),
                EvidenceKind::Gram => {
                    (2..=3).contains(&entry.shape.len())
                        && entry.shape[entry.shape.len() - 1] == entry.shape[entry.shape.len() - 2]
                }
            };
            if !fits {
                return Err(wrong(
                    &entry.name,
                    format!("has shape {:?}, which does not fit the weight's shape {:?}", entry.shape, tensor.shape),
                ));
            }
            index.insert((weight.to_string(), kind), i);
        }
        Ok(EvidenceFile { file, index, means: Default::default() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether there is evidence of a kind for a weight.
    pub fn has(&self, weight: &str, kind: EvidenceKind) -> bool {
        self.index.contains_key(&(weight.to_string(), kind))
    }

    /// Shape of a piece of evidence.
    pub fn shape(&self, weight: &str, kind: EvidenceKind) -> Option<&[u64]> {
        self.index.get(&(weight.to_string(), kind)).map(|i| self.file.entries()[*i].shape.as_slice())
    }

    /// Reads numbers from the `first` on; `false` where there is no such evidence.
    pub fn read(&self, weight: &str, kind: EvidenceKind, first: u64, out: &mut [f32]) -> Result<bool> {
        let Some(i) = self.index.get(&(weight.to_string(), kind)) else { return Ok(false) };
        let mut bytes = vec![0u8; out.len() * 4];
        self.file.read_at(&self.file.entries()[*i], first * 4, &mut bytes)?;
        crate::convert::to_f32(&Dtype::F32, &bytes, out);
        Ok(true)
    }

    /// Mean of a diagonal over all weights that have it, which is read once; 0 for other kinds.
    pub fn mean(&self, kind: EvidenceKind) -> Result<f64> {
        let mean = match kind {
            EvidenceKind::FisherDiag => &self.means[0],
            EvidenceKind::HessianDiag => &self.means[1],
            EvidenceKind::Gram | EvidenceKind::RowCount => return Ok(0.0),
        };
        if let Some(mean) = mean.get() {
            return Ok(*mean);
        }
        let (mut sum, mut count) = (0f64, 0u64);
        for ((weight, _), i) in self.index.iter().filter(|((_, k), _)| *k == kind) {
            let len = self.file.entries()[*i].shape.iter().product::<u64>();
            for first in (0..len).step_by(READ) {
                let mut numbers = vec![0f32; READ.min((len - first) as usize)];
                self.read(weight, kind, first, &mut numbers)?;
                sum += numbers.iter().map(|x| f64::from(*x)).sum::<f64>();
            }
            count += len;
        }
        Ok(*mean.get_or_init(|| sum / count.max(1) as f64))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::stfile::{Spec, StWriter};

    #[test]
    fn the_mean_of_a_diagonal_is_over_all_weights_that_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.safetensors");
        let pieces: [(&str, &[f32]); 3] =
            [("a.hessian_diag", &[1.0, 2.0, 3.0]), ("b.fisher_diag", &[8.0]), ("b.hessian_diag", &[10.0])];
        let spec = |(name, data): &(&str, &[f32])| Spec {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: vec![data.len() as u64],
        };
        let writer = StWriter::create(&path, &pieces.iter().map(spec).collect::<Vec<_>>(), &[]).unwrap();
        for (i, (_, data)) in pieces.iter().enumerate() {
            let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.write_at(i, 0, &bytes).unwrap();
        }
        writer.finish().unwrap().persist(&path).unwrap();
        let tensor = |(name, elements): (&str, u64)| TensorInfo {
            name: name.into(),
            shape: vec![elements],
            dtype: Dtype::F32,
            elements,
            stored_bytes: elements * 4,
            file: 0,
            not_a_weight: None,
        };
        let file = EvidenceFile::open(&path, &[("a", 3), ("b", 1)].map(tensor)).unwrap();
        for _ in 0..2 {
            assert_eq!(file.mean(EvidenceKind::HessianDiag).unwrap(), 4.0);
            assert_eq!(file.mean(EvidenceKind::FisherDiag).unwrap(), 8.0);
        }
        assert_eq!(file.mean(EvidenceKind::Gram).unwrap(), 0.0);
    }
}
