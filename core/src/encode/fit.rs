//! Fits a coding to a tensor: scales for int8, a codebook by k-means.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::codebook::{Histogram, kmeans};
use super::coding::{Codebook, Fitted, Scales, scale_for};
use super::outline::ValueCoding;
use super::survey::{Dense, SURVEY_BYTES};
use crate::convert::to_f32;
use crate::error::{Error, Result};
use crate::ordered::try_map_init;
use crate::progress::Watch;

/// Scales may take at most this share of the bytes of the values that they scale.
const MOST_SCALES: u64 = 16;

/// Fits a coding. `sparse`: elements that are +0.0 will not be coded.
pub fn fit(dense: &dyn Dense, values: ValueCoding, sparse: bool, watch: Watch<'_>) -> Result<Fitted> {
    match values {
        ValueCoding::Plain => Ok(Fitted::Plain),
        ValueCoding::F16 => Ok(Fitted::F16),
        ValueCoding::Bf16 => Ok(Fitted::Bf16),
        ValueCoding::Int8 => scales(dense, sparse, watch).map(Fitted::Int8),
        ValueCoding::Codebook(bits) => codebook(dense, bits, sparse, watch).map(Fitted::Codebook),
    }
}

/// Hands all elements as f32 to `visit`, in parallel, each block with its first element and its dense bytes.
fn blocks(dense: &dyn Dense, watch: Watch<'_>, visit: impl Fn(u64, &[u8], &[f32]) -> Result<()> + Sync) -> Result<()> {
    let width = dense.width();
    let total = dense.elements() * width as u64;
    let scratch = || (vec![0u8; SURVEY_BYTES], vec![0f32; SURVEY_BYTES / width]);
    let done = try_map_init(0..total.div_ceil(SURVEY_BYTES as u64) as usize, scratch, |(bytes, values), i| {
        let offset = (i * SURVEY_BYTES) as u64;
        let n = (total - offset).min(SURVEY_BYTES as u64) as usize;
        let (bytes, values) = (&mut bytes[..n], &mut values[..n / width]);
        dense.read(offset, bytes)?;
        watch.tick(n as u64)?;
        to_f32(dense.dtype(), bytes, values);
        let first = offset / width as u64;
        if let Some(k) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::failed(format!(
                "the weight at index {} is {}, which has no place in int8 or a codebook; leave the tensor out by \
                 \"classes\", or code its values as f16 or bf16",
                first + k as u64,
                values[k]
            )));
        }
        visit(first, bytes, values)
    });
    done.map(drop)
}

/// The greatest magnitude of each row and of each column; then the axis with fewer scales for sparse layouts, rows for
/// dense ones, and one scale where either would cost too much.
fn scales(dense: &dyn Dense, sparse: bool, watch: Watch<'_>) -> Result<Scales> {
    let shape = dense.shape();
    let long: Vec<usize> = (0..shape.len()).filter(|i| shape[*i] > 1).collect();
    let inner = |axis: usize| shape[axis + 1..].iter().product::<u64>().max(1);
    let (row, column) = match long.as_slice() {
        [] | [_] => (None, None),
        [first, .., last] => (Some(*first), Some(*last)),
    };
    let maxima = |axis: Option<usize>| {
        let n = axis.map_or(1, |a| shape[a]).min(1 << 22) as usize;
        (0..n).map(|_| AtomicU32::new(0)).collect::<Vec<AtomicU32>>()
    };
    let (rows, columns, kept) = (maxima(row), maxima(column), AtomicU64::new(0));
    let row_len = row.map_or(dense.elements(), inner).max(1);
    blocks(dense, watch, |first, _, values| {
        let mut local = vec![0u32; columns.len()];
        let (mut at, mut left) = (first, values);
        while !left.is_empty() {
            let start = at % row_len;
            let (run, rest) = left.split_at(left.len().min((row_len - start) as usize));
            let most = run.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0);
            rows[(at / row_len) as usize % rows.len()].fetch_max(most, Ordering::Relaxed);
            if column.is_some() {
                let (mut place, mut left) = (start as usize % local.len(), run);
                while !left.is_empty() {
                    let (stretch, rest) = left.split_at(left.len().min(local.len() - place));
                    let most = local[place..].iter_mut().zip(stretch);
                    most.for_each(|(m, v)| *m = (*m).max(v.abs().to_bits()));
                    (place, left) = (0, rest);
                }
            }
            (at, left) = (at + run.len() as u64, rest);
        }
        columns.iter().zip(local).for_each(|(c, l)| _ = c.fetch_max(l, Ordering::Relaxed));
        kept.fetch_add(values.iter().filter(|v| v.to_bits() != 0).count() as u64, Ordering::Relaxed);
        Ok(())
    })?;
    let coded = if sparse { kept.into_inner() } else { dense.elements() };
    let affordable =
        |axis: &Option<usize>| axis.is_some_and(|a| shape[a] * 4 * MOST_SCALES <= coded && shape[a] <= 1 << 22);
    let fewer = row.zip(column).filter(|(r, c)| shape[*c] < shape[*r]).map_or(row, |(_, c)| Some(c));
    let order = if sparse { [fewer, fewer, None] } else { [row, fewer, None] };
    let axis = order.into_iter().find(affordable).flatten();
    let chosen = if axis.is_some() && axis == row { &rows } else { &columns };
    let most: Vec<u32> = match axis {
        Some(_) => chosen.iter().map(|m| m.load(Ordering::Relaxed)).collect(),
        None => vec![rows.iter().map(|m| m.load(Ordering::Relaxed)).max().unwrap_or(0)],
    };
    Ok(Scales {
        shape: (0..shape.len()).map(|i| if Some(i) == axis { shape[i] } else { 1 }).collect(),
        inner: axis.map_or(1, inner),
        values: most.into_iter().map(|m| scale_for(dense.dtype(), f32::from_bits(m))).collect(),
    })
}

/// k-means over a fine histogram. An entry is kept for +0.0 where elements that are +0.0 are coded, or may be (fillers)
/// and an entry can be spared.
fn codebook(dense: &dyn Dense, bits: u8, sparse: bool, watch: Watch<'_>) -> Result<Codebook> {
    let histogram = Histogram::default();
    let zeros = AtomicU64::new(0);
    blocks(dense, watch, |_, _, values| {
        let mut zero = 0;
        for v in values {
            if v.to_bits() == 0 { zero += 1 } else { histogram.add(*v) }
        }
        zeros.fetch_add(zero, Ordering::Relaxed);
        Ok(())
    })?;
    let values = histogram.values();
    // An entry for fillers is not worth a value that would otherwise be exact.
    let spare = bits > 2 && values.len() != 1 << bits;
    let zero = zeros.into_inner() > 0 && (!sparse || spare);
    let k = (1usize << bits) - usize::from(zero);
    let mut entries = kmeans(&values, k);
    if zero || entries.is_empty() {
        entries.push(0.0);
    }
    Ok(Codebook::new(bits, entries, dense.dtype()))
}
