//! The blocked form: the columns are gone through once, from the first to the last, and what a column loses is made up
//! for by those after it (Frantar & Alistarh, "SparseGPT", ICML 2023, arXiv 2301.00774, algorithm 1).
//!
//! With H⁻¹ = Uᵀ·U, U upper, which is U = R⁻¹ for H = R·Rᵀ:
//!
//! score_rc = w_rc² / U_cc²   (algorithm 1, mask)
//! e_rc = w_rc / U_cc where weight (r, c) goes, else 0;   w_r,c: ← w_r,c: − e_rc U_c,c:   (algorithm 1, update)
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | w | `start` | rows × block | the weights of a block, updated by all columns before it |
//! | ΔW | `delta` | rows × cols | W − Ŵ of the columns that are done |
//! | R, U_BB | `r`, `u` | cols × cols, block × block | see [`crate::factor`] |
//!
//! All updates of the columns before a block B together are ΔW = E·U, so its weights start from
//!
//! W_B + (ΔW_<B R_<B,B) U_BB   (eq. 6)
//!
//! which needs R alone, no inverse of H. The authors take the same share from every block. Here the first scores of all
//! columns, w_rc² R_cc², say how many weights each block loses, so that a block of dispensable columns loses more and
//! the part's quota is met exactly.

use std::ops::Range;

use compress_sdk::{Result, host};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::factor::Factor;
use crate::hessian::{Inputs, Slice};
use crate::kernels::{subtract_f32, vectorised};
use crate::layer::{Choice, Layer, Quota};
use crate::select::{self, Key};
use crate::slices;

/// Chooses by the blocked form, `block` columns at a time (rounded up to whole groups of n:m). Its tr(ΔW·G·ΔWᵀ) comes
/// with it, unless it would be lost in rounding.
pub fn choose(layer: &Layer, inputs: &Inputs<'_>, quota: &Quota, block: usize) -> Result<(Choice, Option<f64>)> {
    let cols = layer.cols;
    let block = block.min(cols).next_multiple_of(quota.m.max(1));
    let factors: Vec<Factor> =
        (0..inputs.groups()).map(|g| Factor::new(&inputs.curvature(g)?, cols, block)).collect::<Result<_>>()?;
    let slices = inputs.slices(layer.rows, slices::ROWS);
    let mut sweep = Sweep {
        layer,
        quota,
        factors,
        costs: vec![Cost::default(); slices.len()],
        slices,
        gone: layer.eligible.iter().map(|e| !e).collect(),
        delta: vec![0f32; layer.len()],
    };
    let counts = sweep.counts(block)?;
    for (b, first) in (0..cols).step_by(block).enumerate() {
        let columns = first..(first + block).min(cols);
        let start = sweep.start(b, &columns)?;
        let last = if quota.m == 0 { sweep.last(&columns, &start, counts[b])? } else { None };
        sweep.update(b, &columns, start, last)?;
        host::progress(columns.end as f64 / cols as f64);
    }
    let Sweep { costs, gone, delta, .. } = sweep;
    let mut weights = delta;
    weights.iter_mut().zip(&layer.weights).for_each(|(d, w)| *d = w - *d);
    Ok((Choice { gone, weights }, Cost::trace(&costs)))
}

/// What a slice costs: ‖E‖² = tr(ΔW·H·ΔWᵀ), which damping is a part of.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// ‖E‖².
    errors: f64,
    /// λ ‖ΔW‖².
    damping: f64,
}

impl Cost {
    /// tr(ΔW·G·ΔWᵀ) = (‖E‖² − λ ‖ΔW‖²) / 2, where the difference has digits enough.
    fn trace(costs: &[Cost]) -> Option<f64> {
        let (errors, damping) = costs.iter().fold((0.0, 0.0), |(e, d), c| (e + c.errors, d + c.damping));
        (damping <= 0.9 * errors).then(|| (errors - damping) / 2.0)
    }
}

