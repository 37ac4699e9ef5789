//! Moving elements: each of these reads its input through a [`View`], and gradients go back through the same view.

use compress_core::{Error, Result};

use crate::buffer::{Buf, Elem};
use crate::kernels::view::{View, add_back, read, strides, write};
use crate::ops::constant::shape_of;
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run, around, axis_of};
use crate::real::Real;
use crate::value::{Tensor, Value, per_kind, shape_text};

fn look<T: Elem>(view: &View, t: &Tensor<T>) -> Tensor<T> {
    let mut out = Buf::stale(view.shape.iter().product());
    read(view, t.data(), &mut out);
    Tensor::new(view.shape.clone(), out)
}

/// The input seen through a view.
fn through<R: Real>(cx: &Context, mut inputs: Inputs<R>, view: View) -> Result<Out<R>> {
    let value = inputs.take(0)?;
    if view.offset == 0 && view.shape == value.shape() && view.strides == strides(value.shape()) {
        return super::shape::same(cx, value);
    }
    match value {
        Value::Float(t) if cx.wants(0) => {
            let shape = t.shape().to_vec();
            Out::with(look(&view, &t), move |g| {
                let mut back = Tensor::zeros(shape);
                add_back(&view, g.data(), back.data_mut());
                Ok(vec![Some(back)])
            })
        }
        v => Out::one(per_kind!(&v, t => look(&view, t))),
    }
}

fn transpose<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let perm = a.ints("perm")?;
    Ok(Box::new(move |cx, inputs| {
        let full = View::of(inputs.need(0)?.shape());
        let rank = full.shape.len();
        let perm: Vec<usize> = match &perm {
            Some(p) => p.iter().map(|d| axis_of(*d, rank)).collect::<Result<_>>()?,
            None => (0..rank).rev().collect(),
        };
        if perm.len() != rank || (0..rank).any(|d| !perm.contains(&d)) {
            return Err(Error::failed(format!("perm {perm:?} does not fit a tensor of {rank} dimensions")));
        }
        let view = View {
            shape: perm.iter().map(|d| full.shape[*d]).collect(),
            strides: perm.iter().map(|d| full.strides[*d]).collect(),
            offset: 0,
        };
        through(cx, inputs, view)
    }))
}

fn expand<R: Real>(cx: &Context, inputs: Inputs<R>) -> Result<Out<R>> {
    let wanted = shape_of(inputs.int(1)?.data())?;
    let old = View::of(inputs.need(0)?.shape());
    let shape = crate::kernels::broadcast::common_shape(&[&old.shape, &wanted])?;
    let lead = shape.len() - old.shape.len();
    let steps = (0..shape.len()).map(|d| if d < lead || old.shape[d - lead] == 1 { 0 } else { old.strides[d - lead] });
    let view = View { strides: steps.collect(), shape, offset: 0 };
    through(cx, inputs, view)
}

fn tile<R: Real>(cx: &Context, mut inputs: Inputs<R>) -> Result<Out<R>> {
    let repeats = shape_of(inputs.int(1)?.data())?;
    let old = View::of(inputs.need(0)?.shape());
    if repeats.len() != old.shape.len() {
        return Err(Error::failed(format!("{} repeats for {} dimensions", repeats.len(), old.shape.len())));
    }
    // Each dimension as (repeats, size) with step 0 over the repeats, joined again afterwards.
    let view = View {
        shape: repeats.iter().zip(&old.shape).flat_map(|(r, n)| [*r, *n]).collect(),
        strides: old.strides.iter().flat_map(|s| [0, *s]).collect(),
        offset: 0,
    };
    let joined: Vec<usize> = repeats.iter().zip(&old.shape).map(|(r, n)| r * n).collect();
    match inputs.take(0)? {
        Value::Float(t) if cx.wants(0) => {
            let shape = t.shape().to_vec();
            Out::with(look(&view, &t).reshaped(joined), move |g| {
                let mut back = Tensor::zeros(shape);
                add_back(&view, g.data(), back.data_mut());
                Ok(vec![Some(back)])
            })
        }
        v => Out::one(per_kind!(&v, t => look(&view, t).reshaped(joined))),
    }
}

