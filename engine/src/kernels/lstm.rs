//! Long short-term memory (Hochreiter & Schmidhuber 1997; peepholes: Gers & Schmidhuber 2000), as the ONNX operator
//! defines it. One direction; gates in the order i o f c.
//!
//! ```text
//! i = f(x·Wiᵀ + h·Riᵀ + Wbi + Rbi + Pi ⊙ c₋)     f likewise with Pf (or f = 1 − i)
//! g = g(x·Wcᵀ + h·Rcᵀ + Wbc + Rbc)               c = f ⊙ c₋ + i ⊙ g
//! o = f(x·Woᵀ + h·Roᵀ + Wbo + Rbo + Po ⊙ c)      h = o ⊙ h(c)
//! ```

use crate::buffer::Buf;
use crate::kernels::activation::{Activation, clip};
use crate::kernels::gemm::{Mat, matmul, matmul_add};
use crate::kernels::sequence::{Sequence, add_column_sums, input_gradients, rows_of};
use crate::kernels::simd;
use crate::real::Real;

/// Attributes of one direction.
#[derive(Clone, Debug)]
pub struct Cell {
    /// f, g and h of the equations.
    pub activations: [Activation; 3],
    /// Limit of the pre-activations.
    pub clip: Option<f64>,
    /// f = 1 − i.
    pub coupled: bool,
}

/// Weights of one direction: W [4H, I], R [4H, H], bias [8H] (W's, then R's), peepholes [3H] (i o f).
#[derive(Clone, Copy)]
pub struct Weights<'a, R> {
    /// From below.
    pub w: &'a [R],
    /// Recurrent.
    pub r: &'a [R],
    /// Both biases.
    pub bias: Option<&'a [R]>,
    /// From the cell to the gates.
    pub peephole: Option<&'a [R]>,
}

/// What the forward pass leaves for the gradient (and the outputs to be read from).
pub struct Trace<R: Real> {
    /// Gates after their activations, [time, batch, 4H].
    pub gates: Buf<R>,
    /// h of all steps, see [`Sequence::states`].
    pub h: Buf<R>,
    /// c of all steps.
    pub c: Buf<R>,
}

/// Runs one direction over x [time, batch, I].
pub fn forward<R: Real>(
    seq: &Sequence,
    cell: &Cell,
    wt: Weights<R>,
    x: &[R],
    inputs: usize,
    h0: Option<&[R]>,
    c0: Option<&[R]>,
) -> Trace<R> {
    let (hid, batch, width) = (seq.hidden, seq.batch, 4 * seq.hidden);
    let rows = seq.time * batch;
    let mut gates = match wt.bias {
        Some(b) => rows_of(rows, &b[..width].iter().zip(&b[width..]).map(|(a, b)| *a + *b).collect::<Vec<_>>()),
        None => Buf::zeros(rows * width),
    };
    matmul_add(&mut gates, Mat::new(x, rows, inputs), Mat::new(wt.w, width, inputs).t());
    let (mut h, mut c) = (seq.states(h0), seq.states(c0));
    let recurrent = Mat::new(wt.r, width, hid).t();
    for t in seq.steps() {
        let g = &mut gates[t * batch * width..][..batch * width];
        let (h_old, h_new) = seq.around(&mut h, t);
        let (c_old, c_new) = seq.around(&mut c, t);
        matmul_add(g, Mat::new(h_old, batch, hid), recurrent);
        let rows = g.chunks_exact_mut(width).zip(c_old.chunks_exact(hid));
        for (((g, c_old), c_new), h_new) in rows.zip(c_new.chunks_exact_mut(hid)).zip(h_new.chunks_exact_mut(hid)) {
            step(cell, wt.peephole, g, c_old, c_new, h_new);
        }
        seq.hold(t, h_old, h_new);
        seq.hold(t, c_old, c_new);
    }
    Trace { gates, h, c }
}