struct Sweep<'a> {
    layer: &'a Layer,
    quota: &'a Quota,
    factors: Vec<Factor>,
    slices: Vec<Slice>,
    costs: Vec<Cost>,
    gone: Vec<bool>,
    delta: Vec<f32>,
}

impl Sweep<'_> {
    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.slices.iter().map(|s| s.rows.len()).collect::<Vec<_>>().into_iter()
    }

    /// Those of a row's weights at `columns` that are still there, by their scores; `w` is what they are now.
    fn keys(&self, r: usize, columns: Range<usize>, w: &[f32]) -> impl Iterator<Item = Key> {
        let (cols, group) = (self.layer.cols, r * self.factors.len() / self.layer.rows);
        let first = r * cols + columns.start;
        let eligible = &self.layer.eligible[first..][..columns.len()];
        let candidates = w.iter().zip(&self.factors[group].diagonal[columns]).zip(eligible).enumerate();
        candidates.filter(|(_, (_, eligible))| **eligible).map(move |(c, ((w, d), _))| score(*w, *d, first + c))
    }

    fn runs(&self) -> Vec<Range<usize>> {
        self.slices.iter().map(|s| s.rows.clone()).collect()
    }

    /// How many weights each block loses.
    fn counts(&self, block: usize) -> Result<Vec<usize>> {
        let cols = self.layer.cols;
        let mut counts = vec![0; cols.div_ceil(block)];
        if self.quota.m > 0 {
            return Ok(counts);
        }
        let row = |r: usize| &self.layer.weights[r * cols..][..cols];
        let last =
            select::last(self.quota.remaining, self.runs(), |rows| rows.flat_map(|r| self.keys(r, 0..cols, row(r))))?;
        let mut counted = vec![counts.clone(); self.slices.len()];
        slices::run(counted.iter_mut().zip(&self.slices).collect(), |(counted, slice)| {
            for r in slice.rows.clone() {
                for ((count, w), first) in counted.iter_mut().zip(row(r).chunks(block)).zip((0..).step_by(block)) {
                    *count += self.keys(r, first..first + w.len(), w).filter(|key| Some(*key) <= last).count();
                }
            }
            Ok(())
        })?;
        counted.iter().for_each(|counted| counts.iter_mut().zip(counted).for_each(|(all, here)| *all += here));
        Ok(counts)
    }

    /// The weights of a block after all updates by the columns before it, rows × block (eq. 6).
    fn start(&self, b: usize, columns: &Range<usize>) -> Result<Vec<f32>> {
        let (cols, first, width) = (self.layer.cols, columns.start, columns.len());
        let mut start = vec![0f32; self.layer.rows * width];
        let pieces = slices::cut(&mut start, width, self.lengths());
        slices::run(pieces.into_iter().zip(&self.slices).collect(), |(start, slice)| {
            let rows = slice.rows.len();
            for (start, r) in start.chunks_exact_mut(width).zip(slice.rows.clone()) {
                start.copy_from_slice(&self.layer.weights[r * cols..][columns.clone()]);
            }
            if first == 0 {
                return Ok(());
            }
            let factor = &self.factors[slice.group];
            let delta = &self.delta[slice.rows.start * cols..slice.rows.end * cols];
            let delta = MatRef::from_row_major_slice(delta, rows, cols).subcols(0, first);
            let r = MatRef::from_row_major_slice(&factor.r, cols, cols).submatrix(0, first, first, width);
            let u = MatRef::from_row_major_slice(&factor.u[b], width, width);
            let mut errors = vec![0f32; rows * width];
            let into = MatMut::from_row_major_slice_mut(&mut errors, rows, width);
            matmul(into, Accum::Replace, delta, r, 1.0, Par::Seq);
            let errors = MatRef::from_row_major_slice(&errors, rows, width);
            let into = MatMut::from_row_major_slice_mut(start, rows, width);
            matmul(into, Accum::Add, errors, u, 1.0, Par::Seq);
            Ok(())
        })?;
        Ok(start)
    }

    /// The last of the block's weights that go: those of the least scores (algorithm 1, mask).
    fn last(&self, columns: &Range<usize>, start: &[f32], count: usize) -> Result<Option<Key>> {
        let width = columns.len();
        let row = |r: usize| self.keys(r, columns.clone(), &start[r * width..][..width]);
        select::last(count, self.runs(), |rows| rows.flat_map(row))
    }

    /// Takes them away column by column and updates the rest of the block (algorithm 1, update).
    fn update(&mut self, b: usize, columns: &Range<usize>, mut start: Vec<f32>, last: Option<Key>) -> Result<()> {
        let (layer, width) = (self.layer, columns.len());
        let cols = layer.cols;
        let lengths: Vec<usize> = self.lengths().collect();
        let starts = slices::cut(&mut start, width, lengths.iter().copied());
        let gone = slices::cut(&mut self.gone, cols, lengths.iter().copied());
        let delta = slices::cut(&mut self.delta, cols, lengths.iter().copied());
        let tasks = starts.into_iter().zip(gone).zip(delta).zip(&mut self.costs).zip(&self.slices).collect();
        let (factors, quota) = (&self.factors, self.quota);
        slices::run(tasks, |((((start, gone), delta), cost), slice)| {
            let factor = &factors[slice.group];
            let diagonal = &factor.diagonal[columns.clone()];
            let rows = start.chunks_exact_mut(width).zip(gone.chunks_exact_mut(cols)).zip(delta.chunks_exact_mut(cols));
            for (((w, gone), delta), r) in rows.zip(slice.rows.clone()) {
                let first = r * cols + columns.start;
                let old = &layer.weights[first..][..width];
                let (gone, delta) = (&mut gone[columns.clone()], &mut delta[columns.clone()]);
                for (c, gone) in gone.iter_mut().enumerate() {
                    *gone |= Some(score(w[c], diagonal[c], first + c)) <= last;
                }
                cost.errors += vectorised(|| sweep_row(w, &factor.u[b], diagonal, gone, quota));
                let mut squares = 0f64;
                for (((delta, old), new), d) in delta.iter_mut().zip(old).zip(w).zip(diagonal) {
                    *delta = old - *new;
                    squares += if *d > 0.0 { f64::from(*delta).powi(2) } else { 0.0 };
                }
                cost.damping += factor.lambda * squares;
            }
            Ok(())
        })
    }
}

