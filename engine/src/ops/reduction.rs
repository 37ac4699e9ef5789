//! Reductions over axes.

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::reduce::{Fold, fold};
use crate::kernels::view::{View, read};
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run, axis_of};
use crate::real::Real;
use crate::value::{Tensor, Value};

/// Which reduction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Product,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

fn reduction<R: Real>(a: &Attributes<R>, kind: Kind) -> Result<Run<R>> {
    let keep = a.int_or("keepdims", 1)? != 0;
    let idle = a.int_or("noop_with_empty_axes", 0)? != 0;
    let fixed = a.ints("axes")?;
    Ok(Box::new(move |cx, inputs| {
        let list = inputs.ints_if(1)?.or_else(|| fixed.clone()).unwrap_or_default();
        let rank = inputs.need(0)?.shape().len();
        let axes: Vec<usize> = match list.is_empty() {
            true if idle => Vec::new(),
            true => (0..rank).collect(),
            false => list.iter().map(|a| axis_of(*a, rank)).collect::<Result<_>>()?,
        };
        reduce(cx, inputs, kind, &axes, keep)
    }))
}

/// Moves the reduced axes behind the others: the view to read by, and (outer, axis).
fn behind(shape: &[usize], axes: &[usize]) -> (View, usize, usize) {
    let full = View::of(shape);
    let kept = (0..shape.len()).filter(|d| !axes.contains(d));
    let order: Vec<usize> = kept.chain((0..shape.len()).filter(|d| axes.contains(d))).collect();
    let view = View {
        shape: order.iter().map(|d| full.shape[*d]).collect(),
        strides: order.iter().map(|d| full.strides[*d]).collect(),
        offset: 0,
    };
    let n = axes.iter().map(|d| shape[*d]).product();
    let outer = (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).product();
    (view, outer, n)
}

fn reduce<R: Real>(cx: &Context, mut inputs: Inputs<R>, kind: Kind, axes: &[usize], keep: bool) -> Result<Out<R>> {
    let value = inputs.take(0)?;
    let shape = value.shape().to_vec();
    let ones: Vec<usize> = (0..shape.len()).map(|d| if axes.contains(&d) { 1 } else { shape[d] }).collect();
    let new: Vec<usize> =
        if keep { ones.clone() } else { (0..shape.len()).filter(|d| !axes.contains(d)).map(|d| shape[d]).collect() };
    let (view, outer, n) = behind(&shape, axes);
    if let Value::Int(t, int_kind) = &value {
        return Out::one(Value::Int(Tensor::new(new, integers(t.data(), &view, outer, n, kind)?), *int_kind));
    }
    if let Value::Bool(t) = &value {
        let ints: Vec<i64> = t.data().iter().map(|b| i64::from(*b)).collect();
        let out = integers(&ints, &view, outer, n, kind)?.into_iter().map(|v| v > 0 && n > 0).collect::<Vec<_>>();
        return Out::one(Value::Bool(Tensor::new(new, out)));
    }
    let x = value.float()?;
    let mut rows = Buf::stale(x.len());
    read(&view, x.data(), &mut rows);
    let mut out = Buf::zeros(outer);
    forward(kind, &mut rows, outer, n, &mut out);
    let y = Tensor::new(new, out);
    if !cx.wants(0) {
        return Out::one(Value::Float(y));
    }
    let (x, kept) = (x.clone(), y.reshaped(ones.clone()));
    Out::with(y, move |g| {
        let g = g.reshaped(ones.clone());
        let mut out = Buf::stale(x.len());
        let (gs, ys) = ((g.data(), &ones[..]), (kept.data(), &ones[..]));
        let xs = (x.data(), x.shape());
        crate::kernels::broadcast::ternary(x.shape(), gs, ys, xs, &mut out, |g, y, x| slope(kind, g, y, x, n));
        if matches!(kind, Kind::Max | Kind::Min) {
            share_ties(&view, &mut out, outer, n);
        }
        Ok(vec![Some(Tensor::new(x.shape(), out))])
    })
}