/// One step of one sequence; `g` holds the four pre-activations and becomes the four gates.
fn step<R: Real>(cell: &Cell, peephole: Option<&[R]>, g: &mut [R], c_old: &[R], c_new: &mut [R], h_new: &mut [R]) {
    let n = c_old.len();
    let [f, gg, hh] = cell.activations;
    if [f, gg, hh] == [Activation::Sigmoid, Activation::Tanh, Activation::Tanh]
        && !cell.coupled
        && cell.clip.is_none()
        && peephole.is_none()
    {
        return plain_step(g, c_old, c_new, h_new);
    }
    let (i_gate, rest) = g.split_at_mut(n);
    let (o_gate, rest) = rest.split_at_mut(n);
    let (f_gate, c_gate) = rest.split_at_mut(n);
    if let Some(p) = peephole {
        for j in 0..n {
            i_gate[j] += p[j] * c_old[j];
            f_gate[j] += p[2 * n + j] * c_old[j];
        }
    }
    clip(i_gate, cell.clip);
    clip(f_gate, cell.clip);
    clip(c_gate, cell.clip);
    f.apply(i_gate);
    f.apply(f_gate);
    gg.apply(c_gate);
    for j in 0..n {
        if cell.coupled {
            f_gate[j] = R::ONE - i_gate[j];
        }
        c_new[j] = f_gate[j] * c_old[j] + i_gate[j] * c_gate[j];
        if let Some(p) = peephole {
            o_gate[j] += p[n + j] * c_new[j];
        }
        h_new[j] = c_new[j];
    }
    clip(o_gate, cell.clip);
    f.apply(o_gate);
    hh.apply(h_new);
    for j in 0..n {
        h_new[j] *= o_gate[j];
    }
}

/// The step with default activations and nothing optional: what nearly every model has.
fn plain_step<R: Real>(g: &mut [R], c_old: &[R], c_new: &mut [R], h_new: &mut [R]) {
    let n = c_old.len();
    simd(
        #[inline(always)]
        || {
            for v in &mut g[..3 * n] {
                *v = v.sigmoid();
            }
            for v in &mut g[3 * n..] {
                *v = v.tanh();
            }
            let (i, rest) = g.split_at(n);
            let (o, rest) = rest.split_at(n);
            let (f, c) = (&rest[..n], &rest[n..2 * n]);
            let (c_old, c_new, h_new) = (&c_old[..n], &mut c_new[..n], &mut h_new[..n]);
            for j in 0..n {
                c_new[j] = f[j] * c_old[j] + i[j] * c[j];
                h_new[j] = o[j] * c_new[j].tanh();
            }
        },
    );
}

/// Where gradients are added to; only those wanted.
pub struct Gradients<'a, R> {
    /// [time, batch, I]
    pub x: Option<&'a mut [R]>,
    /// [4H, I]
    pub w: Option<&'a mut [R]>,
    /// [4H, H]
    pub r: Option<&'a mut [R]>,
    /// [8H]
    pub bias: Option<&'a mut [R]>,
    /// [3H]
    pub peephole: Option<&'a mut [R]>,
}

/// Gradients of outputs: y [time, batch, H], and of the last states (which become those of the initial states).
pub struct Upstream<'a, R> {
    /// Of all h.
    pub y: Option<&'a [R]>,
    /// In: of the last h; out: of the initial h.
    pub h: &'a mut [R],
    /// In: of the last c; out: of the initial c.
    pub c: &'a mut [R],
}

/// The adjoint of [`forward`]; `trace.gates` is overwritten by the pre-activations' gradients.
pub fn backward<R: Real>(
    seq: &Sequence,
    cell: &Cell,
    wt: Weights<R>,
    x: &[R],
    inputs: usize,
    trace: &mut Trace<R>,
    up: Upstream<R>,
    mut out: Gradients<R>,
) {
    let (hid, batch, width) = (seq.hidden, seq.batch, 4 * seq.hidden);
    let (dh, dc) = (up.h, up.c);
    let mut dh_old = vec![R::ZERO; batch * hid];
    let mut peep = out.peephole.as_deref_mut();
    for t in seq.steps().rev() {
        let g = &mut trace.gates[t * batch * width..][..batch * width];
        let (c_old, c_new) = (seq.before(&trace.c, t), seq.after(&trace.c, t));
        for b in 0..batch {
            let (lo, hi) = (b * hid, (b + 1) * hid);
            let g = &mut g[b * width..(b + 1) * width];
            if !seq.active(t, b) {
                g.fill(R::ZERO);
                continue;
            }
            if let Some(y) = up.y {
                super::add_into(&mut dh[lo..hi], &y[t * batch * hid..][lo..hi]);
            }
            step_back(
                cell,
                wt.peephole,
                g,
                &c_old[lo..hi],
                &c_new[lo..hi],
                &dh[lo..hi],
                &mut dc[lo..hi],
                peep.as_deref_mut(),
            );
        }
        matmul(&mut dh_old, Mat::new(g, batch, width), Mat::new(wt.r, width, hid));
        for b in (0..batch).filter(|b| seq.active(t, *b)) {
            let row = b * hid..(b + 1) * hid;
            dh[row.clone()].copy_from_slice(&dh_old[row]);
        }
    }
    let rows = seq.time * batch;
    input_gradients(&trace.gates, width, x, wt.w, inputs, out.x, out.w);
    if let Some(dr) = out.r {
        let before = seq.all_before(&trace.h);
        matmul_add(dr, Mat::new(&trace.gates, rows, width).t(), Mat::new(before, rows, hid));
    }
    if let Some(db) = out.bias {
        let mut sum = vec![R::ZERO; width];
        add_column_sums(&trace.gates, &mut sum);
        super::add_into(&mut db[..width], &sum);
        super::add_into(&mut db[width..], &sum);
    }
}

