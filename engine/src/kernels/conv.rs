//! Convolution as matrix products over unfolded windows (im2col), in one to three spatial dimensions.

use crate::buffer::Buf;
use crate::kernels::gemm::{Mat, matmul, matmul_add};
use crate::real::Real;

/// How a kernel moves over the spatial dimensions. All lists have one entry a dimension.
#[derive(Clone, Debug)]
pub struct Window {
    /// Input sizes.
    pub input: Vec<usize>,
    /// Kernel sizes.
    pub kernel: Vec<usize>,
    /// Steps.
    pub stride: Vec<usize>,
    /// Distances between kernel elements.
    pub dilation: Vec<usize>,
    /// Padding before the input.
    pub pad: Vec<usize>,
    /// Output sizes.
    pub output: Vec<usize>,
}

impl Window {
    /// Number of input positions.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Number of kernel elements.
    pub fn kernel_len(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Number of output positions.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Calls `visit(kernel element, output position, input position)` for every pair within the input, kernel-major.
    pub fn visit(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let rank = self.input.len();
        let last = rank - 1;
        let mut k = vec![0usize; rank];
        for ke in 0..self.kernel_len() {
            let mut o = vec![0usize; last];
            let outer: usize = self.output[..last].iter().product();
            for oe in 0..outer {
                if let Some(base) = self.place(&o, &k[..last]) {
                    let shift = k[last] * self.dilation[last];
                    for x in 0..self.output[last] {
                        let at = x * self.stride[last] + shift;
                        if at >= self.pad[last] && at - self.pad[last] < self.input[last] {
                            let from = base * self.input[last] + at - self.pad[last];
                            visit(ke, oe * self.output[last] + x, from);
                        }
                    }
                }
                advance(&mut o, &self.output);
            }
            advance(&mut k, &self.kernel);
        }
    }

    /// Input position of the leading dimensions, unless it lies in the padding.
    fn place(&self, o: &[usize], k: &[usize]) -> Option<usize> {
        let mut base = 0;
        for d in 0..o.len() {
            let at = (o[d] * self.stride[d] + k[d] * self.dilation[d]).checked_sub(self.pad[d])?;
            if at >= self.input[d] {
                return None;
            }
            base = base * self.input[d] + at;
        }
        Some(base)
    }
}

fn advance(index: &mut [usize], limits: &[usize]) {
    for d in (0..index.len()).rev() {
        index[d] += 1;
        if index[d] < limits[d] {
            return;
        }
        index[d] = 0;
    }
}

/// cols [channels · kernel, output] of one image [channels, input].
pub fn unfold<R: Real>(w: &Window, x: &[R], channels: usize, cols: &mut [R]) {
    let (n_in, n_out, n_k) = (w.input_len(), w.output_len(), w.kernel_len());
    cols.fill(R::ZERO);
    w.visit(|k, o, i| {
        for c in 0..channels {
            cols[(c * n_k + k) * n_out + o] = x[c * n_in + i];
        }
    });
}

/// The adjoint of [`unfold`].
pub fn fold<R: Real>(w: &Window, cols: &[R], channels: usize, x: &mut [R]) {
    let (n_in, n_out, n_k) = (w.input_len(), w.output_len(), w.kernel_len());
    w.visit(|k, o, i| {
        for c in 0..channels {
            x[c * n_in + i] += cols[(c * n_k + k) * n_out + o];
        }
    });
}

/// Sizes of a convolution besides its window.
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    /// Images.
    pub batch: usize,
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Groups.
    pub groups: usize,
}

/// y [batch, output, ·] = x [batch, input, ·] ∗ k [output, input / groups, ·] + bias.
pub fn forward<R: Real>(w: &Window, ch: Channels, x: &[R], kernel: &[R], bias: Option<&[R]>, y: &mut [R]) {
    let (n_in, n_out, n_k) = (w.input_len(), w.output_len(), w.kernel_len());
    let (cin, cout) = (ch.input / ch.groups, ch.output / ch.groups);
    let mut cols = Buf::stale(cin * n_k * n_out);
    for b in 0..ch.batch {
        for g in 0..ch.groups {
            let x = &x[(b * ch.input + g * cin) * n_in..][..cin * n_in];
            let y = &mut y[(b * ch.output + g * cout) * n_out..][..cout * n_out];
            let kernel = &kernel[g * cout * cin * n_k..][..cout * cin * n_k];
            unfold(w, x, cin, &mut cols);
            for (c, row) in y.chunks_exact_mut(n_out.max(1)).enumerate() {
                row.fill(bias.map_or(R::ZERO, |b| b[g * cout + c]));
            }
            matmul_add(y, Mat::new(kernel, cout, cin * n_k), Mat::new(&cols, cin * n_k, n_out));
        }
    }
}

/// The adjoint of [`forward`]: adds to whichever gradients are wanted.
#[allow(clippy::too_many_arguments)]
pub fn backward<R: Real>(
    w: &Window,
    ch: Channels,
    x: &[R],
    kernel: &[R],
    dy: &[R],
    mut dx: Option<&mut [R]>,
    mut dk: Option<&mut [R]>,
    mut db: Option<&mut [R]>,
) {
    let (n_in, n_out, n_k) = (w.input_len(), w.output_len(), w.kernel_len());
    let (cin, cout) = (ch.input / ch.groups, ch.output / ch.groups);
    let mut cols = Buf::stale(cin * n_k * n_out);
    for b in 0..ch.batch {
        for g in 0..ch.groups {
            let dy = &dy[(b * ch.output + g * cout) * n_out..][..cout * n_out];
            let image = (b * ch.input + g * cin) * n_in..(b * ch.input + (g + 1) * cin) * n_in;
            let kernels = g * cout * cin * n_k..(g + 1) * cout * cin * n_k;
            if let Some(db) = db.as_deref_mut() {
                for (c, row) in dy.chunks_exact(n_out.max(1)).enumerate() {
                    db[g * cout + c] += super::lane_sum(row, |v| v);
                }
            }
            if let Some(dk) = dk.as_deref_mut() {
                unfold(w, &x[image.clone()], cin, &mut cols);
                let dk = &mut dk[kernels.clone()];
                matmul_add(dk, Mat::new(dy, cout, n_out), Mat::new(&cols, cin * n_k, n_out).t());
            }
            if let Some(dx) = dx.as_deref_mut() {
                let kernel = Mat::new(&kernel[kernels], cout, cin * n_k).t();
                matmul(&mut cols, kernel, Mat::new(dy, cout, n_out));
                fold(w, &cols, cin, &mut dx[image]);
            }
        }
    }
}