/// The view that Slice takes; see the operator's definition for the clamping.
fn slice_view(
    shape: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Result<View> {
    let mut view = View::of(shape);
    if starts.len() != ends.len() || axes.is_some_and(|a| a.len() != starts.len()) {
        return Err(Error::failed("starts, ends and axes differ in length"));
    }
    for i in 0..starts.len() {
        let axis = axis_of(axes.map_or(i as i64, |a| a[i]), shape.len())?;
        let n = shape[axis] as i64;
        let step = steps.map_or(1, |s| s[i]);
        let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, end) = (from_end(starts[i]), from_end(ends[i]));
        let (start, count) = match step {
            0 => return Err(Error::failed("a step of 0 never ends")),
            s if s > 0 => {
                let (a, b) = (start.clamp(0, n), end.clamp(0, n));
                (a, (b - a + s - 1).max(0) / s)
            }
            s => {
                let (a, b) = (start.clamp(0, n - 1), end.clamp(-1, n - 1));
                (a, if n == 0 { 0 } else { (a - b - s - 1).max(0) / -s })
            }
        };
        view.shape[axis] = count as usize;
        if count > 0 {
            view.offset += start as isize * view.strides[axis];
        }
        view.strides[axis] *= step as isize;
    }
    Ok(view)
}

fn slice<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let fixed = (a.ints("starts")?, a.ints("ends")?, a.ints("axes")?);
    Ok(Box::new(move |cx, inputs| {
        let shape = inputs.need(0)?.shape().to_vec();
        let view = match &fixed {
            (Some(starts), Some(ends), axes) => slice_view(&shape, starts, ends, axes.as_deref(), None)?,
            _ => {
                let (starts, ends) = (inputs.int(1)?, inputs.int(2)?);
                let (axes, steps) = (inputs.ints_if(3)?, inputs.ints_if(4)?);
                slice_view(&shape, starts.data(), ends.data(), axes.as_deref(), steps.as_deref())?
            }
        };
        through(cx, inputs, view)
    }))
}

/// Joins tensors along `axis`.
fn join<T: Elem>(list: &[&Tensor<T>], axis: usize) -> Result<Tensor<T>> {
    let mut shape = list[0].shape().to_vec();
    for t in &list[1..] {
        let fits = t.rank() == shape.len() && (0..shape.len()).all(|d| d == axis || t.shape()[d] == shape[d]);
        if !fits {
            let all: Vec<String> = list.iter().map(|t| shape_text(t.shape())).collect();
            return Err(Error::failed(format!("shapes {} cannot be joined along dimension {axis}", all.join(", "))));
        }
    }
    shape[axis] = list.iter().map(|t| t.shape()[axis]).sum();
    let (outer, _, inner) = around(&shape, axis);
    let mut out = Buf::stale(shape.iter().product());
    let row = shape[axis] * inner;
    let mut at = 0;
    for t in list {
        let n = t.shape()[axis] * inner;
        for o in 0..outer {
            out[o * row + at..][..n].copy_from_slice(&t.data()[o * n..][..n]);
        }
        at += n;
    }
    Ok(Tensor::new(shape, out))
}

/// Cuts a tensor along `axis` into pieces of these sizes.
fn cut<T: Elem>(t: &Tensor<T>, axis: usize, sizes: &[usize]) -> Vec<Tensor<T>> {
    let (outer, n, inner) = around(t.shape(), axis);
    let mut at = 0;
    let mut pieces = Vec::new();
    for &size in sizes {
        let mut shape = t.shape().to_vec();
        shape[axis] = size;
        let mut out = Buf::stale(outer * size * inner);
        for o in 0..outer {
            out[o * size * inner..][..size * inner].copy_from_slice(&t.data()[(o * n + at) * inner..][..size * inner]);
        }
        pieces.push(Tensor::new(shape, out));
        at += size;
    }
    pieces
}

fn concat<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let axis = a.int("axis")?.unwrap_or(1);
    Ok(Box::new(move |cx, inputs| {
        let list: Vec<&Value<R>> = inputs.0.iter().flatten().collect();
        let first = inputs.need(0)?;
        let axis = axis_of(axis, first.shape().len())?;
        match first {
            Value::Int(_, kind) => {
                let list = list.iter().map(|v| v.int()).collect::<Result<Vec<_>>>()?;
                Out::one(Value::Int(join(&list, axis)?, *kind))
            }
            Value::Bool(_) => {
                let list = list.iter().map(|v| v.bool()).collect::<Result<Vec<_>>>()?;
                Out::one(Value::Bool(join(&list, axis)?))
            }
            Value::Float(_) => {
                let list = list.iter().map(|v| v.float()).collect::<Result<Vec<_>>>()?;
                let y = join(&list, axis)?;
                if !cx.any() {
                    return Out::one(Value::Float(y));
                }
                let sizes: Vec<usize> = list.iter().map(|t| t.shape()[axis]).collect();
                Out::with(y, move |g| Ok(cut(&g, axis, &sizes).into_iter().map(Some).collect()))
            }
        }
    }))
}

