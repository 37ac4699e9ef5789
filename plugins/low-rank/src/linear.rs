//! The linear algebra: faer's, always sequential, and large products cut into a constant number of slices, so that the
//! result is the same for any number of threads.

use compress_sdk::{Error, Result};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::householder as reflectors;
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::svd::{ComputeSvdVectors::Thin, svd, svd_scratch};
use faer::{Accum, Conj, Mat, MatRef, Par};
use rayon::prelude::*;

/// Slices of a product.
const SLICES: usize = 32;
/// Multiplications below which a product is not worth cutting.
const SMALL: usize = 1 << 20;

/// X·Y.
pub fn product(x: MatRef<'_, f32>, y: MatRef<'_, f32>) -> Mat<f32> {
    let (rows, cols) = (x.nrows(), y.ncols());
    let mut out = Mat::zeros(rows, cols);
    if rows.saturating_mul(x.ncols()).saturating_mul(cols) < SMALL {
        matmul(out.as_mut(), Accum::Replace, x, y, 1.0, Par::Seq);
        return out;
    }
    let step = rows.div_ceil(SLICES).max(1);
    let firsts: Vec<usize> = (0..rows).step_by(step).collect();
    let slice = |first: &usize| {
        let count = step.min(rows - first);
        let mut slice = Mat::zeros(count, cols);
        matmul(slice.as_mut(), Accum::Replace, x.subrows(*first, count), y, 1.0, Par::Seq);
        slice
    };
    let slices: Vec<Mat<f32>> = firsts.par_iter().map(slice).collect();
    for (first, slice) in firsts.iter().zip(&slices) {
        out.as_mut().subrows_mut(*first, slice.nrows()).copy_from(slice);
    }
    out
}

/// An orthonormal basis of the columns of X (rows ≥ columns).
pub fn basis(mut x: Mat<f32>) -> Mat<f32> {
    let (rows, cols) = (x.nrows(), x.ncols());
    let size = rows.min(cols);
    let block = qr::recommended_block_size::<f32>(rows, cols);
    let mut factor = Mat::zeros(block, size);
    let scratch = qr::qr_in_place_scratch::<f32>(rows, cols, block, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    qr::qr_in_place(x.as_mut(), factor.as_mut(), Par::Seq, MemStack::new(&mut memory), Default::default());
    let mut q = Mat::identity(rows, size);
    let scratch = reflectors::apply_block_householder_sequence_on_the_left_in_place_scratch::<f32>(rows, block, size);
    reflectors::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        x.as_ref().subcols(0, size),
        factor.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    q
}

/// X = U·diag(s)·Vᵀ, thin, s falling.
pub struct Svd {
    pub u: Mat<f32>,
    pub s: Vec<f32>,
    pub v: Mat<f32>,
}

/// The singular value decomposition.
pub fn decompose(x: MatRef<'_, f32>) -> Result<Svd> {
    let (rows, cols) = (x.nrows(), x.ncols());
    let size = rows.min(cols);
    let (mut u, mut v, mut s) = (Mat::zeros(rows, size), Mat::zeros(cols, size), Diag::zeros(size));
    let scratch = svd_scratch::<f32>(rows, cols, Thin, Thin, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let (left, right) = (Some(u.as_mut()), Some(v.as_mut()));
    svd(x, s.as_mut(), left, right, Par::Seq, MemStack::new(&mut memory), Default::default()).map_err(|_| {
        Error::new("the singular value decomposition does not converge: the part holds NaN or infinity")
    })?;
    let s = s.column_vector().iter().copied().collect();
    Ok(Svd { u, s, v })
}

/// L of G = L·Lᵀ, lower triangular. An error where G is not positive definite.
pub fn cholesky(mut g: Mat<f64>) -> Result<Mat<f32>> {
    let n = g.nrows();
    let scratch = llt::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    llt::cholesky_in_place(g.as_mut(), Default::default(), Par::Seq, stack, Default::default())
        .map_err(|_| Error::new("its Gram matrix is not positive definite; raise \"damping\""))?;
    Ok(Mat::from_fn(n, n, |r, c| if r >= c { g[(r, c)] as f32 } else { 0.0 }))
}

/// Σ x².
pub fn energy(x: MatRef<'_, f32>) -> f64 {
    (0..x.ncols()).map(|c| x.col(c).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, spread};

    fn identity(x: &Mat<f32>) -> f32 {
        let product = x.transpose() * x;
        spread(&(product - Mat::<f32>::identity(x.ncols(), x.ncols())))
    }

    #[test]
    fn a_product_in_slices_is_the_product() {
        for (m, k, n) in [(1, 1, 1), (0, 3, 2), (3, 0, 2), (300, 200, 33), (7, 40_000, 9), (65, 1000, 64)] {
            let (x, y) = (noise(m, k, 1), noise(k, n, 2));
            assert!(spread(&(product(x.as_ref(), y.as_ref()) - &x * &y)) < 1e-3, "{m} × {k} × {n}");
        }
    }

    #[test]
    fn a_basis_is_orthonormal_even_of_dependent_columns() {
        let x = noise(50, 8, 1);
        let dependent = Mat::from_fn(50, 8, |r, c| x[(r, c / 4)]);
        for x in [x, dependent, Mat::zeros(50, 8), Mat::from_fn(50, 8, |r, c| f32::from(r == 3 && c == 5))] {
            let q = basis(x.clone());
            assert!(identity(&q) < 1e-5);
            let projected = &q * (q.transpose() * &x);
            assert!(spread(&(projected - &x)) < 1e-4);
        }
    }

    #[test]
    fn a_decomposition_multiplies_back() {
        for (m, n) in [(1, 1), (5, 3), (3, 5), (200, 20), (40, 40)] {
            let x = noise(m, n, 3);
            let svd = decompose(x.as_ref()).unwrap();
            let scaled = Mat::from_fn(m, m.min(n), |r, c| svd.u[(r, c)] * svd.s[c]);
            assert!(spread(&(scaled * svd.v.transpose() - &x)) < 1e-4, "{m} × {n}");
            assert!(identity(&svd.u) < 1e-5 && identity(&svd.v) < 1e-5);
            assert!(svd.s.is_sorted_by(|a, b| a >= b));
        }
    }

    /// G = [[4, 2], [2, 5]] = L·Lᵀ with L = [[2, 0], [1, 2]].
    #[test]
    fn cholesky_by_hand() {
        let g = |last: f64| Mat::from_fn(2, 2, |r, c| [[4.0, 2.0], [2.0, last]][r][c]);
        let l = cholesky(g(5.0)).unwrap();
        assert_eq!([l[(0, 0)], l[(0, 1)], l[(1, 0)], l[(1, 1)]], [2.0, 0.0, 1.0, 2.0]);
        assert!(cholesky(g(0.5)).is_err());
    }
}
