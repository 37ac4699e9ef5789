//! Operations on two mask files, in pieces.
//!
//! They cover the tensors that A or B names; a tensor that only one names is all kept in the other. Tensors that neither
//! names stay absent from the result.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{MaskFile, MaskWriter, PIECE_BYTES};
use crate::error::{Error, Result};
use crate::files;

/// What is made of two masks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algebra {
    /// Kept in A and in B.
    And,
    /// Kept in A or in B.
    Or,
    /// Kept in A but not in B.
    Diff,
}

impl Algebra {
    /// On packed bits.
    fn apply(self, a: u8, b: u8) -> u8 {
        match self {
            Algebra::And => a & b,
            Algebra::Or => a | b,
            Algebra::Diff => a & !b,
        }
    }
}

/// What [`combine`] wrote.
#[derive(Clone, Debug)]
pub struct Combined {
    /// The file.
    pub output: PathBuf,
    /// Tensors in it.
    pub tensors: u64,
    /// Weights of all of them.
    pub weights: u64,
    /// Weights that it keeps.
    pub kept: u64,
}

impl fmt::Display for Combined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tensors, kept, weights, path) = (self.tensors, self.kept, self.weights, self.output.display());
        let share = percent(kept, weights);
        writeln!(f, "{path}: {kept} of {weights} weights kept ({share}) in {tensors} tensors")
    }
}

/// Writes the combination of two mask files; see the module for absent tensors.
pub fn combine(what: Algebra, a: &Path, b: &Path, output: &Path) -> Result<Combined> {
    files::refuse_if_input(output, [a, b])?;
    files::clean_stale(output)?;
    let (a, b) = (MaskFile::open(a)?, MaskFile::open(b)?);
    let tensors = both(&a, &b)?;
    let writer = MaskWriter::create(output, &tensors)?;
    let mut combined = Combined { output: output.to_path_buf(), tensors: tensors.len() as u64, weights: 0, kept: 0 };
    for (i, (name, shape)) in tensors.iter().enumerate() {
        let elements: u64 = shape.iter().product();
        let kept = std::sync::atomic::AtomicU64::new(0);
        writer.write(i, &|first, out| {
            pieces(&a, &b, name, elements, first, out.len() as u64, &mut |at, a, b| {
                let out = &mut out[(at - first) as usize / 8..][..a.len()];
                out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (a, b))| *o = what.apply(*a, *b));
                kept.fetch_add(ones(out), std::sync::atomic::Ordering::Relaxed);
            })
        })?;
        combined.weights += elements;
        combined.kept += kept.into_inner();
    }
    writer.sync()?;
    writer.commit()?;
    Ok(combined)
}

/// How two masks agree on a population.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorOverlap {
    /// The tensor, or `all`.
    pub name: String,
    /// Weights.
    pub weights: u64,
    /// Kept in A.
    pub kept_a: u64,
    /// Kept in B.
    pub kept_b: u64,
    /// Kept in A and in B.
    pub kept_both: u64,
}

impl TensorOverlap {
    /// Kept in A or in B.
    pub fn kept_either(&self) -> u64 {
        self.kept_a + self.kept_b - self.kept_both
    }

    /// Pruned in A and in B.
    pub fn pruned_both(&self) -> u64 {
        self.weights - self.kept_either()
    }

    /// Kept in both by kept in either: 1 for equal masks; 1 where nothing is kept in either.
    pub fn jaccard(&self) -> f64 {
        match self.kept_either() {
            0 => 1.0,
            either => self.kept_both as f64 / either as f64,
        }
    }

    /// Pruned in both by pruned in either: 1 for equal masks; 1 where nothing is pruned in either.
    pub fn jaccard_pruned(&self) -> f64 {
        match self.weights - self.kept_both {
            0 => 1.0,
            either => self.pruned_both() as f64 / either as f64,
        }
    }
}

/// How two mask files agree.
#[derive(Clone, Debug)]
pub struct Overlap {
    /// One a tensor, in A's order, then those that only B names.
    pub tensors: Vec<TensorOverlap>,
    /// All together.
    pub total: TensorOverlap,
}