/// |w| / U_cc has the order of its square and stays in the range of f32.
fn score(w: f32, diagonal: f32, index: usize) -> Key {
    select::key(w * diagonal, w, index)
}

/// One row of a block. Returns Σ e² over columns that are not dead.
#[inline(always)]
fn sweep_row(w: &mut [f32], u: &[f32], diagonal: &[f32], gone: &mut [bool], quota: &Quota) -> f64 {
    let width = w.len();
    let mut cost = 0f64;
    for c in 0..width {
        if quota.m > 0 && c % quota.m == 0 && c + quota.m <= width {
            let group = c..c + quota.m;
            choose_of_group(&w[group.clone()], &diagonal[group.clone()], &mut gone[group], quota);
        }
        if gone[c] {
            let u_row = &u[c * width..(c + 1) * width];
            let error = w[c] / u_row[c];
            cost += if diagonal[c] > 0.0 { f64::from(error).powi(2) } else { 0.0 };
            subtract_f32(&mut w[c + 1..], error, &u_row[c + 1..]);
            w[c] = 0.0;
        }
    }
    cost
}

/// Of m neighbours all but the n of the greatest scores go.
fn choose_of_group(w: &[f32], diagonal: &[f32], gone: &mut [bool], quota: &Quota) {
    for _ in 0..quota.of_group(gone.iter().filter(|g| **g).count()) {
        let score = |i: &usize| (w[*i] * diagonal[*i]).abs();
        let least = (0..w.len()).filter(|i| !gone[*i]).min_by(|a, b| score(a).total_cmp(&score(b)));
        if let Some(i) = least {
            gone[i] = true;
        }
    }
}
