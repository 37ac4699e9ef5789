//! Keys that were computed once and lie in a file, for methods that must see more than one weight at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_sdk::{Evidence, EvidenceKind, Part, Reach};

use crate::error::{Error, Result};
use crate::files::TempFile;
use crate::ordered::try_map;
use crate::prune::Pruning;
use crate::select::keys_of;
use crate::tensor::TensorId;
use crate::weights::{Keys, PartPlace, blame_weights, not_finite};

/// Weights of a block of whole rows, about.
const ROW_BLOCK_WEIGHTS: u64 = 1 << 20;

/// A temp file without a name: it is gone when the run is, however the run ends.
pub struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    /// Makes one beside `output`.
    pub fn beside(output: &Path) -> Result<Scratch> {
        let temp = TempFile::create(output)?;
        let path = temp.path().to_path_buf();
        let file = temp.file().try_clone().map_err(|e| Error::io("open the temp file", &path, &e))?;
        drop(temp);
        Ok(Scratch { file, path })
    }

    /// Writes at a byte.
    pub fn write_at(&self, data: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(data, at).map_err(|e| Error::io("write the temp file", &self.path, &e))
    }

    /// The file, for weights that are to be read from it, and what errors call it.
    pub fn share(self) -> (Arc<File>, Arc<PathBuf>) {
        (Arc::new(self.file), Arc::new(self.path))
    }

    /// Reads from a byte.
    pub fn read_at(&self, out: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(out, at).map_err(|e| Error::io("read the temp file", &self.path, &e))
    }
}

/// Keys of whole parts in a file, four bytes a weight, in storage order.
pub struct Spooled {
    scratch: Scratch,
    /// (tensor, offset of the part) → its first byte.
    starts: BTreeMap<(TensorId, u64), u64>,
}

impl Spooled {
    /// Scores all places once, each in runs that are as long as the method's reach says.
    pub fn score(job: &Pruning<'_>, places: &[PartPlace]) -> Result<Spooled> {
        let mut starts = BTreeMap::new();
        let mut at = 0;
        for place in places {
            starts.insert((place.tensor, place.offset), at);
            at += place.len() * 4;
        }
        let spooled = Spooled { scratch: Scratch::beside(job.output)?, starts };
        let work: Vec<(&PartPlace, u64, u64)> = places
            .iter()
            .flat_map(|place| spooled.runs(job, place).into_iter().map(move |(s, n)| (place, s, n)))
            .collect();
        try_map(&work, |(place, first, count)| spooled.score_run(job, place, *first, *count))?;
        Ok(spooled)
    }

    /// Runs of a part (first element, count) that are scored at once: blocks of whole rows, or all of it.
    fn runs(&self, job: &Pruning<'_>, place: &PartPlace) -> Vec<(u64, u64)> {
        // A block that reads a Gram matrix is as large as that, so that it is not read over and over.
        let reads_gram = job.scoring.evidence.iter().any(|(_, kinds)| kinds.contains(&EvidenceKind::Gram));
        let least = if reads_gram { place.cols * place.cols } else { 0 };
        let rows = (ROW_BLOCK_WEIGHTS.max(least) / place.cols.max(1)).max(1) * place.cols;
        let step = match job.reach {
            Reach::Row if !place.column_major => rows,
            _ => place.len(),
        };
        (0..place.len()).step_by(step.max(1) as usize).map(|first| (first, step.min(place.len() - first))).collect()
    }

    fn score_run(&self, job: &Pruning<'_>, place: &PartPlace, first: u64, count: u64) -> Result<()> {
        let mut values = Vec::with_capacity(count as usize);
        job.weights.visit(place.tensor, place.offset + first, count, &mut |_, v| {
            values.extend_from_slice(v);
            Ok(())
        })?;
        let mut scores = vec![0f32; values.len()];
        self.score_rows(job, place, first / place.cols.max(1), &values, &mut scores)
            .map_err(|e| blame_weights(place, first, &values, e))?;
        let mut keys = vec![0u32; values.len()];
        if let Some(i) = keys_of(&values, &scores, &mut keys) {
            return Err(not_finite(place, place.offset + first + i as u64, values[i], scores[i]));
        }
        let mut bytes = vec![0u8; keys.len() * 4];
        bytes.as_chunks_mut::<4>().0.iter_mut().zip(&keys).for_each(|(b, k)| *b = k.to_le_bytes());
        self.scratch.write_at(&bytes, self.starts[&(place.tensor, place.offset)] + first * 4)?;
        job.watch.tick(count)
    }

    /// Scores whole rows from `row` on.
    fn score_rows(
        &self,
        job: &Pruning<'_>,
        place: &PartPlace,
        row: u64,
        values: &[f32],
        scores: &mut [f32],
    ) -> Result<()> {
        let rows = values.len() as u64 / place.cols.max(1);
        let (row_stride, col_stride) =
            if place.column_major { (1, place.rows as usize) } else { (place.cols as usize, 1) };
        let part = Part {
            tensor: &place.tensor_name,
            name: &place.name,
            class: &place.class,
            rows: rows as usize,
            cols: place.cols as usize,
            row_stride,
            col_stride,
            data: values,
            first_row: row as usize,
            first_element: row * place.cols,
            part_rows: place.rows as usize,
            part_cols: place.cols as usize,
        };
        let Some((file, kinds)) = &job.scoring.evidence else {
            return job.scoring.instance.score(&part, &Evidence::default(), scores);
        };
        let elements = job.weights.model.tensors()[place.tensor].elements;
        let gathered = file.gather(kinds, place, elements, row..row + rows)?;
        job.scoring.instance.score(&part, &Evidence { arrays: &gathered.arrays() }, scores)
    }
}

impl Keys for Spooled {
    fn keys(&self, place: &PartPlace, start: u64, values: &[f32], keys: &mut [u32]) -> Result<()> {
        let first = self.starts[&(place.tensor, place.offset)] + start * 4;
        let mut bytes = vec![0u8; keys.len() * 4];
        self.scratch.read_at(&mut bytes, first)?;
        for ((key, b), value) in keys.iter_mut().zip(bytes.as_chunks::<4>().0).zip(values) {
            *key = if *value == 0.0 { 0 } else { u32::from_le_bytes(*b) };
        }
        Ok(())
    }
}