/// Rows of `n` to one number each; `rows` is scratch.
fn forward<R: Real>(kind: Kind, rows: &mut [R], outer: usize, n: usize, out: &mut [R]) {
    let square = |rows: &mut [R]| rows.iter_mut().for_each(|v| *v *= *v);
    match kind {
        Kind::L1 => rows.iter_mut().for_each(|v| *v = v.abs()),
        Kind::L2 | Kind::SumSquare => square(rows),
        Kind::LogSumExp => {
            for (o, row) in out.iter_mut().zip(rows.chunks_exact(n.max(1))) {
                *o = crate::kernels::softmax::log_sum_exp(row);
            }
            if n == 0 {
                out.fill(R::NEG_INFINITY);
            }
            return;
        }
        _ => {}
    }
    let how = match kind {
        Kind::Max => Fold::Max,
        Kind::Min => Fold::Min,
        Kind::Product => Fold::Product,
        _ => Fold::Sum,
    };
    fold(how, rows, outer, n, 1, out);
    for v in out {
        match kind {
            Kind::Mean => *v /= R::count(n),
            Kind::L2 => *v = v.sqrt(),
            Kind::LogSum => *v = v.ln(),
            _ => {}
        }
    }
}

/// ∂y/∂x · g for one element.
fn slope<R: Real>(kind: Kind, g: R, y: R, x: R, n: usize) -> R {
    match kind {
        Kind::Sum => g,
        Kind::Mean => g / R::count(n),
        Kind::Max | Kind::Min => {
            if x == y {
                g
            } else {
                R::ZERO
            }
        }
        Kind::Product => g * y / x,
        Kind::L1 => {
            if x < R::ZERO {
                -g
            } else {
                g
            }
        }
        Kind::L2 => g * x / y,
        Kind::SumSquare => g * (x + x),
        Kind::LogSum => g / y.exp(),
        Kind::LogSumExp => g * (x - y).exp(),
    }
}

/// Equal largest elements share their gradient evenly, as in PyTorch's amax.
fn share_ties<R: Real>(view: &View, grad: &mut [R], outer: usize, n: usize) {
    let mut rows = Buf::stale(outer * n);
    read(view, grad, &mut rows);
    for row in rows.chunks_exact_mut(n.max(1)) {
        let hits = row.iter().filter(|v| **v != R::ZERO).count();
        if hits > 1 {
            row.iter_mut().for_each(|v| *v /= R::count(hits));
        }
    }
    crate::kernels::view::write(view, &rows, grad);
}

fn integers(t: &[i64], view: &View, outer: usize, n: usize, kind: Kind) -> Result<Vec<i64>> {
    let mut rows = vec![0; t.len()];
    read(view, t, &mut rows);
    (0..outer)
        .map(|o| {
            let row = rows[o * n..(o + 1) * n].iter().copied();
            Ok(match kind {
                Kind::Sum => row.fold(0i64, i64::wrapping_add),
                Kind::Mean => row.fold(0i64, i64::wrapping_add) / n.max(1) as i64,
                Kind::Max => row.max().unwrap_or(i64::MIN),
                Kind::Min => row.min().unwrap_or(i64::MAX),
                Kind::Product => row.fold(1, i64::wrapping_mul),
                Kind::L1 => row.map(i64::abs).sum(),
                Kind::SumSquare => row.map(|v| v * v).sum(),
                Kind::L2 | Kind::LogSum | Kind::LogSumExp => {
                    return Err(Error::failed("this reduction of integers is not supported; cast to float first"));
                }
            })
        })
        .collect()
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    vec![
        Entry::new("ReduceSum", Yes, |a| reduction(a, Kind::Sum)),
        Entry::new("ReduceMean", Yes, |a| reduction(a, Kind::Mean)),
        Entry::new("ReduceMax", Yes, |a| reduction(a, Kind::Max)),
        Entry::new("ReduceMin", Yes, |a| reduction(a, Kind::Min)),
        Entry::new("ReduceProd", Yes, |a| reduction(a, Kind::Product)),
        Entry::new("ReduceL1", Yes, |a| reduction(a, Kind::L1)),
        Entry::new("ReduceL2", Yes, |a| reduction(a, Kind::L2)),
        Entry::new("ReduceSumSquare", Yes, |a| reduction(a, Kind::SumSquare)),
        Entry::new("ReduceLogSum", Yes, |a| reduction(a, Kind::LogSum)),
        Entry::new("ReduceLogSumExp", Yes, |a| reduction(a, Kind::LogSumExp)),
    ]
}
