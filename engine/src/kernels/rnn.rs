//! The simple recurrent layer (Elman 1990): h = f(x·Wᵀ + h₋·Rᵀ + Wb + Rb). One direction.

use crate::buffer::Buf;
use crate::kernels::activation::{Activation, clip};
use crate::kernels::gemm::{Mat, matmul, matmul_add};
use crate::kernels::lstm::Gradients;
use crate::kernels::sequence::{Sequence, add_column_sums, input_gradients, rows_of};
use crate::real::Real;

/// Weights of one direction: W [H, I], R [H, H], bias [2H].
#[derive(Clone, Copy)]
pub struct Weights<'a, R> {
    /// From below.
    pub w: &'a [R],
    /// Recurrent.
    pub r: &'a [R],
    /// Both biases.
    pub bias: Option<&'a [R]>,
}

/// Runs one direction over x [time, batch, I]; gives the states of all steps.
pub fn forward<R: Real>(
    seq: &Sequence,
    f: Activation,
    limit: Option<f64>,
    wt: Weights<R>,
    x: &[R],
    inputs: usize,
    h0: Option<&[R]>,
) -> Buf<R> {
    let (hid, rows) = (seq.hidden, seq.time * seq.batch);
    let mut pre = match wt.bias {
        Some(b) => rows_of(rows, &b[..hid].iter().zip(&b[hid..]).map(|(a, b)| *a + *b).collect::<Vec<_>>()),
        None => Buf::zeros(rows * hid),
    };
    matmul_add(&mut pre, Mat::new(x, rows, inputs), Mat::new(wt.w, hid, inputs).t());
    let mut h = seq.states(h0);
    for t in seq.steps() {
        let (old, new) = seq.around(&mut h, t);
        new.copy_from_slice(&pre[t * seq.block()..][..seq.block()]);
        matmul_add(new, Mat::new(old, seq.batch, hid), Mat::new(wt.r, hid, hid).t());
        clip(new, limit);
        f.apply(new);
        seq.hold(t, old, new);
    }
    h
}

/// The adjoint of [`forward`]. `dh`: in, of the last state; out, of the initial one.
#[allow(clippy::too_many_arguments)]
pub fn backward<R: Real>(
    seq: &Sequence,
    f: Activation,
    limit: Option<f64>,
    wt: Weights<R>,
    x: &[R],
    inputs: usize,
    h: &[R],
    y: Option<&[R]>,
    dh: &mut [R],
    out: Gradients<R>,
) {
    let (hid, rows) = (seq.hidden, seq.time * seq.batch);
    let ends = limit.map(|c| {
        let mut ends = [R::of(-c), R::of(c)];
        f.apply(&mut ends);
        ends
    });
    let mut pre = Buf::zeros(rows * hid);
    let mut dh_old = vec![R::ZERO; seq.block()];
    for t in seq.steps().rev() {
        let g = &mut pre[t * seq.block()..][..seq.block()];
        let new = seq.after(h, t);
        for b in (0..seq.batch).filter(|b| seq.active(t, *b)) {
            for j in b * hid..(b + 1) * hid {
                let d = dh[j] + y.map_or(R::ZERO, |y| y[t * seq.block() + j]);
                let clipped = ends.is_some_and(|[low, high]| new[j] <= low || new[j] >= high);
                g[j] = if clipped { R::ZERO } else { d * f.slope(new[j]) };
            }
        }
        matmul(&mut dh_old, Mat::new(g, seq.batch, hid), Mat::new(wt.r, hid, hid));
        for b in (0..seq.batch).filter(|b| seq.active(t, *b)) {
            let row = b * hid..(b + 1) * hid;
            dh[row.clone()].copy_from_slice(&dh_old[row]);
        }
    }
    input_gradients(&pre, hid, x, wt.w, inputs, out.x, out.w);
    if let Some(dr) = out.r {
        matmul_add(dr, Mat::new(&pre, rows, hid).t(), Mat::new(seq.all_before(h), rows, hid));
    }
    if let Some(db) = out.bias {
        let (a, b) = db.split_at_mut(hid);
        add_column_sums(&pre, a);
        add_column_sums(&pre, b);
    }
}
