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
use crate::layer::{Choice, Layer, Quota, least};
use crate::slices;

/// Chooses by the blocked form, `block` columns at a time (rounded up to whole groups of n:m).
pub fn choose(layer: &Layer, inputs: &Inputs<'_>, quota: &Quota, block: usize) -> Result<Choice> {
    let cols = layer.cols;
    let block = block.min(cols).next_multiple_of(quota.m.max(1));
    let factors: Vec<Factor> =
        (0..inputs.groups()).map(|g| Factor::new(inputs.hessian(g)?, cols, block)).collect::<Result<_>>()?;
    let slices = inputs.slices(layer.rows, slices::ROWS);
    let mut sweep = Sweep {
        layer,
        quota,
        factors,
        slices,
        gone: layer.eligible.iter().map(|e| !e).collect(),
        delta: vec![0f32; layer.len()],
    };
    let counts = sweep.counts(block);
    for (b, first) in (0..cols).step_by(block).enumerate() {
        let columns = first..(first + block).min(cols);
        let start = sweep.start(b, &columns)?;
        if quota.m == 0 {
            sweep.mask(&columns, &start, counts[b]);
        }
        sweep.update(b, &columns, start)?;
        host::progress(columns.end as f64 / cols as f64);
    }
    let weights = layer.weights.iter().zip(&sweep.delta).map(|(w, d)| w - d).collect();
    Ok(Choice { gone: sweep.gone, weights })
}

struct Sweep<'a> {
    layer: &'a Layer,
    quota: &'a Quota,
    factors: Vec<Factor>,
    slices: Vec<Slice>,
    gone: Vec<bool>,
    delta: Vec<f32>,
}

impl Sweep<'_> {
    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.slices.iter().map(|s| s.rows.len()).collect::<Vec<_>>().into_iter()
    }

    /// R_cc of a row's group.
    fn diagonals(&self) -> Vec<&[f32]> {
        self.slices.iter().flat_map(|s| s.rows.clone().map(|_| &self.factors[s.group].diagonal[..])).collect()
    }

    /// How many weights each block loses.
    fn counts(&self, block: usize) -> Vec<usize> {
        let cols = self.layer.cols;
        let mut counts = vec![0; cols.div_ceil(block)];
        if self.quota.m == 0 {
            let (w, diagonals) = (&self.layer.weights, self.diagonals());
            let candidates = (0..self.layer.len()).filter(|i| self.layer.eligible[*i]);
            let scored = candidates.map(|i| ((w[i] * diagonals[i / cols][i % cols]).abs(), w[i], i as u32));
            least(scored, self.quota.remaining).into_iter().for_each(|i| counts[i as usize % cols / block] += 1);
        }
        counts
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

    /// Chooses the block's weights that go: the least scores (algorithm 1, mask).
    fn mask(&mut self, columns: &Range<usize>, start: &[f32], count: usize) {
        let (cols, width) = (self.layer.cols, columns.len());
        let diagonals = self.diagonals();
        let candidates = (0..start.len()).filter_map(|i| {
            let (r, c) = (i / width, columns.start + i % width);
            // |w| / U_cc has the order of its square and stays in the range of f32.
            self.layer.eligible[r * cols + c]
                .then(|| ((start[i] * diagonals[r][c]).abs(), start[i], (r * cols + c) as u32))
        });
        for i in least(candidates, count) {
            self.gone[i as usize] = true;
        }
    }

    /// Takes them away column by column and updates the rest of the block (algorithm 1, update).
    fn update(&mut self, b: usize, columns: &Range<usize>, mut start: Vec<f32>) -> Result<()> {
        let (layer, width) = (self.layer, columns.len());
        let cols = layer.cols;
        let lengths: Vec<usize> = self.lengths().collect();
        let starts = slices::cut(&mut start, width, lengths.iter().copied());
        let gone = slices::cut(&mut self.gone, cols, lengths.iter().copied());
        let delta = slices::cut(&mut self.delta, cols, lengths.iter().copied());
        let tasks = starts.into_iter().zip(gone).zip(delta).zip(&self.slices).collect();
        let (factors, quota) = (&self.factors, self.quota);
        slices::run(tasks, |(((start, gone), delta), slice)| {
            let factor = &factors[slice.group];
            let rows = start.chunks_exact_mut(width).zip(gone.chunks_exact_mut(cols)).zip(delta.chunks_exact_mut(cols));
            for (((w, gone), delta), r) in rows.zip(slice.rows.clone()) {
                let old = &layer.weights[r * cols..][columns.clone()];
                let (gone, delta) = (&mut gone[columns.clone()], &mut delta[columns.clone()]);
                vectorised(|| sweep_row(w, &factor.u[b], &factor.diagonal[columns.clone()], gone, quota));
                delta.iter_mut().zip(old).zip(w).for_each(|((delta, old), new)| *delta = old - *new);
            }
            Ok(())
        })
    }
}

/// One row of a block.
#[inline(always)]
fn sweep_row(w: &mut [f32], u: &[f32], diagonal: &[f32], gone: &mut [bool], quota: &Quota) {
    let width = w.len();
    for c in 0..width {
        if quota.m > 0 && c % quota.m == 0 && c + quota.m <= width {
            let group = c..c + quota.m;
            choose_of_group(&w[group.clone()], &diagonal[group.clone()], &mut gone[group], quota);
        }
        if gone[c] {
            let u_row = &u[c * width..(c + 1) * width];
            let error = w[c] / u_row[c];
            subtract_f32(&mut w[c + 1..], error, &u_row[c + 1..]);
            w[c] = 0.0;
        }
    }
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
