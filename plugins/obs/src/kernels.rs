//! Small loops that the compiler turns into vector instructions. Products and sums are not fused, so that every CPU type
//! rounds alike.

/// Runs `work` compiled for the vector instructions that the CPU has.
#[inline(always)]
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Σ a·b, in sixteen lanes.
#[inline(always)]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut lanes = [0f64; 16];
    for (a, b) in a.iter().zip(b) {
        for k in 0..16 {
            lanes[k] += a[k] * b[k];
        }
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + tail
}

/// y −= f·x.
#[inline(always)]
pub fn subtract(y: &mut [f64], f: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= f * x;
    }
}

/// y −= f·x.
#[inline(always)]
pub fn subtract_f32(y: &mut [f32], f: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= f * x;
    }
}

/// A pivot of a factorisation that is not positive beyond rounding, and where.
pub type Pivot = (usize, f64);

/// A = L·Lᵀ in place, in the lower triangle of an n × n matrix, row-major; above it nothing is read or written.
#[inline(always)]
pub fn cholesky(a: &mut [f64], n: usize) -> Result<(), Pivot> {
    for i in 0..n {
        let (above, rest) = a.split_at_mut(i * n);
        let row = &mut rest[..=i];
        for j in 0..i {
            let other = &above[j * n..=j * n + j];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let rounding = n as f64 * f64::EPSILON * row[i];
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if !(pivot > rounding && pivot.is_finite()) {
            return Err((i, pivot));
        }
        row[i] = pivot.sqrt();
    }
    Ok(())
}

/// Solves L·Lᵀ·x = b in place.
#[inline(always)]
pub fn solve(l: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        b[i] = (b[i] - dot(&l[i * n..][..i], &b[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let (before, x) = b.split_at_mut(i);
        x[0] /= l[i * n + i];
        subtract(before, x[0], &l[i * n..][..i]);
    }
}
