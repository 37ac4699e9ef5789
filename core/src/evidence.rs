//! Evidence files: safetensors with tensors named `<weight>.<kind>`, written by a measure stage or by any tool.

use std::collections::BTreeMap;
use std::path::Path;

use compress_sdk::EvidenceKind;

use crate::error::{Error, Result, did_you_mean};
use crate::stfile::StFile;
use crate::tensor::{Dtype, TensorInfo};

mod gather;

pub use gather::Gathered;

/// An open evidence file.
pub struct EvidenceFile {
    file: StFile,
    index: BTreeMap<(String, EvidenceKind), usize>,
}

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
        Ok(EvidenceFile { file, index })
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
}
