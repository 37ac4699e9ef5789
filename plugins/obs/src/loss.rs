//! What a choice costs the layer: tr(ΔW·G·ΔWᵀ), the mean squared change of its outputs, without damping.

use compress_sdk::Result;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::hessian::Inputs;
use crate::layer::{Choice, Layer};
use crate::slices;

/// Columns at once.
const COLUMNS: usize = 256;

/// Σ over rows of δ·G·δᵀ. G is symmetric but for rounding, so the half above its diagonal blocks counts twice:
/// δ·G·δᵀ = Σ_B (2 δ_<B G_<B,B + δ_B G_BB) δ_Bᵀ.
pub fn trace(layer: &Layer, inputs: &Inputs<'_>, choice: &Choice) -> Result<f64> {
    let cols = layer.cols;
    let slices = inputs.slices(layer.rows, slices::ROWS);
    let mut sums = vec![0f64; slices.len()];
    slices::run(sums.iter_mut().zip(slices).collect(), |(sum, slice)| {
        let (from, upto, rows) = (slice.rows.start * cols, slice.rows.end * cols, slice.rows.len());
        let delta: Vec<f32> =
            layer.weights[from..upto].iter().zip(&choice.weights[from..upto]).map(|(a, b)| a - b).collect();
        let mut product = vec![0f32; rows * COLUMNS.min(cols)];
        let all = MatRef::from_row_major_slice(&delta, rows, cols);
        let gram = MatRef::from_row_major_slice(inputs.gram(slice.group), cols, cols);
        for first in (0..cols).step_by(COLUMNS) {
            let width = COLUMNS.min(cols - first);
            let product = &mut product[..rows * width];
            let mut into = MatMut::from_row_major_slice_mut(product, rows, width);
            let block = gram.subcols(first, width);
            let own = all.subcols(first, width);
            matmul(into.as_mut(), Accum::Replace, own, block.subrows(first, width), 1.0f32, Par::Seq);
            matmul(into, Accum::Add, all.subcols(0, first), block.subrows(0, first), 2.0f32, Par::Seq);
            for (product, delta) in product.chunks_exact(width).zip(delta.chunks_exact(cols)) {
                let pairs = product.iter().zip(&delta[first..first + width]);
                *sum += pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            }
        }
        Ok(())
    })?;
    Ok(sums.iter().sum())
}
