//! What the recurrent kernels share: the order of steps, states of all steps, and sequences of different length.

use crate::buffer::Buf;
use crate::kernels::gemm::{Mat, matmul_add};
use crate::real::Real;

/// One direction of a recurrent layer over [time, batch, ·] arrays.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Number of steps.
    pub time: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Width of the state.
    pub hidden: usize,
    /// From the last step to the first.
    pub reverse: bool,
    /// Steps of each sequence, where they differ: later ones give 0 and leave the state alone.
    pub lengths: Option<Vec<usize>>,
}

impl Sequence {
    /// Time indices in the order of computation.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let (time, reverse) = (self.time, self.reverse);
        (0..time).map(move |s| if reverse { time - 1 - s } else { s })
    }

    /// Elements of a state block.
    pub fn block(&self) -> usize {
        self.batch * self.hidden
    }

    /// Storage for the states of all steps: time + 1 blocks, so that the states *before* the steps are `time`
    /// contiguous blocks in time order whatever the direction. The initial state is filled in.
    pub fn states<R: Real>(&self, initial: Option<&[R]>) -> Buf<R> {
        let n = self.block();
        let mut all = Buf::stale((self.time + 1) * n);
        let at = if self.reverse { self.time } else { 0 } * n;
        match initial {
            Some(h) => all[at..at + n].copy_from_slice(h),
            None => all[at..at + n].fill(R::ZERO),
        }
        all
    }

    /// Blocks before and after step `t`: (state it starts from, state it leaves).
    pub fn around<'a, R>(&self, states: &'a mut [R], t: usize) -> (&'a [R], &'a mut [R]) {
        let n = self.block();
        let (low, high) = states[t * n..(t + 2) * n].split_at_mut(n);
        if self.reverse { (high, low) } else { (low, high) }
    }

    /// State before step `t`.
    pub fn before<'a, R>(&self, states: &'a [R], t: usize) -> &'a [R] {
        let n = self.block();
        &states[(t + usize::from(self.reverse)) * n..][..n]
    }

    /// State after step `t`.
    pub fn after<'a, R>(&self, states: &'a [R], t: usize) -> &'a [R] {
        let n = self.block();
        &states[(t + usize::from(!self.reverse)) * n..][..n]
    }

    /// The states before every step, in time order: [time · batch, hidden].
    pub fn all_before<'a, R>(&self, states: &'a [R]) -> &'a [R] {
        let n = self.block();
        &states[usize::from(self.reverse) * n..][..self.time * n]
    }

    /// The last state computed.
    pub fn last<'a, R>(&self, states: &'a [R]) -> &'a [R] {
        let n = self.block();
        &states[if self.reverse { 0 } else { self.time } * n..][..n]
    }

    /// Whether sequence `b` still runs at time `t`.
    pub fn active(&self, t: usize, b: usize) -> bool {
        self.lengths.as_ref().is_none_or(|l| t < l[b])
    }

    /// Copies the old state where a sequence has ended.
    pub fn hold<R: Real>(&self, t: usize, before: &[R], after: &mut [R]) {
        if self.lengths.is_some() {
            for b in (0..self.batch).filter(|b| !self.active(t, *b)) {
                let row = b * self.hidden..(b + 1) * self.hidden;
                after[row.clone()].copy_from_slice(&before[row]);
            }
        }
    }
}

/// What every gradient of a recurrent layer ends with: dx = dg·W, dW += dgᵀ·x, for `steps` rows.
pub fn input_gradients<R: Real>(
    dg: &[R],
    gates: usize,
    x: &[R],
    w: &[R],
    inputs: usize,
    dx: Option<&mut [R]>,
    dw: Option<&mut [R]>,
) {
    let rows = dg.len().checked_div(gates).unwrap_or(0);
    if let Some(dx) = dx {
        matmul_add(dx, Mat::new(dg, rows, gates), Mat::new(w, gates, inputs));
    }
    if let Some(dw) = dw {
        matmul_add(dw, Mat::new(dg, rows, gates).t(), Mat::new(x, rows, inputs));
    }
}

/// out[j] += Σ over rows of g[row, j].
pub fn add_column_sums<R: Real>(g: &[R], out: &mut [R]) {
    for row in g.chunks_exact(out.len().max(1)) {
        super::add_into(out, row);
    }
}

/// Rows of `width` filled with a bias.
pub fn rows_of<R: Real>(rows: usize, bias: &[R]) -> Buf<R> {
    let mut out = Buf::stale(rows * bias.len());
    for row in out.chunks_exact_mut(bias.len().max(1)) {
        row.copy_from_slice(bias);
    }
    out
}
