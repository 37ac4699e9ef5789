//! Largest and mean element of moving windows.

use crate::kernels::conv::Window;
use crate::real::Real;

/// For each plane of x: the largest element of each window and its position within the plane (usize::MAX for a window
/// that lies in the padding).
pub fn max<R: Real>(w: &Window, x: &[R], y: &mut [R], at: &mut [usize]) {
    let (n_in, n_out) = (w.input_len(), w.output_len());
    y.fill(R::NEG_INFINITY);
    at.fill(usize::MAX);
    let planes =
        x.chunks_exact(n_in.max(1)).zip(y.chunks_exact_mut(n_out.max(1))).zip(at.chunks_exact_mut(n_out.max(1)));
    for ((x, y), at) in planes {
        w.visit(|_, o, i| {
            if at[o] == usize::MAX || x[i] > y[o] || x[i].is_nan() {
                (y[o], at[o]) = (x[i], i);
            }
        });
    }
}

/// How many elements each window's mean is taken over.
pub fn counts(w: &Window, include_pad: bool, pad_end: &[usize]) -> Vec<usize> {
    let mut n = vec![0; w.output_len()];
    if !include_pad {
        w.visit(|_, o, _| n[o] += 1);
        return n;
    }
    // With padding counted the window still ends where the padded input does (it matters with ceil_mode).
    let padded = Window {
        input: (0..w.input.len()).map(|d| w.input[d] + w.pad[d] + pad_end[d]).collect(),
        pad: vec![0; w.input.len()],
        ..w.clone()
    };
    padded.visit(|_, o, _| n[o] += 1);
    n
}

/// The mean of each window of each plane.
pub fn mean<R: Real>(w: &Window, counts: &[usize], x: &[R], y: &mut [R]) {
    y.fill(R::ZERO);
    for (x, y) in x.chunks_exact(w.input_len().max(1)).zip(y.chunks_exact_mut(w.output_len().max(1))) {
        w.visit(|_, o, i| y[o] += x[i]);
        for (v, n) in y.iter_mut().zip(counts) {
            *v /= R::count(*n);
        }
    }
}

/// The adjoint of [`mean`].
pub fn mean_back<R: Real>(w: &Window, counts: &[usize], dy: &[R], dx: &mut [R]) {
    for (dx, dy) in dx.chunks_exact_mut(w.input_len().max(1)).zip(dy.chunks_exact(w.output_len().max(1))) {
        w.visit(|_, o, i| dx[i] += dy[o] / R::count(counts[o]));
    }
}
