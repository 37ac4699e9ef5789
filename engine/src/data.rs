//! Examples from safetensors files: tensors named like the graph's inputs, first dimension = examples, read batch by
//! batch.

use std::ops::Range;
use std::path::Path;

use compress_core::error::did_you_mean;
use compress_core::stfile::{Entry, StFile};
use compress_core::{Error, Result};

use crate::import::value;
use crate::real::Real;
use crate::rewrite::mix;
use crate::value::{Tensor, Value, shape_text};

/// A tensor of examples that is wanted, and how it is trimmed.
#[derive(Clone, Debug)]
pub struct Column {
    /// Name in the file.
    pub name: String,
    /// Columns with the same group are cut alike: those whose second dimension has one name in the graph.
    pub group: Option<String>,
}

/// An open file of examples.
pub struct Examples {
    file: StFile,
    columns: Vec<(Column, Entry)>,
    count: usize,
    padding: i64,
    /// Length of each example (its longest trimmed column), where trimming is on.
    lengths: Option<Vec<u32>>,
}

/// A batch by name.
pub type Batch<R> = Vec<(String, Value<R>)>;

impl Examples {
    /// Opens a file; every column must be there with the same number of examples, at least one.
    pub fn open(path: &Path, columns: Vec<Column>, trim: bool, padding: i64) -> Result<Examples> {
        let file = StFile::open(path)?;
        let mut found = Vec::new();
        for column in columns {
            let entry = file.entry(&column.name).cloned().ok_or_else(|| {
                let hint = did_you_mean(&column.name, file.entries().iter().map(|e| e.name.as_str()));
                Error::failed(format!("\"{}\" has no tensor \"{}\"{hint}", path.display(), column.name))
            })?;
            if entry.shape.is_empty() {
                return Err(Error::failed(format!(
                    "{}: it needs a first dimension, the examples",
                    file.place(&column.name)
                )));
            }
            found.push((column, entry));
        }
        let count = found.first().map_or(0, |(_, e)| e.shape[0]);
        if let Some((c, e)) = found.iter().find(|(_, e)| e.shape[0] != count) {
            return Err(Error::failed(format!(
                "\"{}\" has {count} examples of \"{}\" and {} of \"{}\"",
                path.display(),
                found[0].0.name,
                e.shape[0],
                c.name
            )));
        }
        if count == 0 {
            return Err(Error::failed(format!("\"{}\" has no examples", path.display())));
        }
        let mut examples = Examples { file, columns: found, count: count as usize, padding, lengths: None };
        if trim {
            examples.lengths = Some(examples.measure_lengths()?);
        }
        Ok(examples)
    }

    /// Number of examples.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn measure_lengths(&self) -> Result<Vec<u32>> {
        let mut lengths = vec![0u32; self.count];
        for (column, entry) in &self.columns {
            if column.group.is_none() || entry.shape.len() != 2 || entry.dtype.float_bytes().is_some() {
                continue;
            }
            for start in (0..self.count).step_by(4096) {
                let rows: Vec<usize> = (start..self.count.min(start + 4096)).collect();
                let v: Value<f32> = self.rows(column, entry, &rows)?;
                let t = v.int()?;
                for (row, l) in t.data().chunks_exact(t.shape()[1].max(1)).zip(&mut lengths[start..]) {
                    *l = (*l).max(row.iter().filter(|v| **v != self.padding).count() as u32);
                }
            }
        }
        Ok(lengths)
    }

    fn rows<R: Real>(&self, column: &Column, entry: &Entry, rows: &[usize]) -> Result<Value<R>> {
        let each = (entry.bytes() / entry.shape[0].max(1)) as usize;
        let mut bytes = vec![0u8; each * rows.len()];
        let mut i = 0;
        while i < rows.len() {
            // neighbouring examples in one read
            let mut n = 1;
            while i + n < rows.len() && rows[i + n] == rows[i] + n {
                n += 1;
            }
            self.file.read_at(entry, (rows[i] * each) as u64, &mut bytes[i * each..(i + n) * each])?;
            i += n;
        }
        let mut shape: Vec<usize> = entry.shape.iter().map(|d| *d as usize).collect();
        shape[0] = rows.len();
        value(&entry.dtype, &bytes, shape).ok_or_else(|| {
            Error::failed(format!(
                "{}: type {} cannot be computed with",
                self.file.place(&column.name),
                entry.dtype.name()
            ))
        })
    }

    /// The examples with these numbers.
    pub fn batch<R: Real>(&self, rows: &[usize]) -> Result<Batch<R>> {
        let mut batch = Vec::new();
        for (column, entry) in &self.columns {
            let v = match self.rows(column, entry, rows)? {
                Value::Int(t, _) => Value::ints(t),
                v => v,
            };
            batch.push((column.name.clone(), v));
        }
        if self.lengths.is_some() {
            self.trim(&mut batch);
        }
        Ok(batch)
    }

    /// Cuts columns at both ends that hold nothing but padding in all tensors of a group.
    fn trim<R: Real>(&self, batch: &mut Batch<R>) {
        let group = |i: usize| self.columns[i].0.group.as_ref();
        for i in 0..batch.len() {
            let Some(g) = group(i).filter(|g| (0..i).all(|j| group(j) != Some(*g))) else { continue };
            let members: Vec<usize> = (i..batch.len()).filter(|j| group(*j) == Some(g)).collect();
            let ranges: Option<Vec<Range<usize>>> = members.iter().map(|j| used(&batch[*j].1, self.padding)).collect();
            let Some(ranges) = ranges else { continue };
            let from = ranges.iter().map(|r| r.start).min().unwrap_or(0);
            let to = ranges.iter().map(|r| r.end).max().unwrap_or(0).max(from + 1);
            for j in members {
                if let Value::Int(t, kind) = &batch[j].1 {
                    let width = t.shape()[1];
                    let data: Vec<i64> =
                        t.data().chunks_exact(width.max(1)).flat_map(|row| row[from..to.min(width)].to_vec()).collect();
                    let rows = t.shape()[0];
                    batch[j].1 = Value::Int(Tensor::new([rows, data.len() / rows], data), *kind);
                }
            }
        }
    }

    /// Batches in file order, or by length where trimming is on: what evaluation runs over.
    pub fn plain_batches(&self, batch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.count).collect();
        if let Some(lengths) = &self.lengths {
            order.sort_by_key(|i| lengths[*i]);
        }
        order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// Batches of examples of like length, whether or not they are trimmed: for work that ends with the longest of them.
    pub fn batches_by_length(&self, batch: usize) -> Result<Vec<Vec<usize>>> {
        let lengths = match &self.lengths {
            Some(l) => l.clone(),
            None => self.measure_lengths()?,
        };
        let mut order: Vec<usize> = (0..self.count).collect();
        order.sort_by_key(|i| lengths[*i]);
        Ok(order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect())
    }

    /// Batches of an epoch in an order made from `key`. With trimming, examples of like length come together within
    /// runs of a hundred batches.
    pub fn shuffled_batches(&self, batch: usize, key: u64) -> Vec<Vec<usize>> {
        let batch = batch.max(1);
        let mut order: Vec<usize> = (0..self.count).collect();
        shuffle(&mut order, key);
        let Some(lengths) = &self.lengths else { return order.chunks(batch).map(<[usize]>::to_vec).collect() };
        for run in order.chunks_mut(batch * 100) {
            run.sort_by_key(|i| lengths[*i]);
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(batch).map(<[usize]>::to_vec).collect();
        shuffle(&mut batches, key ^ 1);
        batches
    }
}

