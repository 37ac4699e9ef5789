//! Reading by index: embeddings, elements along an axis, positions of the largest, sorted tops, running sums.

use compress_core::{Error, Result};

use crate::buffer::{Buf, Elem};
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run, around, axis_of};
use crate::real::Real;
use crate::value::{IntKind, Tensor, Value, per_kind, shape_text};

/// An index within `n`, counted from the end where negative.
pub(super) fn checked(i: i64, n: usize) -> Result<usize> {
    let at = if i < 0 { i + n as i64 } else { i };
    if (0..n as i64).contains(&at) {
        return Ok(at as usize);
    }
    Err(Error::failed(format!(
        "index {i} lies outside 0…{} (is an id in the data larger than the vocabulary?)",
        n as i64 - 1
    )))
}

/// Gather: rows of the input (an embedding, when `axis` is 0).
fn gather<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let axis = a.int_or("axis", 0)?;
    Ok(Box::new(move |cx, inputs| {
        let (value, ids) = (inputs.need(0)?, inputs.int(1)?);
        let axis = axis_of(axis, value.shape().len())?;
        let (outer, n, inner) = around(value.shape(), axis);
        let ids_at = ids.data().iter().map(|i| checked(*i, n)).collect::<Result<Vec<_>>>()?;
        let mut shape = value.shape()[..axis].to_vec();
        shape.extend(ids.shape());
        shape.extend(&value.shape()[axis + 1..]);
        let rows = |t: &[R], out: &mut [R]| copy_rows(t, outer, n, inner, &ids_at, out);
        match value {
            Value::Float(t) => {
                let mut out = Buf::stale(outer * ids_at.len() * inner);
                rows(t.data(), &mut out);
                let y = Tensor::new(shape, out);
                if !cx.wants(0) {
                    return Out::one(Value::Float(y));
                }
                let old = t.shape().to_vec();
                Out::with(y, move |g| {
                    let mut back = Tensor::zeros(old);
                    let data = back.data_mut();
                    for o in 0..outer {
                        for (j, &i) in ids_at.iter().enumerate() {
                            let g = &g.data()[(o * ids_at.len() + j) * inner..][..inner];
                            for (d, v) in data[(o * n + i) * inner..][..inner].iter_mut().zip(g) {
                                *d += *v;
                            }
                        }
                    }
                    Ok(vec![Some(back)])
                })
            }
            v => Out::one(per_kind!(v, t => {
                let mut out = Buf::stale(outer * ids_at.len() * inner);
                copy_rows(t.data(), outer, n, inner, &ids_at, &mut out);
                Tensor::new(shape.clone(), out)
            })),
        }
    }))
}

fn copy_rows<T: Elem>(t: &[T], outer: usize, n: usize, inner: usize, ids: &[usize], out: &mut [T]) {
    for o in 0..outer {
        for (j, &i) in ids.iter().enumerate() {
            let from = &t[(o * n + i) * inner..][..inner];
            out[(o * ids.len() + j) * inner..][..inner].copy_from_slice(from);
        }
    }
}

/// Flat positions in `shape` that an index tensor along `axis` names, in the order of the index tensor.
pub(super) fn element_positions(shape: &[usize], ids: &Tensor<i64>, axis: usize) -> Result<Vec<usize>> {
    let fits = ids.rank() == shape.len() && (0..shape.len()).all(|d| d == axis || ids.shape()[d] <= shape[d]);
    if !fits {
        return Err(Error::failed(format!("indices {} do not fit {}", shape_text(ids.shape()), shape_text(shape))));
    }
    let step = crate::kernels::view::strides(shape);
    let mut at = vec![0usize; shape.len()];
    ids.data()
        .iter()
        .map(|&i| {
            let i = checked(i, shape[axis])?;
            let flat = (0..shape.len()).map(|d| if d == axis { i } else { at[d] } * step[d] as usize).sum();
            for d in (0..at.len()).rev() {
                at[d] += 1;
                if at[d] < ids.shape()[d] {
                    break;
                }
                at[d] = 0;
            }
            Ok(flat)
        })
        .collect()
}

