//! Figures of the weights themselves: histograms by class with the thresholds, and where the kept weights lie.

use std::path::Path;

use crate::class::resolve::ClassMap;
use crate::class::{Kind, Order};
use crate::error::Result;
use crate::evidence::EvidenceFile;
use crate::mask::MaskFile;
use crate::model::Model;
use crate::tensor::TensorId;
use crate::weights::Weights;

/// Bins of a histogram, from −limit to limit.
pub const BINS: usize = 81;

/// Most rows and columns of a map.
pub const MAP_SIDE: usize = 128;

/// The weights of a class.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// The class.
    pub class: String,
    /// Weights.
    pub weights: u64,
    /// Weights are counted from −limit to limit; those beyond lie in the outermost bins.
    pub limit: f64,
    /// Weights a bin.
    pub bins: Vec<u64>,
    /// Population standard deviation.
    pub sigma: f64,
    /// By mask file, the least |w| that is kept, where any weight is pruned: the threshold of a pruning by magnitude.
    pub thresholds: Vec<Option<f64>>,
}

/// Where the kept weights of a matrix lie.
#[derive(Clone, Debug)]
pub struct Map {
    /// The tensor.
    pub tensor: String,
    /// Its class.
    pub class: String,
    /// Rows (outputs) and columns (inputs) of the matrix.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Rows of the picture.
    pub height: usize,
    /// Columns of the picture.
    pub width: usize,
    /// Share of kept weights, 0 to 255, row by row.
    pub kept: Vec<u8>,
    /// Where sub-groups begin, as a share of the rows, with their names.
    pub groups: Vec<(f64, String)>,
    /// What the rows are sorted by, where they are.
    pub sorted: Option<String>,
}

/// Histograms of all classes, with the thresholds of several mask files.
pub fn histograms(model: &Model, map: &ClassMap, masks: &[&Path]) -> Result<Vec<Histogram>> {
    let weights = Weights::new(model);
    let files = masks.iter().map(|p| MaskFile::open(p)).collect::<Result<Vec<_>>>()?;
    let mut out = Vec::new();
    for class in &map.classes {
        let (mut n, mut sum, mut squares, mut most) = (0u64, 0.0f64, 0.0f64, 0.0f64);
        each(&weights, map, &class.parts, &mut |_, _, values| {
            for v in values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()) {
                n += 1;
                sum += v;
                squares += v * v;
                most = most.max(v.abs());
            }
            Ok(())
        })?;
        let mean = sum / n.max(1) as f64;
        let sigma = (squares / n.max(1) as f64 - mean * mean).max(0.0).sqrt();
        let limit = if sigma > 0.0 { most.min(4.0 * sigma) } else { most.max(1e-12) };
        let mut histogram = Histogram {
            class: class.name.clone(),
            weights: class.weights,
            limit,
            bins: vec![0; BINS],
            sigma,
            thresholds: Vec::new(),
        };
        each(&weights, map, &class.parts, &mut |_, _, values| {
            for v in values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()) {
                let at = ((v / limit + 1.0) / 2.0 * BINS as f64) as isize;
                histogram.bins[at.clamp(0, BINS as isize - 1) as usize] += 1;
            }
            Ok(())
        })?;
        for file in &files {
            let (mut least, mut pruned) = (f64::INFINITY, false);
            each(&weights, map, &class.parts, &mut |tensor, first, values| {
                let name = &model.tensors()[tensor].name;
                if !file.has(name) {
                    return Ok(());
                }
                // Pieces begin anywhere, bits are read from whole bytes.
                let begin = first / 8 * 8;
                let mut bits = vec![0u8; (first + values.len() as u64 - begin).div_ceil(8) as usize];
                file.read_bits(name, begin, &mut bits)?;
                for (i, v) in values.iter().enumerate() {
                    let at = (first - begin) as usize + i;
                    if bits[at / 8] >> (at % 8) & 1 == 1 {
                        least = least.min(f64::from(v.abs()));
                    } else {
                        pruned |= *v != 0.0;
                    }
                }
                Ok(())
            })?;
            histogram.thresholds.push((pruned && least.is_finite()).then_some(least));
        }
        out.push(histogram);
    }
    Ok(out)
}

/// Hands all weights of some parts to `visit`: tensor, first element, values.
fn each(
    weights: &Weights<'_>,
    map: &ClassMap,
    parts: &[usize],
    visit: &mut dyn FnMut(TensorId, u64, &[f32]) -> Result<()>,
) -> Result<()> {
    for part in parts {
        let info = &map.parts[*part];
        weights.visit(info.tensor, info.spec.offset, info.spec.weights(), &mut |first, values| {
            visit(info.tensor, first, values)
        })?;
    }
    Ok(())
}

