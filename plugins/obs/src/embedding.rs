//! An embedding: its inputs are one-hot, so that H = diag(n) over its rows, and no weight can make up for another.

use compress_sdk::{Error, Result};

use crate::layer::{Choice, Layer, Quota};
use crate::magnitude::by_score;

/// The smallest n_row · w² go.
pub fn choose(layer: &Layer, quota: &Quota, row_count: &[f32]) -> Result<Choice> {
    if let Some(r) = row_count.iter().position(|n| !(*n >= 0.0 && n.is_finite())) {
        return Err(Error::new(format!("its evidence \"row_count\" is {} at {r}: measure it again", row_count[r])));
    }
    let root: Vec<f32> = row_count.iter().map(|n| n.sqrt()).collect();
    // The root of the score has the same order and stays in the range of f32.
    by_score(layer, quota, |i| root[i / layer.cols] * layer.weights[i])
}