fn split<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let axis = a.int_or("axis", 0)?;
    let fixed = a.ints("split")?;
    a.ignore("num_outputs"); // the outputs themselves say how many
    Ok(Box::new(move |cx, inputs| {
        let value = inputs.need(0)?;
        let axis = axis_of(axis, value.shape().len())?;
        let n = value.shape()[axis];
        let sizes = match inputs.ints_if(1)?.or_else(|| fixed.clone()) {
            Some(s) => shape_of(&s)?,
            None => {
                let each = n.div_ceil(cx.outputs);
                (0..cx.outputs).map(|i| each.min(n.saturating_sub(i * each))).collect()
            }
        };
        if sizes.iter().sum::<usize>() != n {
            return Err(Error::failed(format!("pieces {sizes:?} do not add up to {n}")));
        }
        let values = match value {
            Value::Float(t) => cut(t, axis, &sizes).into_iter().map(Value::Float).collect(),
            Value::Int(t, kind) => cut(t, axis, &sizes).into_iter().map(|t| Value::Int(t, *kind)).collect(),
            Value::Bool(t) => cut(t, axis, &sizes).into_iter().map(Value::Bool).collect(),
        };
        let mut out = Out { values, back: None };
        if cx.wants(0) {
            let shape = value.shape().to_vec();
            out.back = Some(Box::new(move |grads| {
                let pieces: Vec<Tensor<R>> = grads
                    .into_iter()
                    .chain(std::iter::repeat(None))
                    .zip(&sizes)
                    .map(|(g, size)| {
                        g.unwrap_or_else(|| {
                            let mut s = shape.clone();
                            s[axis] = *size;
                            Tensor::zeros(s)
                        })
                    })
                    .collect();
                Ok(vec![Some(join(&pieces.iter().collect::<Vec<_>>(), axis)?)])
            }));
        }
        Ok(out)
    }))
}

/// Source position of each padded position along one dimension; `None` = filled.
fn padded(n: usize, before: i64, after: i64, mode: &str) -> Result<Vec<Option<usize>>> {
    let (n, total) = (n as i64, n as i64 + before + after);
    (0..total)
        .map(|i| {
            let at = i - before;
            let inside = (0..n).contains(&at);
            let at = match mode {
                _ if inside => Some(at),
                "edge" => Some(at.clamp(0, n - 1)),
                "wrap" => Some(at.rem_euclid(n)),
                "reflect" if n > 1 => {
                    let period = 2 * (n - 1);
                    let m = at.rem_euclid(period);
                    Some(if m < n { m } else { period - m })
                }
                "reflect" => Some(0),
                _ => None,
            };
            if n == 0 && at.is_some() {
                return Err(Error::failed("an empty dimension has nothing to pad with"));
            }
            Ok(at.map(|a| a as usize))
        })
        .collect()
}

fn pad<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let mode = a.word("mode", "constant", &["constant", "reflect", "edge", "wrap"])?;
    let (fixed, fill) = (a.ints("pads")?, a.float_or("value", 0.0)?);
    Ok(Box::new(move |cx, inputs| {
        let value = inputs.need(0)?;
        let shape = value.shape().to_vec();
        let pads = inputs.ints_if(1)?.or_else(|| fixed.clone()).ok_or_else(|| Error::failed("it has no pads"))?;
        let axes = match inputs.ints_if(3)? {
            Some(list) => list.iter().map(|a| axis_of(*a, shape.len())).collect::<Result<Vec<_>>>()?,
            None => (0..shape.len()).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(Error::failed(format!("{} pads for {} dimensions", pads.len(), axes.len())));
        }
        let mut maps: Vec<Vec<Option<usize>>> = shape.iter().map(|n| (0..*n).map(Some).collect()).collect();
        for (i, &d) in axes.iter().enumerate() {
            maps[d] = padded(shape[d], pads[i], pads[axes.len() + i], &mode)?;
        }
        let new: Vec<usize> = maps.iter().map(Vec::len).collect();
        let from = positions(&maps, &strides(&shape));
        fn take<T: Elem>(t: &Tensor<T>, from: &[usize], shape: &[usize], fill: T) -> Tensor<T> {
            Tensor::new(shape, from.iter().map(|&i| t.data().get(i).copied().unwrap_or(fill)).collect::<Vec<_>>())
        }
        let t = match value {
            Value::Int(t, kind) => {
                let fill = inputs.ints_if(2)?.and_then(|v| v.first().copied()).unwrap_or(fill as i64);
                return Out::one(Value::Int(take(t, &from, &new, fill), *kind));
            }
            Value::Bool(t) => {
                let fill = inputs.get(2).map(|v| v.bool()).transpose()?.is_some_and(|b| b.data() == [true]);
                return Out::one(Value::Bool(take(t, &from, &new, fill)));
            }
            Value::Float(t) => t,
        };
        let fill = inputs.float_if(2)?.and_then(|t| t.data().first().copied()).unwrap_or(R::of(fill));
        let y = take(t, &from, &new, fill);
        if !cx.wants(0) {
            return Out::one(Value::Float(y));
        }
        Out::with(y, move |g| {
            let mut back = Tensor::zeros(shape);
            let data = back.data_mut();
            for (v, i) in g.data().iter().zip(&from) {
                if let Some(d) = data.get_mut(*i) {
                    *d += *v;
                }
            }
            Ok(vec![Some(back)])
        })
    }))
}

