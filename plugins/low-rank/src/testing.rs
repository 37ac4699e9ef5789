//! Matrices for tests.

use faer::Mat;

use crate::linear::basis;
use crate::random::Normal;

/// Normal random numbers.
pub fn noise(rows: usize, cols: usize, seed: u64) -> Mat<f32> {
    let mut normal = Normal::new(seed);
    Mat::from_fn(rows, cols, |_, _| normal.draw())
}

/// A matrix with these singular values, in random directions.
pub fn with_spectrum(rows: usize, cols: usize, spectrum: &dyn Fn(usize) -> f32) -> Mat<f32> {
    let size = rows.min(cols);
    let (u, v) = (basis(noise(rows, size, 8)), basis(noise(cols, size, 9)));
    let scaled = Mat::from_fn(rows, size, |r, c| u[(r, c)] * spectrum(c));
    scaled * v.transpose()
}

/// The largest |x|.
pub fn spread(x: &Mat<f32>) -> f32 {
    (0..x.ncols()).flat_map(|c| x.col(c).iter()).fold(0f32, |m, v| if v.is_nan() { f32::NAN } else { m.max(v.abs()) })
}
