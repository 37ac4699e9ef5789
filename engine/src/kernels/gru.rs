//! Gated recurrent unit (Cho et al. 2014), as the ONNX operator defines it. One direction; gates in the order z r n.
//!
//! ```text
//! z = f(x·Wzᵀ + h₋·Rzᵀ + Wbz + Rbz)       r likewise
//! n = g(x·Wnᵀ + Wbn + (r ⊙ h₋)·Rnᵀ + Rbn)           or, linear before reset (as PyTorch and cuDNN have it):
//! n = g(x·Wnᵀ + Wbn + r ⊙ (h₋·Rnᵀ + Rbn))
//! h = (1 − z) ⊙ n + z ⊙ h₋
//! ```

use crate::buffer::Buf;
use crate::kernels::activation::{Activation, clip};
use crate::kernels::gemm::{Mat, gemm, matmul, matmul_add};
use crate::kernels::lstm::Gradients;
use crate::kernels::rnn::Weights;
use crate::kernels::sequence::{Sequence, add_column_sums, input_gradients, rows_of};
use crate::real::Real;

/// Attributes of one direction.
#[derive(Clone, Debug)]
pub struct Cell {
    /// f and g of the equations.
    pub activations: [Activation; 2],
    /// Limit of the pre-activations.
    pub clip: Option<f64>,
    /// The second form of n.
    pub linear_before_reset: bool,
}

/// What the forward pass leaves for the gradient.
pub struct Trace<R: Real> {
    /// z, r, n after their activations, [time, batch, 3H].
    pub gates: Buf<R>,
    /// h of all steps.
    pub h: Buf<R>,
    /// h₋·Rnᵀ + Rbn (linear before reset) or r ⊙ h₋, [time, batch, H].
    pub inner: Buf<R>,
}

/// Runs one direction over x [time, batch, I]. Weights: W [3H, I], R [3H, H], bias [6H].
pub fn forward<R: Real>(
    seq: &Sequence,
    cell: &Cell,
    wt: Weights<R>,
    x: &[R],
    inputs: usize,
    h0: Option<&[R]>,
) -> Trace<R> {
    let (hid, width, batch) = (seq.hidden, 3 * seq.hidden, seq.batch);
    let rows = seq.time * batch;
    let [f, g_act] = cell.activations;
    let zero = vec![R::ZERO; hid];
    let rb_n = wt.bias.map_or(&zero[..], |b| &b[5 * hid..]);
    let mut gates = match wt.bias {
        Some(b) => {
            let mut sum = b[..width].to_vec();
            super::add_into(&mut sum[..2 * hid], &b[width..width + 2 * hid]);
            if !cell.linear_before_reset {
                super::add_into(&mut sum[2 * hid..], rb_n);
            }
            rows_of(rows, &sum)
        }
        None => Buf::zeros(rows * width),
    };
    matmul_add(&mut gates, Mat::new(x, rows, inputs), Mat::new(wt.w, width, inputs).t());
    let (zr_weights, n_weights) = wt.r.split_at(2 * hid * hid);
    let mut h = seq.states(h0);
    let mut inner = rows_of(rows, rb_n);
    for t in seq.steps() {
        let g = &mut gates[t * batch * width..][..batch * width];
        let inner = &mut inner[t * seq.block()..][..seq.block()];
        let (old, new) = seq.around(&mut h, t);
        gemm(g, width, Mat::new(old, batch, hid), Mat::new(zr_weights, 2 * hid, hid).t(), true);
        for row in g.chunks_exact_mut(width) {
            clip(&mut row[..2 * hid], cell.clip);
            f.apply(&mut row[..2 * hid]);
        }
        let r = |g: &[R], i: usize| g[(i / hid) * width + hid + i % hid];
        if cell.linear_before_reset {
            matmul_add(inner, Mat::new(old, batch, hid), Mat::new(n_weights, hid, hid).t());
            for (i, v) in inner.iter().enumerate() {
                let reset = r(g, i);
                g[(i / hid) * width + 2 * hid + i % hid] += reset * *v;
            }
        } else {
            for (i, v) in inner.iter_mut().enumerate() {
                *v = r(g, i) * old[i];
            }
            let n = &mut g[2 * hid..];
            gemm(n, width, Mat::new(inner, batch, hid), Mat::new(n_weights, hid, hid).t(), true);
        }
        for (b, row) in g.chunks_exact_mut(width).enumerate() {
            let (zr, n) = row.split_at_mut(2 * hid);
            clip(n, cell.clip);
            g_act.apply(n);
            for j in 0..hid {
                let i = b * hid + j;
                new[i] = (R::ONE - zr[j]) * n[j] + zr[j] * old[i];
            }
        }
        seq.hold(t, old, new);
    }
    Trace { gates, h, inner }
}