/// Compares two mask files; see the module for absent tensors.
pub fn overlap(a: &Path, b: &Path) -> Result<Overlap> {
    let (a, b) = (MaskFile::open(a)?, MaskFile::open(b)?);
    let mut total = TensorOverlap { name: "all".into(), ..TensorOverlap::default() };
    let mut tensors = Vec::new();
    for (name, shape) in both(&a, &b)? {
        let weights: u64 = shape.iter().product();
        let mut t = TensorOverlap { name, weights, ..TensorOverlap::default() };
        pieces(&a, &b, &t.name.clone(), weights, 0, weights.div_ceil(8), &mut |_, a, b| {
            t.kept_a += ones(a);
            t.kept_b += ones(b);
            t.kept_both += a.iter().zip(b).map(|(a, b)| u64::from((a & b).count_ones())).sum::<u64>();
        })?;
        total.weights += t.weights;
        total.kept_a += t.kept_a;
        total.kept_b += t.kept_b;
        total.kept_both += t.kept_both;
        tensors.push(t);
    }
    Ok(Overlap { tensors, total })
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["tensor", "weights", "kept A", "kept B", "kept both", "kept either", "pruned both", "Jaccard"];
        let mut rows: Vec<[String; 8]> = vec![head.map(String::from)];
        rows.extend(self.tensors.iter().chain([&self.total]).map(|t| {
            let counts = [t.weights, t.kept_a, t.kept_b, t.kept_both, t.kept_either(), t.pruned_both()];
            let [weights, a, b, both, either, pruned] = counts.map(|c| c.to_string());
            [t.name.clone(), weights, a, b, both, either, pruned, format!("{:.4}", t.jaccard())]
        }));
        let widths: Vec<usize> = (0..8).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
        for row in rows {
            write!(f, "{:<1$}", row[0], widths[0])?;
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Names and shapes of all tensors of two files.
fn both(a: &MaskFile, b: &MaskFile) -> Result<Vec<(String, Vec<u64>)>> {
    for (name, shape) in a.tensors() {
        if let Some(other) = b.shape(name).filter(|other| *other != shape) {
            let text = format!("the shape is {other:?}, in \"{}\" {shape:?}", a.path().display());
            return Err(Error::failed(text).at(b.file.place(name)));
        }
    }
    let only_b = b.tensors().filter(|(name, _)| !a.has(name));
    Ok(a.tensors().chain(only_b).map(|(name, shape)| (name.to_string(), shape.to_vec())).collect())
}

/// Takes the first bit's index and the packed bits of A and B.
type Visit<'a> = dyn FnMut(u64, &[u8], &[u8]) + 'a;

/// Reads both masks from bit `first` on, `bytes` bytes of bits, piece by piece.
fn pieces(
    a: &MaskFile,
    b: &MaskFile,
    name: &str,
    elements: u64,
    first: u64,
    bytes: u64,
    each: &mut Visit<'_>,
) -> Result<()> {
    let piece = bytes.min(PIECE_BYTES as u64) as usize;
    let (mut from_a, mut from_b) = (vec![0; piece], vec![0; piece]);
    let end = elements.div_ceil(8).min(first / 8 + bytes);
    let mut at = first / 8;
    while at < end {
        let n = (end - at).min(piece as u64) as usize;
        let (from_a, from_b) = (&mut from_a[..n], &mut from_b[..n]);
        a.read_bits(name, at * 8, from_a)?;
        b.read_bits(name, at * 8, from_b)?;
        if elements < (at + n as u64) * 8 {
            // All ones of an absent mask end with the tensor.
            let held = (1 << (elements % 8)) - 1;
            from_a[n - 1] &= held;
            from_b[n - 1] &= held;
        }
        each(at * 8, from_a, from_b);
        at += n as u64;
    }
    Ok(())
}

fn ones(bits: &[u8]) -> u64 {
    bits.iter().map(|b| u64::from(b.count_ones())).sum()
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "none".into() } else { format!("{:.2} %", part as f64 * 100.0 / whole as f64) }
}