/// Flat positions of the first elements of the slices that index tuples (of `batch` leading shared dimensions) name, and
/// the elements a slice.
pub(super) fn tuple_positions(shape: &[usize], ids: &Tensor<i64>, batch: usize) -> Result<(Vec<usize>, usize)> {
    let depth = *ids.shape().last().ok_or_else(|| Error::failed("indices have no dimensions"))?;
    if batch + depth > shape.len() || ids.rank() <= batch || ids.shape()[..batch] != shape[..batch] {
        return Err(Error::failed(format!("indices {} do not fit {}", shape_text(ids.shape()), shape_text(shape))));
    }
    let step = crate::kernels::view::strides(shape);
    let inner: usize = shape[batch + depth..].iter().product();
    let batches: usize = shape[..batch].iter().product();
    let block: usize = shape[batch..].iter().product();
    let tuples = ids.shape()[..ids.rank() - 1].iter().product::<usize>();
    let each = tuples.checked_div(batches).unwrap_or(0).max(1);
    let positions = (0..tuples)
        .map(|t| {
            let mut flat = t / each * block;
            for d in 0..depth {
                flat += checked(ids.data()[t * depth + d], shape[batch + d])? * step[batch + d] as usize;
            }
            Ok(flat)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((positions, inner))
}

/// What GatherElements and GatherND share: runs of `inner` elements from given positions.
fn pick<R: Real>(cx: &Context, value: &Value<R>, from: Vec<usize>, inner: usize, shape: Vec<usize>) -> Result<Out<R>> {
    fn runs<T: Elem>(t: &Tensor<T>, from: &[usize], inner: usize, shape: &[usize]) -> Tensor<T> {
        let mut out = Vec::with_capacity(from.len() * inner);
        for &f in from {
            out.extend_from_slice(&t.data()[f..f + inner]);
        }
        Tensor::new(shape, out)
    }
    match value {
        Value::Float(t) if cx.wants(0) => {
            let old = t.shape().to_vec();
            Out::with(runs(t, &from, inner, &shape), move |g| {
                let mut back = Tensor::zeros(old);
                let data = back.data_mut();
                for (&f, g) in from.iter().zip(g.data().chunks_exact(inner.max(1))) {
                    for (d, v) in data[f..f + inner].iter_mut().zip(g) {
                        *d += *v;
                    }
                }
                Ok(vec![Some(back)])
            })
        }
        v => Out::one(per_kind!(v, t => runs(t, &from, inner, &shape))),
    }
}

/// The best along an axis by `better`, the first or the last of equals.
fn arg<R: Real>(a: &Attributes<R>, largest: bool) -> Result<Run<R>> {
    let axis = a.int_or("axis", 0)?;
    let keep = a.int_or("keepdims", 1)? != 0;
    let last = a.int_or("select_last_index", 0)? != 0;
    Ok(Box::new(move |_, inputs| {
        let value = inputs.need(0)?;
        let axis = axis_of(axis, value.shape().len())?;
        let (outer, n, inner) = around(value.shape(), axis);
        if n == 0 {
            return Err(Error::failed("an empty dimension has no largest element"));
        }
        fn best<T: Elem + PartialOrd>(
            t: &[T],
            (outer, n, inner): (usize, usize, usize),
            largest: bool,
            last: bool,
        ) -> Vec<i64> {
            let mut out = Vec::with_capacity(outer * inner);
            for o in 0..outer {
                for i in 0..inner {
                    let at = |k: usize| t[(o * n + k) * inner + i];
                    let mut b = 0;
                    for k in 1..n {
                        let wins = if largest { at(k) > at(b) } else { at(k) < at(b) };
                        if wins || (last && at(k) == at(b)) {
                            b = k;
                        }
                    }
                    out.push(b as i64);
                }
            }
            out
        }
        let ids = match value {
            Value::Int(t, _) => best(t.data(), (outer, n, inner), largest, last),
            v => best(v.float()?.data(), (outer, n, inner), largest, last),
        };
        let mut shape = value.shape().to_vec();
        if keep {
            shape[axis] = 1;
        } else {
            shape.remove(axis);
        }
        Out::one(Value::ints(Tensor::new(shape, ids)))
    }))
}

fn one_hot<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let axis = a.int_or("axis", -1)?;
    Ok(Box::new(move |_, inputs| {
        let number = |v: &Value<R>| -> Result<Vec<i64>> {
            Ok(match v {
                Value::Int(t, _) => t.data().to_vec(),
                v => v.float()?.data().iter().map(|f| f.f64() as i64).collect(),
            })
        };
        let ids = inputs.need(0)?;
        let depth = *number(inputs.need(1)?)?.first().ok_or_else(|| Error::failed("depth is empty"))? as usize;
        let at = axis_of(axis, ids.shape().len() + 1)?;
        let (outer, inner): (usize, usize) = (ids.shape()[..at].iter().product(), ids.shape()[at..].iter().product());
        let mut shape = ids.shape().to_vec();
        shape.insert(at, depth);
        let list = number(ids)?;
        fn fill<T: Elem>(list: &[i64], depth: usize, outer: usize, inner: usize, values: &[T]) -> Vec<T> {
            let mut out = vec![values[0]; outer * depth * inner];
            for o in 0..outer {
                for i in 0..inner {
                    let id = list[o * inner + i];
                    let id = if id < 0 { id + depth as i64 } else { id };
                    if (0..depth as i64).contains(&id) {
                        out[(o * depth + id as usize) * inner + i] = values[1];
                    }
                }
            }
            out
        }
        let values = inputs.need(2)?;
        if values.len() != 2 {
            return Err(Error::failed("two values (off, on) are needed"));
        }
        Out::one(per_kind!(values, t => Tensor::new(shape.clone(), fill(&list, depth, outer, inner, t.data()))))
    }))
}

/// The k largest (or smallest) along an axis, in order; of equals the first.
fn top_k<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let (axis, largest) = (a.int_or("axis", -1)?, a.int_or("largest", 1)? != 0);
    a.ignore("sorted"); // sorted is one of the orders that unsorted allows
    let fixed = a.int("k")?;
    Ok(Box::new(move |cx, inputs| {
        let value = inputs.need(0)?;
        let axis = axis_of(axis, value.shape().len())?;
        let k = inputs.ints_if(1)?.and_then(|v| v.first().copied()).or(fixed).unwrap_or(1) as usize;
        let (outer, n, inner) = around(value.shape(), axis);
        if k > n {
            return Err(Error::failed(format!("the {k} largest of {n} elements were asked for")));
        }
        let mut ids = vec![0i64; outer * k * inner];
        let mut shape = value.shape().to_vec();
        shape[axis] = k;
        fn order<T: Elem + PartialOrd>(t: &[T], at: impl Fn(usize) -> usize, n: usize, largest: bool) -> Vec<usize> {
            let mut list: Vec<usize> = (0..n).collect();
            list.sort_by(|&x, &y| {
                let c = t[at(x)].partial_cmp(&t[at(y)]).unwrap_or(std::cmp::Ordering::Equal);
                if largest { c.reverse() } else { c }
            });
            list
        }
        for o in 0..outer {
            for i in 0..inner {
                let at = |j: usize| (o * n + j) * inner + i;
                let list = match value {
                    Value::Int(t, _) => order(t.data(), at, n, largest),
                    v => order(v.float()?.data(), at, n, largest),
                };
                for (j, &from) in list[..k].iter().enumerate() {
                    ids[(o * k + j) * inner + i] = from as i64;
                }
            }
        }
        let ids = Tensor::new(shape.clone(), ids);
        let from = element_positions(value.shape(), &ids, axis)?;
        let mut out = pick(cx, value, from, 1, shape)?;
        out.values.push(Value::ints(ids));
        Ok(out)
    }))
}