/// The adjoint of [`forward`]; the trace's gates and inner are overwritten. `dh`: in, of the last state; out, of the
/// initial one.
#[allow(clippy::too_many_arguments)]
pub fn backward<R: Real>(
    seq: &Sequence,
    cell: &Cell,
    wt: Weights<R>,
    x: &[R],
    inputs: usize,
    trace: &mut Trace<R>,
    y: Option<&[R]>,
    dh: &mut [R],
    out: Gradients<R>,
) {
    let (hid, width, batch) = (seq.hidden, 3 * seq.hidden, seq.batch);
    let rows = seq.time * batch;
    let [f, g_act] = cell.activations;
    let slope = |a: Activation, y: R| {
        let mut ends = [R::ZERO; 2];
        if let Some(c) = cell.clip {
            ends = [R::of(-c), R::of(c)];
            a.apply(&mut ends);
        }
        if cell.clip.is_some() && (y <= ends[0] || y >= ends[1]) { R::ZERO } else { a.slope(y) }
    };
    let (zr_weights, n_weights) = wt.r.split_at(2 * hid * hid);
    let (zr_mat, n_mat) = (Mat::new(zr_weights, 2 * hid, hid), Mat::new(n_weights, hid, hid));
    // The gradient of n's recurrent product: differs from that of its pre-activation when linear before reset.
    let mut d_inner = Buf::zeros(rows * hid);
    let mut dh_old = vec![R::ZERO; seq.block()];
    for t in seq.steps().rev() {
        let g = &mut trace.gates[t * batch * width..][..batch * width];
        let inner = &trace.inner[t * seq.block()..][..seq.block()];
        let d_in = &mut d_inner[t * seq.block()..][..seq.block()];
        let old = seq.before(&trace.h, t);
        dh_old.fill(R::ZERO);
        // dn; dz; and in the linear form dr as well
        for b in 0..batch {
            let row = &mut g[b * width..(b + 1) * width];
            if !seq.active(t, b) {
                row.fill(R::ZERO);
                continue;
            }
            for j in 0..hid {
                let i = b * hid + j;
                let d = dh[i] + y.map_or(R::ZERO, |y| y[t * seq.block() + i]);
                let (z, r, n) = (row[j], row[hid + j], row[2 * hid + j]);
                let d_n = d * (R::ONE - z) * slope(g_act, n);
                row[j] = d * (old[i] - n) * slope(f, z);
                row[2 * hid + j] = d_n;
                dh_old[i] = d * z;
                if cell.linear_before_reset {
                    row[hid + j] = d_n * inner[i] * slope(f, r);
                    d_in[i] = d_n * r;
                } else {
                    d_in[i] = d_n;
                }
            }
        }
        if cell.linear_before_reset {
            matmul_add(&mut dh_old, Mat::new(d_in, batch, hid), n_mat);
        } else {
            let mut d_reset = vec![R::ZERO; seq.block()]; // of r ⊙ h₋
            matmul(&mut d_reset, Mat::new(d_in, batch, hid), n_mat);
            for b in (0..batch).filter(|b| seq.active(t, *b)) {
                for j in 0..hid {
                    let (i, r) = (b * hid + j, g[b * width + hid + j]);
                    dh_old[i] += d_reset[i] * r;
                    g[b * width + hid + j] = d_reset[i] * old[i] * slope(f, r);
                }
            }
        }
        matmul_add(&mut dh_old, Mat::strided(g, batch, 2 * hid, width), zr_mat);
        for b in (0..batch).filter(|b| seq.active(t, *b)) {
            let row = b * hid..(b + 1) * hid;
            dh[row.clone()].copy_from_slice(&dh_old[row]);
        }
    }
    input_gradients(&trace.gates, width, x, wt.w, inputs, out.x, out.w);
    if let Some(dr) = out.r {
        let before = Mat::new(seq.all_before(&trace.h), rows, hid);
        let (zr, n) = dr.split_at_mut(2 * hid * hid);
        matmul_add(zr, Mat::strided(&trace.gates, rows, 2 * hid, width).t(), before);
        let multiplied = if cell.linear_before_reset { before } else { Mat::new(&trace.inner, rows, hid) };
        matmul_add(n, Mat::new(&d_inner, rows, hid).t(), multiplied);
    }
    if let Some(db) = out.bias {
        let (wb, rb) = db.split_at_mut(width);
        add_column_sums(&trace.gates, wb);
        for row in trace.gates.chunks_exact(width) {
            super::add_into(&mut rb[..2 * hid], &row[..2 * hid]);
        }
        add_column_sums(&d_inner, &mut rb[2 * hid..]);
    }
}
