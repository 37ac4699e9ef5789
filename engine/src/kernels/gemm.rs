//! Matrix products, by the `gemm` crate, always on the calling thread: how work is cut into threads is decided above,
//! where it does not depend on how many there are.
#![allow(unsafe_code)]

use crate::real::Real;

/// A matrix that is looked at in a slice: element (r, c) at r · row_stride + c · col_stride.
#[derive(Clone, Copy)]
pub struct Mat<'a, R> {
    data: &'a [R],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, R: Real> Mat<'a, R> {
    /// A row-major matrix.
    pub fn new(data: &'a [R], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// Row-major with rows further apart than `cols`.
    pub fn strided(data: &'a [R], rows: usize, cols: usize, row_stride: usize) -> Self {
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Transposed.
    pub fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "{}×{} in {} elements", self.rows, self.cols, self.data.len());
        }
    }
}

/// dst = a·b, or dst += a·b. `dst` is row-major with `dst_stride` elements from row to row.
pub fn gemm<R: Real>(dst: &mut [R], dst_stride: usize, a: Mat<R>, b: Mat<R>, accumulate: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions");
    if m == 0 || n == 0 {
        return;
    }
    assert!(dst_stride >= n && (m - 1) * dst_stride + n <= dst.len(), "destination {m}×{n} in {}", dst.len());
    if k == 0 {
        if !accumulate {
            for row in dst.chunks_mut(dst_stride) {
                row[..n].fill(R::ZERO);
            }
        }
        return;
    }
    a.check();
    b.check();
    // SAFETY: all three matrices lie within their slices (checked above), dst is borrowed mutably so it overlaps
    // neither a nor b, and its rows do not overlap each other since dst_stride ≥ n.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            R::ONE,
            R::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// dst[m×n] = a·b, contiguous.
pub fn matmul<R: Real>(dst: &mut [R], a: Mat<R>, b: Mat<R>) {
    let n = b.cols;
    gemm(dst, n, a, b, false);
}

/// dst[m×n] += a·b, contiguous.
pub fn matmul_add<R: Real>(dst: &mut [R], a: Mat<R>, b: Mat<R>) {
    let n = b.cols;
    gemm(dst, n, a, b, true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_transposed_and_strided_matrices() {
        let a = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut d = [0.0f32; 4];
        matmul(&mut d, Mat::new(&a, 2, 3), Mat::new(&a, 2, 3).t());
        assert_eq!(d, [14.0, 32.0, 32.0, 77.0]);
        matmul_add(&mut d, Mat::strided(&a, 2, 2, 3), Mat::new(&[1.0, 0.0, 0.0, 1.0], 2, 2));
        assert_eq!(d, [15.0, 34.0, 36.0, 82.0]);
        matmul(&mut d, Mat::new(&[], 2, 0), Mat::new(&[], 0, 2));
        assert_eq!(d, [0.0; 4]);
    }
}