fn cum_sum<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let (exclusive, reverse) = (a.int_or("exclusive", 0)? != 0, a.int_or("reverse", 0)? != 0);
    Ok(Box::new(move |cx, inputs| {
        let value = inputs.need(0)?;
        let axis = *inputs.int(1)?.data().first().ok_or_else(|| Error::failed("it has no axis"))?;
        let axis = axis_of(axis, value.shape().len())?;
        let cut = around(value.shape(), axis);
        fn run<T: Elem>(
            t: &[T],
            (outer, n, inner): (usize, usize, usize),
            ex: bool,
            rev: bool,
            add: fn(T, T) -> T,
        ) -> Vec<T> {
            let mut out = vec![T::default(); t.len()];
            for o in 0..outer {
                for i in 0..inner {
                    let mut acc = T::default();
                    for s in 0..n {
                        let at = (o * n + if rev { n - 1 - s } else { s }) * inner + i;
                        let next = add(acc, t[at]);
                        out[at] = if ex { acc } else { next };
                        acc = next;
                    }
                }
            }
            out
        }
        match value {
            Value::Int(t, kind) => {
                let kind: IntKind = *kind;
                let out = run(t.data(), cut, exclusive, reverse, i64::wrapping_add);
                Out::one(Value::Int(
                    Tensor::new(t.shape(), out.into_iter().map(|v| kind.wrap(v)).collect::<Vec<_>>()),
                    kind,
                ))
            }
            v => {
                let t = v.float()?;
                let y = Tensor::new(t.shape(), run(t.data(), cut, exclusive, reverse, |a, b| a + b));
                if !cx.wants(0) {
                    return Out::one(Value::Float(y));
                }
                Out::with(y, move |g| {
                    Ok(vec![Some(Tensor::new(g.shape(), run(g.data(), cut, exclusive, !reverse, |a, b| a + b)))])
                })
            }
        }
    }))
}

