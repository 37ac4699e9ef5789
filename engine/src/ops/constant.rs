//! Values out of nothing: constants, ranges, filled tensors.

use compress_core::{Error, Result};

use crate::ops::{Attributes, Entry, Gradient, Out, Run};
use crate::real::Real;
use crate::value::{Tensor, Value};

fn constant<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let mut found = a.tensor("value")?;
    if let Some(v) = a.float("value_float")? {
        found = Some(Value::Float(Tensor::scalar(R::of(v))));
    }
    if let Some(v) = a.int("value_int")? {
        found = Some(Value::ints(Tensor::scalar(v)));
    }
    if let Some(v) = a.ints("value_ints")? {
        found = Some(Value::ints(Tensor::vector(v)));
    }
    if let Some(v) = a.floats("value_floats")? {
        found = Some(Value::Float(Tensor::vector(v.into_iter().map(R::of).collect())));
    }
    let Some(value) = found else {
        return Err(Error::failed(
            "it holds no value that the engine can compute with (strings and sparse tensors are not)",
        ));
    };
    Ok(Box::new(move |_, _| Out::one(value.clone())))
}

/// A shape given as integers.
pub(super) fn shape_of(dims: &[i64]) -> Result<Vec<usize>> {
    dims.iter()
        .map(|&d| {
            usize::try_from(d)
                .map_err(|_| Error::failed(format!("a tensor cannot have {d} elements along a dimension")))
        })
        .collect()
}

fn range<T: Copy>(start: f64, limit: f64, delta: f64, at: impl Fn(usize) -> T) -> Result<Vec<T>> {
    let n = ((limit - start) / delta).ceil().max(0.0);
    if delta == 0.0 || !n.is_finite() {
        return Err(Error::failed(format!("a range from {start} to {limit} by {delta} never ends")));
    }
    Ok((0..n as usize).map(at).collect())
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Zero;
    vec![
        Entry::new("Constant", Zero, constant),
        Entry::new("ConstantOfShape", Zero, |a| {
            let fill = a.tensor("value")?.unwrap_or(Value::Float(Tensor::vector(vec![R::ZERO])));
            if fill.len() != 1 {
                return Err(Error::failed("its value must be one element"));
            }
            Ok(Box::new(move |_, inputs| {
                let shape = shape_of(inputs.int(0)?.data())?;
                Out::one(match &fill {
                    Value::Float(t) => Value::Float(Tensor::full(shape, t.data()[0])),
                    Value::Int(t, kind) => Value::Int(Tensor::full(shape, t.data()[0]), *kind),
                    Value::Bool(t) => Value::Bool(Tensor::full(shape, t.data()[0])),
                })
            }))
        }),
        Entry::new("Range", Zero, |_| {
            Ok(Box::new(|_, inputs| {
                let first = |i: usize| -> Result<f64> {
                    let v = match inputs.need(i)? {
                        Value::Int(t, _) => t.data().first().map(|v| *v as f64),
                        v => v.float()?.data().first().map(|v| v.f64()),
                    };
                    v.ok_or_else(|| Error::failed("a single number was expected, not none"))
                };
                let (start, limit, delta) = (first(0)?, first(1)?, first(2)?);
                Out::one(match inputs.need(0)? {
                    Value::Int(_, kind) => {
                        let (s, d) = (start as i64, delta as i64);
                        Value::Int(Tensor::vector(range(start, limit, delta, |i| s + d * i as i64)?), *kind)
                    }
                    _ => Value::Float(Tensor::vector(range(start, limit, delta, |i| R::of(start + delta * i as f64))?)),
                })
            }))
        }),
    ]
}
