//! The evidence that belongs to a part, or to whole rows of it, in the shape and order in which a method sees them.

use std::ops::Range;

use compress_sdk::{Array, EvidenceKind};

use super::EvidenceFile;
use crate::error::{Error, Result};
use crate::weights::PartPlace;

/// Evidence for a block of a part.
pub struct Gathered(Vec<(EvidenceKind, Vec<u64>, Vec<f32>, f64)>);

impl Gathered {
    /// As a method is given it.
    pub fn arrays(&self) -> Vec<Array<'_>> {
        self.0.iter().map(|(kind, shape, data, mean)| Array { kind: *kind, shape, data, model_mean: *mean }).collect()
    }
}

impl EvidenceFile {
    /// The evidence of a range of rows of a part, whatever of these kinds there is. `elements` are those of the whole
    /// tensor. Rows of a column-major part are not contiguous: only all of them may be asked for.
    pub fn gather(
        &self,
        kinds: &[EvidenceKind],
        place: &PartPlace,
        elements: u64,
        rows: Range<u64>,
    ) -> Result<Gathered> {
        debug_assert!(!place.column_major || rows == (0..place.rows));
        let mut found = Vec::new();
        for kind in kinds {
            let Some(shape) = self.shape(&place.tensor_name, *kind) else { continue };
            let count = rows.end - rows.start;
            let (first, shape) = match kind {
                EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => {
                    (place.offset + rows.start * place.cols, vec![count, place.cols])
                }
                EvidenceKind::RowCount => (place.offset / place.cols.max(1) + rows.start, vec![count]),
                EvidenceKind::Gram => self.gram(place, elements, shape)?,
            };
            let mut data = vec![0f32; shape.iter().product::<u64>() as usize];
            self.read(&place.tensor_name, *kind, first, &mut data)?;
            found.push((*kind, shape, data, self.mean(*kind)?));
        }
        Ok(Gathered(found))
    }

    /// Where a part's Gram matrices begin, and their shape: all of them for a whole tensor, and for a block of one of
    /// its groups (a gate of one direction of an LSTM) that group's.
    fn gram(&self, place: &PartPlace, elements: u64, shape: &[u64]) -> Result<(u64, Vec<u64>)> {
        let k = shape[shape.len() - 1];
        let groups = if shape.len() == 3 { shape[0] } else { 1 };
        let wrong = |why: String| {
            let (name, path) = (&place.name, self.file.path().display());
            Error::failed(format!("{path}: \"{}.gram\" has shape {shape:?}, but {why}", place.tensor_name))
                .at(format!("\"{name}\""))
        };
        if k != place.cols {
            return Err(wrong(format!("the part has {} columns", place.cols)));
        }
        if groups == 0 || !elements.is_multiple_of(groups) {
            return Err(wrong(format!("its {elements} weights are not so many groups")));
        }
        if groups == 1 || place.len() == elements {
            return Ok((0, shape.to_vec()));
        }
        let each = elements / groups;
        let group = place.offset / each;
        if place.offset + place.len() > (group + 1) * each {
            return Err(wrong("the part lies in several of these groups".into()));
        }
        Ok((group * k * k, vec![k, k]))
    }

    /// Whether the Gram matrices of these parts have their shapes. (Of the other kinds the shape follows from the
    /// tensor's, which was checked on opening.)
    pub fn check_grams<'a>(&self, parts: impl IntoIterator<Item = (&'a PartPlace, u64)>) -> Result<()> {
        for (place, elements) in parts {
            if let Some(shape) = self.shape(&place.tensor_name, EvidenceKind::Gram) {
                self.gram(place, elements, shape)?;
            }
        }
        Ok(())
    }
}