fn non_zero<R: Real>(_: &Context, inputs: Inputs<R>) -> Result<Out<R>> {
    let value = inputs.need(0)?;
    let hits: Vec<usize> = match value {
        Value::Float(t) => (0..t.len()).filter(|i| t.data()[*i] != R::ZERO).collect(),
        Value::Int(t, _) => (0..t.len()).filter(|i| t.data()[*i] != 0).collect(),
        Value::Bool(t) => (0..t.len()).filter(|i| t.data()[*i]).collect(),
    };
    let (shape, step) = (value.shape(), crate::kernels::view::strides(value.shape()));
    let ids = (0..shape.len()).flat_map(|d| hits.iter().map(move |h| (d, h)));
    let ids = ids.map(|(d, h)| (h / step[d] as usize % shape[d]) as i64).collect::<Vec<_>>();
    Out::one(Value::ints(Tensor::new([shape.len(), hits.len()], ids)))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::{Yes, Zero};
    vec![
        Entry::new("Gather", Yes, gather),
        Entry::new("GatherElements", Yes, |a| {
            let axis = a.int_or("axis", 0)?;
            Ok(Box::new(move |cx, inputs| {
                let (value, ids) = (inputs.need(0)?, inputs.int(1)?);
                let axis = axis_of(axis, value.shape().len())?;
                let from = element_positions(value.shape(), ids, axis)?;
                pick(cx, value, from, 1, ids.shape().to_vec())
            }))
        }),
        Entry::new("GatherND", Yes, |a| {
            let batch = a.int_or("batch_dims", 0)?.max(0) as usize;
            Ok(Box::new(move |cx, inputs| {
                let (value, ids) = (inputs.need(0)?, inputs.int(1)?);
                let (from, inner) = tuple_positions(value.shape(), ids, batch)?;
                let depth = ids.shape()[ids.rank() - 1];
                let mut shape = ids.shape()[..ids.rank() - 1].to_vec();
                shape.extend(&value.shape()[batch + depth..]);
                pick(cx, value, from, inner, shape)
            }))
        }),
        Entry::new("ArgMax", Zero, |a| arg(a, true)),
        Entry::new("ArgMin", Zero, |a| arg(a, false)),
        Entry::new("OneHot", Zero, one_hot),
        Entry::new("TopK", Yes, top_k),
        Entry::new("CumSum", Yes, cum_sum),
        Entry::new("NonZero", Zero, |_| Ok(Box::new(non_zero))),
    ]
}