/// Flat source positions of a product of per-dimension maps; usize::MAX where any is `None`.
fn positions(maps: &[Vec<Option<usize>>], strides: &[isize]) -> Vec<usize> {
    let mut all = vec![0usize];
    for (map, step) in maps.iter().zip(strides) {
        all = all
            .iter()
            .flat_map(|base| {
                map.iter().map(move |m| match m {
                    Some(i) if *base != usize::MAX => base + i * *step as usize,
                    _ => usize::MAX,
                })
            })
            .collect();
    }
    all
}

fn trilu<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let upper = a.int_or("upper", 1)? != 0;
    Ok(Box::new(move |cx, inputs| {
        let k = inputs.ints_if(1)?.and_then(|v| v.first().copied()).unwrap_or(0);
        let value = inputs.need(0)?;
        let (rows, cols) = match value.shape() {
            [.., r, c] => (*r, *c),
            s => return Err(Error::failed(format!("{} has no rows and columns", shape_text(s)))),
        };
        fn triangle<T: Elem>(t: &Tensor<T>, rows: usize, cols: usize, k: i64, upper: bool) -> Tensor<T> {
            let mut t = t.clone();
            for (i, v) in t.data_mut().iter_mut().enumerate() {
                let (r, c) = ((i / cols % rows) as i64, (i % cols) as i64);
                if if upper { c < r.saturating_add(k) } else { c > r.saturating_add(k) } {
                    *v = T::default();
                }
            }
            t
        }
        match value {
            Value::Float(t) if cx.wants(0) => Out::with(triangle(t, rows, cols, k, upper), move |g| {
                Ok(vec![Some(triangle(&g, rows, cols, k, upper))])
            }),
            v => Out::one(per_kind!(v, t => triangle(t, rows, cols, k, upper))),
        }
    }))
}

/// Space and depth: a Reshape, a Transpose and a Reshape in one.
fn depth_to_space<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let block = a.int_or("blocksize", 1)?.max(1) as usize;
    let crd = a.word("mode", "DCR", &["DCR", "CRD"])? == "CRD";
    Ok(Box::new(move |cx, mut inputs| {
        let value = inputs.take(0)?;
        let [n, c, h, w] = value.shape() else {
            return Err(Error::failed(format!("four dimensions are needed, not {}", shape_text(value.shape()))));
        };
        let (n, c, h, w) = (*n, *c / (block * block), *h, *w);
        let (split, perm) = if crd {
            (vec![n, c, block, block, h, w], [0, 1, 4, 2, 5, 3])
        } else {
            (vec![n, block, block, c, h, w], [0, 3, 4, 1, 5, 2])
        };
        let full = View::of(&split);
        let view = View {
            shape: perm.iter().map(|d| full.shape[*d]).collect(),
            strides: perm.iter().map(|d| full.strides[*d]).collect(),
            offset: 0,
        };
        let shape = vec![n, c, h * block, w * block];
        match value {
            Value::Float(t) if cx.wants(0) => {
                let old = t.shape().to_vec();
                Out::with(look(&view, &t).reshaped(shape), move |g| {
                    let mut back = Tensor::zeros(old);
                    write(&view, g.data(), back.data_mut());
                    Ok(vec![Some(back)])
                })
            }
            v => Out::one(per_kind!(&v, t => look(&view, t).reshaped(shape.clone()))),
        }
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    vec![
        Entry::new("Transpose", Yes, transpose),
        Entry::new("Expand", Yes, |_| Ok(Box::new(expand))),
        Entry::new("Tile", Yes, |_| Ok(Box::new(tile))),
        Entry::new("Slice", Yes, slice),
        Entry::new("Concat", Yes, concat),
        Entry::new("Split", Yes, split),
        Entry::new("Pad", Yes, pad),
        Entry::new("Trilu", Yes, trilu),
        Entry::new("DepthToSpace", Yes, depth_to_space),
    ]
}
