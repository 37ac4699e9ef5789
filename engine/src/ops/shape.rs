//! Shapes and types: what changes how a tensor is looked at, or its element type, not its values.

use compress_core::{Error, Result};

use crate::ops::{Attributes, Entry, Gradient, Inputs, Out, Run, axis_of};
use crate::real::Real;
use crate::value::{IntKind, Tensor, Value, per_kind, shape_text};

/// The same data in another shape; gradients take the old shape again.
fn reshaped<R: Real>(cx: &crate::ops::Context, mut inputs: Inputs<R>, shape: Vec<usize>) -> Result<Out<R>> {
    let value = inputs.take(0)?;
    if shape.iter().product::<usize>() != value.len() {
        return Err(Error::failed(format!(
            "{} elements of shape {} do not fill {}",
            value.len(),
            shape_text(value.shape()),
            shape_text(&shape)
        )));
    }
    match value {
        Value::Float(t) if cx.wants(0) => {
            let old = t.shape().to_vec();
            Out::with(t.reshaped(shape), move |g| Ok(vec![Some(g.reshaped(old))]))
        }
        v => Out::one(per_kind!(&v, t => t.reshaped(shape))),
    }
}

/// The target of Reshape: 0 copies a dimension, −1 is what is left.
fn target(old: &[usize], wanted: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
    let mut shape = Vec::new();
    let mut free = None;
    for (i, &d) in wanted.iter().enumerate() {
        match d {
            -1 if free.is_none() => {
                free = Some(i);
                shape.push(1);
            }
            0 if !allow_zero => match old.get(i) {
                Some(&n) => shape.push(n),
                None => {
                    return Err(Error::failed(format!(
                        "dimension {i} is to be copied, but there are only {}",
                        old.len()
                    )));
                }
            },
            d if d >= 0 => shape.push(d as usize),
            _ => return Err(Error::failed(format!("{wanted:?} is no shape"))),
        }
    }
    if let Some(i) = free {
        let (all, known): (usize, usize) = (old.iter().product(), shape.iter().product());
        if known == 0 || all % known != 0 {
            return Err(Error::failed(format!("shape {} cannot become {wanted:?}", shape_text(old))));
        }
        shape[i] = all / known;
    }
    Ok(shape)
}

/// Axes from input 1, or from the attribute before opset 13.
fn axes<R: Real>(attribute: &Option<Vec<i64>>, inputs: &Inputs<R>) -> Result<Option<Vec<i64>>> {
    Ok(inputs.ints_if(1)?.or_else(|| attribute.clone()))
}

fn squeeze<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let fixed = a.ints("axes")?;
    Ok(Box::new(move |cx, inputs| {
        let old = inputs.need(0)?.shape().to_vec();
        let gone = match axes(&fixed, &inputs)? {
            Some(list) => list.iter().map(|a| axis_of(*a, old.len())).collect::<Result<Vec<_>>>()?,
            None => (0..old.len()).filter(|d| old[*d] == 1).collect(),
        };
        if let Some(d) = gone.iter().find(|d| old[**d] != 1) {
            return Err(Error::failed(format!(
                "dimension {d} of {} is not 1, so it cannot be removed",
                shape_text(&old)
            )));
        }
        let shape = (0..old.len()).filter(|d| !gone.contains(d)).map(|d| old[d]).collect();
        reshaped(cx, inputs, shape)
    }))
}

fn unsqueeze<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let fixed = a.ints("axes")?;
    Ok(Box::new(move |cx, inputs| {
        let old = inputs.need(0)?.shape().to_vec();
        let list = axes(&fixed, &inputs)?.ok_or_else(|| Error::failed("it has no axes"))?;
        let rank = old.len() + list.len();
        let new = list.iter().map(|a| axis_of(*a, rank)).collect::<Result<Vec<_>>>()?;
        let mut rest = old.into_iter();
        let shape = (0..rank).map(|d| if new.contains(&d) { 1 } else { rest.next().unwrap_or(1) }).collect();
        reshaped(cx, inputs, shape)
    }))
}

fn shape<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let (start, end) = (a.int_or("start", 0)?, a.int("end")?);
    Ok(Box::new(move |_, inputs| {
        let s = inputs.need(0)?.shape();
        let rank = s.len() as i64;
        let at = |i: i64| (if i < 0 { i + rank } else { i }).clamp(0, rank) as usize;
        let (from, to) = (at(start), at(end.unwrap_or(rank)));
        let dims = s.get(from..to).unwrap_or(&[]).iter().map(|n| *n as i64).collect();
        Out::one(Value::ints(Tensor::vector(dims)))
    }))
}

/// An element type by its ONNX number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Float,
    Half,
    Bfloat,
    Int(IntKind),
    Bool,
}

fn target_type(code: i64) -> Result<Target> {
    use IntKind::*;
    Ok(match code {
        1 | 11 => Target::Float,
        10 => Target::Half,
        16 => Target::Bfloat,
        2 => Target::Int(U8),
        3 => Target::Int(I8),
        4 => Target::Int(U16),
        5 => Target::Int(I16),
        6 => Target::Int(I32),
        7 => Target::Int(I64),
        12 => Target::Int(U32),
        13 => Target::Int(U64),
        9 => Target::Bool,
        _ => {
            return Err(Error::failed(format!(
                "conversion to the ONNX type number {code} is not supported (floats to 64 bits, integers, booleans are)"
            )));
        }
    })
}

