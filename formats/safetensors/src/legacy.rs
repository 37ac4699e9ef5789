//! The sparse formats that compressed-tensors wrote until 0.14: `sparse-bitmask` and `sparse-24-bitmask`. Current versions
//! refuse them. They are read, and written as dense tensors.
//!
//! Of a weight `<prefix>.weight` there are `<prefix>.compressed`, `.bitmask`, `.shape` and mostly `.row_offsets`; before
//! January 2025 `<prefix>` has `.weight` in it. A mask's rows are padded to bytes each.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use compress_core::encode::ReadAt;
use compress_core::stfile::{Entry, StFile, quoted};
use compress_core::tensor::Dtype;
use compress_core::{Error, Result};
use serde_json::Value;

use crate::packed::{FilePiece, Stored};
use crate::pairs::At;

/// A legacy tensor by its dense name.
pub struct Legacy {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub stored: Stored,
}

/// Finds the tensors.
pub fn find(shards: &[Arc<StFile>], by_name: &HashMap<&str, At>, max_expand: u64) -> Result<Vec<Legacy>> {
    let mut masks: Vec<(&str, At)> =
        by_name.iter().filter_map(|(name, at)| Some((name.strip_suffix(".bitmask")?, *at))).collect();
    masks.sort_unstable();
    let mut found = Vec::new();
    for (prefix, mask) in masks {
        let part = |suffix: &str| by_name.get(format!("{prefix}.{suffix}").as_str()).copied();
        let (Some(values), Some(shape)) = (part("compressed"), part("shape")) else { continue };
        let name = if prefix.ends_with(".weight") { prefix.to_string() } else { format!("{prefix}.weight") };
        let entries: Vec<At> = [values, mask, shape].into_iter().chain(part("row_offsets")).collect();
        let place = |e: Error| e.at(shards[mask.0].place(&name));
        let stored = open(shards, entries, max_expand).map_err(place)?;
        found.push(Legacy { name, stored });
    }
    Ok(found)
}

fn open(shards: &[Arc<StFile>], entries: Vec<At>, max_expand: u64) -> Result<Stored> {
    let piece = |at: At| FilePiece { file: shards[at.0].clone(), entry: shards[at.0].entries()[at.1].clone() };
    let (values, mask, shape) = (piece(entries[0]), piece(entries[1]), piece(entries[2]));
    let shape = read_shape(&shape)?;
    let dtype = values.entry.dtype.clone();
    let width = u64::from(dtype.bits() / 8);
    let cols = shape.last().copied().unwrap_or(1);
    let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| n.checked_mul(16).is_some());
    let elements = elements.ok_or_else(|| Error::failed(format!("the shape {shape:?} is too large")))?;
    let rows = elements.checked_div(cols).unwrap_or(0);
    let stored: u64 = entries.iter().map(|at| shards[at.0].entries()[at.1].bytes()).sum();
    if u128::from(elements) * u128::from(width) > u128::from(stored) * u128::from(max_expand) {
        let dense = u128::from(elements) * u128::from(width);
        return Err(Error::failed(format!(
            "its {stored} bytes would unfold to {dense}, more than {max_expand} times as many; --max-expand allows more"
        )));
    }
    if width == 0 || mask.entry.bytes() != rows * cols.div_ceil(8) || !is_bytes(&mask.entry) {
        let text = format!("its bitmask {:?} does not fit its shape {shape:?}", mask.entry.shape);
        return Err(Error::failed(text));
    }
    let reader = Bitmask { values, mask, rows, cols, width, before: OnceLock::new() };
    Ok(Stored { entries, dtype, shape, outline: None, decoder: None, reader: Box::new(reader) })
}

fn is_bytes(entry: &Entry) -> bool {
    matches!(&entry.dtype, Dtype::Other(name, 8) if name == "U8")
}

fn read_shape(piece: &FilePiece) -> Result<Vec<u64>> {
    let entry = &piece.entry;
    if !matches!(&entry.dtype, Dtype::Other(name, _) if name == "I64") || entry.elements > 8 {
        return Err(Error::failed(format!("{} is no shape", quoted(&entry.name))));
    }
    let mut bytes = vec![0; entry.bytes() as usize];
    piece.read_at(0, &mut bytes)?;
    let dims = bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
    dims.map(|d| u64::try_from(d).map_err(|_| Error::failed(format!("{} holds {d}", quoted(&entry.name))))).collect()
}

