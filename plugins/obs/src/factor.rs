//! H = R·Rᵀ with R upper, and what the blocked form needs of it.
//!
//! SparseGPT takes the upper U with H⁻¹ = Uᵀ·U, by a factorisation, an inversion and another factorisation. U is R⁻¹, so
//! one factorisation is enough: errors E of the columns so far change the weights by ΔW = E·U, which is E = ΔW·R.

use compress_sdk::{Error, Result};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, MatMut, MatRef, Par};

use crate::hessian::{Curvature, not_positive};
use crate::kernels::{cholesky, vectorised};
use crate::slices;

/// Columns that are factored at once.
const PANEL: usize = 128;

/// R over all columns of a layer.
pub struct Factor {
    /// cols × cols, row-major, upper; a dead column is one of the identity matrix.
    pub r: Vec<f32>,
    /// U_BB = R_BB⁻¹ of each block of columns, row-major, upper.
    pub u: Vec<Vec<f32>>,
    /// R_cc = 1 / U_cc, 0 for dead columns.
    pub diagonal: Vec<f32>,
    /// λ of H.
    pub lambda: f64,
}

impl Factor {
    /// Factors H, and inverts its diagonal blocks of `block` columns.
    pub fn new(curvature: &Curvature<'_>, cols: usize, block: usize) -> Result<Factor> {
        let live = &curvature.live;
        let k = live.len();
        let r = if k == 0 { scatter(&[], live, cols)? } else { scatter(&lower(curvature)?, live, cols)? };
        let mut diagonal = vec![0f32; cols];
        live.iter().for_each(|i| diagonal[*i] = r[i * cols + i]);
        let mut u: Vec<Vec<f32>> = vec![Vec::new(); cols.div_ceil(block)];
        slices::run(u.iter_mut().enumerate().collect(), |(b, u)| {
            let first = b * block;
            *u = vectorised(|| inverse(&r, cols, first, block.min(cols - first)));
            Ok(())
        })?;
        Ok(Factor { r, u, diagonal, lambda: curvature.lambda })
    }
}

/// R over the live columns, turned by 180°: then it is a lower L, and what is above it is never touched.
fn lower(curvature: &Curvature<'_>) -> Result<Vec<f64>> {
    let live = &curvature.live;
    let k = live.len();
    let mut l = vec![0f64; k * k];
    slices::run(l.chunks_mut(slices::ROWS * k).enumerate().collect(), |(slice, rows)| {
        for (i, row) in (slice * slices::ROWS..).zip(rows.chunks_exact_mut(k)) {
            row.iter_mut().zip(curvature.upper_row(k - 1 - i).rev()).for_each(|(l, h)| *l = h);
        }
        Ok(())
    })?;
    factor(&mut l, k, |i, pivot| not_positive(live[k - 1 - i], pivot))?;
    Ok(l)
}

/// R over all columns from the turned one over the live columns.
fn scatter(l: &[f64], live: &[usize], cols: usize) -> Result<Vec<f32>> {
    let k = live.len();
    let mut r = vec![0f32; cols * cols];
    slices::run(r.chunks_mut(slices::ROWS * cols).enumerate().collect(), |(slice, rows)| {
        for (c, row) in (slice * slices::ROWS..).zip(rows.chunks_exact_mut(cols)) {
            match live.binary_search(&c) {
                Ok(a) => {
                    let turned = &l[(k - 1 - a) * k..][..k - a];
                    live[a..].iter().zip(turned.iter().rev()).for_each(|(j, l)| row[*j] = *l as f32);
                }
                Err(_) => row[c] = 1.0,
            }
        }
        Ok(())
    })?;
    Ok(r)
}

/// A = L·Lᵀ in place, in the lower triangle, panel by panel: each panel is corrected by those before it, factored, and the
/// rows below it are solved for. `wrong` makes the error for a pivot.
fn factor(a: &mut [f64], n: usize, wrong: impl Fn(usize, f64) -> Error) -> Result<()> {
    for first in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - first);
        let below = MatMut::from_row_major_slice_mut(&mut *a, n, n).subrows_mut(first, n - first);
        let (done, rest) = below.split_at_col_mut(first);
        let (before, mut panel) = (done.as_ref(), rest.subcols_mut(0, width));
        let top = before.subrows(0, width);
        let mut tasks = Vec::new();
        let mut left = panel.as_mut();
        for at in (0..n - first).step_by(slices::ROWS) {
            let (piece, others) = left.split_at_row_mut(slices::ROWS.min(n - first - at));
            tasks.push((piece, before.subrows(at, slices::ROWS.min(n - first - at))));
            left = others;
        }
        slices::run(tasks, |(piece, rows)| {
            matmul(piece, Accum::Add, rows, top.transpose(), -1.0, Par::Seq);
            Ok(())
        })?;
        let mut corner: Vec<f64> = (0..width * width).map(|i| panel[(i / width, i % width)]).collect();
        vectorised(|| cholesky(&mut corner, width)).map_err(|(i, pivot)| wrong(first + i, pivot))?;
        for i in 0..width {
            for j in 0..=i {
                panel[(i, j)] = corner[i * width + j];
            }
        }
        let corner = MatRef::from_row_major_slice(&corner, width, width);
        let mut tasks = Vec::new();
        let mut left = panel.subrows_mut(width, n - first - width);
        while left.nrows() > 0 {
            let rows = slices::ROWS.min(left.nrows());
            let (piece, others) = left.split_at_row_mut(rows);
            tasks.push(piece);
            left = others;
        }
        slices::run(tasks, |piece| {
            solve_lower_triangular_in_place(corner, piece.transpose_mut(), Par::Seq);
            Ok(())
        })?;
    }
    Ok(())
}

/// Inverse of the upper diagonal block of R at `first`, by back substitution.
#[inline(always)]
fn inverse(r: &[f32], cols: usize, first: usize, width: usize) -> Vec<f32> {
    let mut u = vec![0f64; width * width];
    for i in (0..width).rev() {
        let r_row = &r[(first + i) * cols + first..][..width];
        let (upper, below) = u.split_at_mut((i + 1) * width);
        let row = &mut upper[i * width..];
        row[i] = 1.0;
        for (k, below) in (i + 1..width).zip(below.chunks_exact(width)) {
            let factor = f64::from(r_row[k]);
            for j in k..width {
                row[j] -= factor * below[j];
            }
        }
        let pivot = f64::from(r_row[i]);
        row[i..].iter_mut().for_each(|x| *x /= pivot);
    }
    u.into_iter().map(|x| x as f32).collect()
}