fn cast<R: Real>(cx: &crate::ops::Context, mut inputs: Inputs<R>, to: Target) -> Result<Out<R>> {
    let value = inputs.take(0)?;
    let round = move |v: R| match to {
        Target::Half => R::of(half::f16::from_f64(v.f64()).to_f64()),
        Target::Bfloat => R::of(half::bf16::from_f64(v.f64()).to_f64()),
        _ => v,
    };
    Ok(match (value, to) {
        (Value::Float(t), Target::Float | Target::Half | Target::Bfloat) => {
            let y = if to == Target::Float { t } else { t.map(round) };
            if cx.wants(0) {
                return Out::with(y, |g| Ok(vec![Some(g)])); // straight through the rounding
            }
            return Out::one(Value::Float(y));
        }
        (v, to) => {
            let value = match (v, to) {
                (Value::Float(t), Target::Bool) => Value::Bool(t.map(|v| v != R::ZERO)),
                (Value::Float(t), Target::Int(IntKind::U64)) => {
                    Value::Int(t.map(|v| v.f64() as u64 as i64), IntKind::U64)
                }
                (Value::Float(t), Target::Int(kind)) => Value::Int(t.map(|v| kind.wrap(v.f64() as i64)), kind),
                (Value::Int(t, _), Target::Bool) => Value::Bool(t.map(|v| v != 0)),
                (Value::Int(t, _), Target::Int(kind)) => Value::Int(t.map(|v| kind.wrap(v)), kind),
                (Value::Int(t, IntKind::U64), _) => Value::Float(t.map(|v| round(R::of(v as u64 as f64)))),
                (Value::Int(t, _), _) => Value::Float(t.map(|v| round(R::of(v as f64)))),
                (Value::Bool(t), Target::Bool) => Value::Bool(t),
                (Value::Bool(t), Target::Int(kind)) => Value::Int(t.map(i64::from), kind),
                (Value::Bool(t), _) => Value::Float(t.map(|v| if v { R::ONE } else { R::ZERO })),
                (Value::Float(t), _) => Value::Float(t),
            };
            Out { values: vec![value], back: None }
        }
    })
}

fn identity<R: Real>(cx: &crate::ops::Context, mut inputs: Inputs<R>) -> Result<Out<R>> {
    same(cx, inputs.take(0)?)
}

/// The value itself.
pub(super) fn same<R: Real>(cx: &crate::ops::Context, value: Value<R>) -> Result<Out<R>> {
    match value {
        Value::Float(t) if cx.wants(0) => Out::with(t, |g| Ok(vec![Some(g)])),
        v => Out::one(v),
    }
}

/// Dropout as exported for inference: it does nothing. Its mask output is all true.
fn dropout<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    a.ignore("ratio");
    a.ignore("seed");
    if a.opset() < 7 {
        a.ignore("is_test");
    }
    Ok(Box::new(|cx, inputs| {
        if inputs.get(2).is_some_and(|v| v.bool().is_ok_and(|b| b.data().contains(&true))) {
            return Err(Error::failed(
                "it is exported in training mode; export the model for inference, and put dropout back with retrain's \"dropout\"",
            ));
        }
        let shape = inputs.need(0)?.shape().to_vec();
        let mut out = identity(cx, inputs)?;
        if cx.outputs > 1 {
            out.values.push(Value::Bool(Tensor::full(shape, true)));
        }
        Ok(out)
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::{Yes, Zero};
    vec![
        Entry::new("Reshape", Yes, |a| {
            let allow_zero = a.int_or("allowzero", 0)? != 0;
            let fixed = a.ints("shape")?;
            Ok(Box::new(move |cx, inputs| {
                let wanted = axes(&fixed, &inputs)?.ok_or_else(|| Error::failed("it has no shape"))?;
                let shape = target(inputs.need(0)?.shape(), &wanted, allow_zero)?;
                reshaped(cx, inputs, shape)
            }))
        }),
        Entry::new("Flatten", Yes, |a| {
            let axis = a.int_or("axis", 1)?;
            Ok(Box::new(move |cx, inputs| {
                let s = inputs.need(0)?.shape();
                let at = if axis == s.len() as i64 { s.len() } else { axis_of(axis, s.len())? };
                let shape = vec![s[..at].iter().product(), s[at..].iter().product()];
                reshaped(cx, inputs, shape)
            }))
        }),
        Entry::new("Squeeze", Yes, squeeze),
        Entry::new("Unsqueeze", Yes, unsqueeze),
        Entry::new("Shape", Zero, shape),
        Entry::new("Size", Zero, |_| {
            Ok(Box::new(|_, inputs| Out::one(Value::ints(Tensor::scalar(inputs.need(0)?.len() as i64)))))
        }),
        Entry::new("Identity", Yes, |_| Ok(Box::new(identity))),
        Entry::new("Dropout", Yes, dropout),
        Entry::new("Cast", Yes, |a| {
            let to = target_type(a.int_or("to", 0)?)?;
            a.ignore("saturate");
            Ok(Box::new(move |cx, inputs| cast(cx, inputs, to)))
        }),
        Entry::new("CastLike", Yes, |a| {
            a.ignore("saturate");
            Ok(Box::new(|cx, inputs| {
                let to = match inputs.need(1)? {
                    Value::Float(_) => Target::Float,
                    Value::Int(_, kind) => Target::Int(*kind),
                    Value::Bool(_) => Target::Bool,
                };
                cast(cx, inputs, to)
            }))
        }),
    ]
}
