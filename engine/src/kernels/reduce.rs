//! Reductions over the middle of [outer, axis, inner].

use crate::real::Real;

/// What is computed over an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// Σ x
    Sum,
    /// max x
    Max,
    /// min x
    Min,
    /// Π x
    Product,
}

/// out[o, i] = fold over a of x[o, a, i].
pub fn fold<R: Real>(kind: Fold, x: &[R], outer: usize, axis: usize, inner: usize, out: &mut [R]) {
    let start = match kind {
        Fold::Sum => R::ZERO,
        Fold::Product => R::ONE,
        Fold::Max => R::NEG_INFINITY,
        Fold::Min => -R::NEG_INFINITY,
    };
    if inner == 1 && kind == Fold::Sum {
        for (o, row) in out.iter_mut().zip(x.chunks_exact(axis.max(1))) {
            *o = super::lane_sum(row, |v| v);
        }
        if axis == 0 {
            out.fill(start);
        }
        return;
    }
    out.fill(start);
    for o in 0..outer {
        let acc = &mut out[o * inner..(o + 1) * inner];
        for a in 0..axis {
            let row = &x[(o * axis + a) * inner..][..inner];
            for (y, v) in acc.iter_mut().zip(row) {
                *y = match kind {
                    Fold::Sum => *y + *v,
                    Fold::Product => *y * *v,
                    Fold::Max => y.maximum(*v),
                    Fold::Min => y.minimum(*v),
                };
            }
        }
    }
}