/// One step of one sequence backwards: gates become the gradients of the pre-activations, dc that of the old cell.
#[allow(clippy::too_many_arguments)]
fn step_back<R: Real>(
    cell: &Cell,
    peephole: Option<&[R]>,
    g: &mut [R],
    c_old: &[R],
    c_new: &[R],
    dh: &[R],
    dc: &mut [R],
    peep_grad: Option<&mut [R]>,
) {
    let n = c_old.len();
    let [f, gg, hh] = cell.activations;
    if [f, gg, hh] == [Activation::Sigmoid, Activation::Tanh, Activation::Tanh]
        && !cell.coupled
        && cell.clip.is_none()
        && peephole.is_none()
    {
        return plain_step_back(g, c_old, c_new, dh, dc);
    }
    let mut h_of_c = c_new.to_vec();
    hh.apply(&mut h_of_c);
    let limit = |a: Activation| {
        cell.clip.map(|c| {
            let mut ends = [R::of(-c), R::of(c)];
            a.apply(&mut ends);
            ends
        })
    };
    let (limit_f, limit_g) = (limit(f), limit(gg));
    let slope = |a: Activation, y: R, limit: Option<[R; 2]>| match limit {
        Some([low, high]) if y <= low || y >= high => R::ZERO,
        _ => a.slope(y),
    };
    let p = |k: usize, j: usize| peephole.map_or(R::ZERO, |p| p[k * n + j]);
    let mut peep_grad = peep_grad;
    for j in 0..n {
        let (i, o, fg, c) = (g[j], g[n + j], g[2 * n + j], g[3 * n + j]);
        let d_o = dh[j] * h_of_c[j] * slope(f, o, limit_f);
        let d_cell = dc[j] + dh[j] * o * hh.slope(h_of_c[j]) + d_o * p(1, j);
        let mut d_i = d_cell * c;
        let mut d_f = d_cell * c_old[j];
        if cell.coupled {
            d_i -= d_f;
            d_f = R::ZERO;
        }
        let d_i = d_i * slope(f, i, limit_f);
        let d_f = if cell.coupled { R::ZERO } else { d_f * slope(f, fg, limit_f) };
        let d_c = d_cell * i * slope(gg, c, limit_g);
        (g[j], g[n + j], g[2 * n + j], g[3 * n + j]) = (d_i, d_o, d_f, d_c);
        dc[j] = d_cell * fg + d_i * p(0, j) + d_f * p(2, j);
        if let Some(dp) = peep_grad.as_deref_mut() {
            dp[j] += d_i * c_old[j];
            dp[n + j] += d_o * c_new[j];
            dp[2 * n + j] += d_f * c_old[j];
        }
    }
}

fn plain_step_back<R: Real>(g: &mut [R], c_old: &[R], c_new: &[R], dh: &[R], dc: &mut [R]) {
    let n = c_old.len();
    simd(
        #[inline(always)]
        || {
            let (i, rest) = g.split_at_mut(n);
            let (o, rest) = rest.split_at_mut(n);
            let (f, c) = rest.split_at_mut(n);
            let (c_old, c_new, dh, dc, c) = (&c_old[..n], &c_new[..n], &dh[..n], &mut dc[..n], &mut c[..n]);
            for j in 0..n {
                let y = c_new[j].tanh();
                let (iv, ov, fv, cv) = (i[j], o[j], f[j], c[j]);
                let d_cell = dc[j] + dh[j] * ov * (R::ONE - y * y);
                o[j] = dh[j] * y * ov * (R::ONE - ov);
                i[j] = d_cell * cv * iv * (R::ONE - iv);
                f[j] = d_cell * c_old[j] * fv * (R::ONE - fv);
                c[j] = d_cell * iv * (R::ONE - cv * cv);
                dc[j] = d_cell * fv;
            }
        },
    );
}