/// Fisher–Yates with numbers made from `key`.
pub fn shuffle<T>(list: &mut [T], key: u64) {
    for i in (1..list.len()).rev() {
        let r = mix(mix(key).wrapping_add(i as u64));
        list.swap(i, ((u128::from(r) * (i as u128 + 1)) >> 64) as usize);
    }
}

/// Columns of [rows, width] integers from the first to the last that is not padding everywhere.
fn used<R: Real>(v: &Value<R>, padding: i64) -> Option<Range<usize>> {
    let Value::Int(t, _) = v else { return None };
    let &[_, width] = t.shape() else { return None };
    let mut filled = vec![false; width];
    for row in t.data().chunks_exact(width.max(1)) {
        for (f, v) in filled.iter_mut().zip(row) {
            *f |= *v != padding;
        }
    }
    let first = filled.iter().position(|f| *f).unwrap_or(0);
    let last = filled.iter().rposition(|f| *f).map_or(0, |p| p + 1);
    Some(first..last)
}

/// Rows `range` of every tensor of a batch.
pub fn slice<R: Real>(batch: &Batch<R>, range: &Range<usize>) -> Result<Batch<R>> {
    batch
        .iter()
        .map(|(name, v)| {
            let mut shape = v.shape().to_vec();
            let each = v.len() / shape[0].max(1);
            shape[0] = range.len();
            let span = range.start * each..range.end * each;
            let part = match v {
                Value::Float(t) => Value::Float(Tensor::new(shape, t.data()[span].to_vec())),
                Value::Int(t, kind) => Value::Int(Tensor::new(shape, t.data()[span].to_vec()), *kind),
                Value::Bool(t) => Value::Bool(Tensor::new(shape, t.data()[span].to_vec())),
            };
            Ok((name.clone(), part))
        })
        .collect()
}

/// A batch for messages: `src [64×31], tgt_in [64×31]`.
pub fn describe<R: Real>(batch: &Batch<R>) -> String {
    batch.iter().map(|(n, v)| format!("{n} {}", shape_text(v.shape()))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_keep_everything_and_differ_by_key() {
        let order = |key| {
            let mut list: Vec<usize> = (0..65).collect();
            shuffle(&mut list, key);
            list
        };
        let (a, b) = (order(1), order(2));
        assert_ne!(a, b);
        let mut sorted = a;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..65).collect::<Vec<_>>());
    }

    #[test]
    fn columns_of_padding_at_both_ends_are_found() {
        let v = Value::<f32>::ints(Tensor::new([2, 5], vec![0, 0, 7, 0, 0, 0, 3, 0, 1, 0]));
        assert_eq!(used(&v, 0), Some(1..4));
    }
}