/// Maps of all matrices that a mask file prunes, in file order. Rows of embeddings are sorted by how often they are
/// read, where the evidence says so.
pub fn maps(model: &Model, map: &ClassMap, masks: &Path, counts: Option<&EvidenceFile>) -> Result<Vec<Map>> {
    let masks = MaskFile::open(masks)?;
    let mut out = Vec::new();
    for tensor in 0..model.tensors().len() {
        let name = &model.tensors()[tensor].name;
        if !masks.has(name) || map.parts_of(tensor).is_empty() {
            continue;
        }
        // Gates that lie below each other are one picture.
        let parts = map.parts_of(tensor);
        let stacked = parts.iter().all(|p| p.spec.cols == parts[0].spec.cols && p.spec.order == Order::RowMajor);
        for run in if stacked { vec![parts] } else { parts.chunks(1).collect() } {
            out.extend(picture(model, map, tensor, run, &masks, counts)?);
        }
    }
    Ok(out)
}

fn picture(
    model: &Model,
    map: &ClassMap,
    tensor: TensorId,
    parts: &[crate::class::resolve::PartInfo],
    masks: &MaskFile,
    counts: Option<&EvidenceFile>,
) -> Result<Option<Map>> {
    let info = &model.tensors()[tensor];
    let (cols, rows) = (parts[0].spec.cols, parts.iter().map(|p| p.spec.rows).sum::<u64>());
    if rows < 2 || cols < 2 {
        return Ok(None);
    }
    let (height, width) = ((rows as usize).min(MAP_SIDE), (cols as usize).min(MAP_SIDE));
    let order = match (parts[0].spec.kind, counts) {
        (Kind::Embedding, Some(file)) => by_frequency(file, &info.name, rows)?,
        _ => None,
    };
    let place: Vec<u64> = match &order {
        Some(order) => inverse(order),
        None => Vec::new(),
    };
    let (mut kept, mut all) = (vec![0u32; height * width], vec![0u32; height * width]);
    let mut above = 0;
    for part in parts {
        let spec = &part.spec;
        const PIECE: u64 = 1 << 16;
        let end = spec.offset + spec.weights();
        let mut first = spec.offset / 8 * 8;
        while first < end {
            let count = PIECE.min(end - first);
            let mut bits = vec![0u8; count.div_ceil(8) as usize];
            masks.read_bits(&info.name, first, &mut bits)?;
            for at in first.max(spec.offset)..first + count {
                let flat = at - spec.offset;
                let (r, c) = match spec.order {
                    Order::RowMajor => (flat / spec.cols, flat % spec.cols),
                    Order::ColumnMajor => (flat % spec.rows, flat / spec.rows),
                };
                let r = place.get((above + r) as usize).copied().unwrap_or(above + r);
                let pixel = (r * height as u64 / rows) as usize * width + (c * width as u64 / cols) as usize;
                let bit = at - first;
                all[pixel] += 1;
                kept[pixel] += u32::from(bits[bit as usize / 8] >> (bit % 8) & 1);
            }
            first += count;
        }
        above += spec.rows;
    }
    let mut groups = Vec::new();
    let mut above = 0;
    for part in parts.iter().filter(|_| parts.len() > 1) {
        groups.push((above as f64 / rows as f64, part.spec.below.clone()));
        above += part.spec.rows;
    }
    let class = &map.classes[parts[0].class].name;
    Ok(Some(Map {
        tensor: info.name.clone(),
        class: if parts.len() == 1 { parts[0].name.clone() } else { class.clone() },
        rows,
        cols,
        height,
        width,
        kept: kept.iter().zip(&all).map(|(k, n)| (255 * k / n.max(&1)) as u8).collect(),
        groups,
        sorted: order.is_some().then(|| "rows by frequency, the most read on top".into()),
    }))
}

/// Rows, the most frequent first; equal ones in their order.
fn by_frequency(file: &EvidenceFile, name: &str, rows: u64) -> Result<Option<Vec<u64>>> {
    let mut counts = vec![0f32; rows as usize];
    if !file.read(name, compress_sdk::EvidenceKind::RowCount, 0, &mut counts)? {
        return Ok(None);
    }
    let mut order: Vec<u64> = (0..rows).collect();
    order.sort_by(|a, b| counts[*b as usize].total_cmp(&counts[*a as usize]).then(a.cmp(b)));
    Ok(Some(order))
}

fn inverse(order: &[u64]) -> Vec<u64> {
    let mut place = vec![0; order.len()];
    for (at, row) in order.iter().enumerate() {
        place[*row as usize] = at as u64;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_undoes_an_order() {
        assert_eq!(inverse(&[2, 0, 1]), [1, 2, 0]);
    }
}
