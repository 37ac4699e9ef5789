//! What a choice costs the layer: tr(ΔW·G·ΔWᵀ), the mean squared change of its outputs, without damping.

use compress_sdk::Result;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::hessian::Inputs;
use crate::layer::{Choice, Layer};
use crate::slices;

/// Σ over rows of δ·G·δᵀ.
pub fn trace(layer: &Layer, inputs: &Inputs<'_>, choice: &Choice) -> Result<f64> {
    let cols = layer.cols;
    let slices = inputs.slices(layer.rows, slices::ROWS);
    let mut sums = vec![0f64; slices.len()];
    slices::run(sums.iter_mut().zip(slices).collect(), |(sum, slice)| {
        let (from, upto) = (slice.rows.start * cols, slice.rows.end * cols);
        let delta: Vec<f32> =
            layer.weights[from..upto].iter().zip(&choice.weights[from..upto]).map(|(a, b)| a - b).collect();
        let mut product = vec![0f32; delta.len()];
        matmul(
            MatMut::from_row_major_slice_mut(&mut product, slice.rows.len(), cols),
            Accum::Replace,
            MatRef::from_row_major_slice(&delta, slice.rows.len(), cols),
            MatRef::from_row_major_slice(inputs.gram(slice.group), cols, cols),
            1.0f32,
            Par::Seq,
        );
        *sum = delta.iter().zip(&product).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        Ok(())
    })?;
    Ok(sums.iter().sum())
}