struct Bitmask {
    values: FilePiece,
    mask: FilePiece,
    rows: u64,
    cols: u64,
    width: u64,
    /// Values before each row and at the end.
    before: OnceLock<Result<Vec<u64>, String>>,
}

impl Bitmask {
    fn before(&self) -> Result<&[u64]> {
        let made = self.before.get_or_init(|| self.count().map_err(|e| e.to_string()));
        made.as_deref().map_err(|e| Error::failed(e.clone()))
    }

    fn count(&self) -> Result<Vec<u64>> {
        let across = self.cols.div_ceil(8) as usize;
        let (mut before, mut row, mut total) = (vec![0], vec![0; across], 0u64);
        for r in 0..self.rows {
            self.mask.read_at(r * across as u64, &mut row)?;
            total += row.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
            if !self.cols.is_multiple_of(8) && row[across - 1] >> (self.cols % 8) != 0 {
                return Err(Error::failed(format!("row {r} of its bitmask has bits beyond its {} columns", self.cols)));
            }
            before.push(total);
        }
        let values = self.values.entry.elements;
        if total != values {
            return Err(Error::failed(format!("its bitmask keeps {total} elements, but there are {values} values")));
        }
        Ok(before)
    }

    /// Fills columns `from` … of a row.
    fn row(&self, row: u64, from: u64, out: &mut [u8]) -> Result<()> {
        let before = self.before()?;
        let across = self.cols.div_ceil(8);
        let mut mask = vec![0; across as usize];
        self.mask.read_at(row * across, &mut mask)?;
        let (start, end) = (before[row as usize], before[row as usize + 1]);
        let mut values = vec![0; ((end - start) * self.width) as usize];
        self.values.read_at(start * self.width, &mut values)?;
        let mut values = values.chunks(self.width as usize);
        let upto = from + out.len() as u64 / self.width;
        for col in 0..upto {
            let value = if mask[(col / 8) as usize] >> (col % 8) & 1 == 1 { values.next() } else { None };
            if col >= from {
                let place = &mut out[((col - from) * self.width) as usize..][..self.width as usize];
                match value {
                    Some(v) => place.copy_from_slice(v),
                    None => place.fill(0),
                }
            }
        }
        Ok(())
    }
}

impl ReadAt for Bitmask {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (end, width) = (offset + out.len() as u64, self.width);
        if !offset.is_multiple_of(width) || end % width != 0 {
            let first = offset / width * width;
            let mut whole = vec![0; (end.next_multiple_of(width) - first) as usize];
            self.read_at(first, &mut whole)?;
            out.copy_from_slice(&whole[(offset - first) as usize..][..out.len()]);
            return Ok(());
        }
        let (mut at, mut rest) = (offset / width, out);
        while !rest.is_empty() {
            let (row, col) = (at / self.cols, at % self.cols);
            let n = (self.cols - col).min(rest.len() as u64 / width);
            let (run, others) = rest.split_at_mut((n * width) as usize);
            self.row(row, col, run)?;
            (at, rest) = (at + n, others);
        }
        Ok(())
    }
}

/// A `config.json` without `sparsity_config`, which loaders of dense models refuse; where nothing else is quantised,
/// without `quantization_config`.
pub fn config_without_sparsity(path: &Path) -> Result<Vec<u8>> {
    let text = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    let Ok(mut config) = serde_json::from_slice::<Value>(&text) else { return Ok(text) };
    let Some(root) = config.as_object_mut() else { return Ok(text) };
    let mut empty = false;
    for key in ["quantization_config", "compression_config"] {
        if let Some(inner) = root.get_mut(key).and_then(Value::as_object_mut) {
            empty |= inner.remove("sparsity_config").is_some();
            if inner.get("config_groups").is_none_or(|g| g.as_object().is_none_or(|g| g.is_empty())) && empty {
                root.remove(key);
            }
        }
    }
    if !empty {
        return Ok(text);
    }
    let mut text =
        serde_json::to_vec_pretty(&config).map_err(|e| Error::failed(format!("\"{}\": {e}", path.display())))?;
    text.push(b'\n');
    Ok(text)
}
