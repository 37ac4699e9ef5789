//! Writing by index.

use compress_core::{Error, Result};

use crate::buffer::Elem;
use crate::ops::index::{element_positions, tuple_positions};
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run, axis_of};
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

/// What happens to the old value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

fn how<R: Real>(a: &Attributes<R>) -> Result<How> {
    Ok(match a.word("reduction", "none", &["none", "add", "mul", "max", "min"])?.as_str() {
        "add" => How::Add,
        "mul" => How::Mul,
        "max" => How::Max,
        "min" => How::Min,
        _ => How::Replace,
    })
}

fn put<T: Elem>(
    mut base: Tensor<T>,
    at: &[usize],
    inner: usize,
    updates: &Tensor<T>,
    f: impl Fn(T, T) -> T,
) -> Tensor<T> {
    let data = base.data_mut();
    for (&p, u) in at.iter().zip(updates.data().chunks_exact(inner.max(1))) {
        for (d, v) in data[p..p + inner].iter_mut().zip(u) {
            *d = f(*d, *v);
        }
    }
    base
}

/// Runs of `inner` updates to given positions of input 0.
fn scatter<R: Real>(cx: &Context, mut inputs: Inputs<R>, at: Vec<usize>, inner: usize, how: How) -> Result<Out<R>> {
    let (base, updates) = (inputs.take(0)?, inputs.take(2)?);
    if updates.len() != at.len() * inner {
        return Err(Error::failed(format!(
            "updates {} do not fit {} indices of {inner} elements each",
            shape_text(updates.shape()),
            at.len()
        )));
    }
    match base {
        Value::Int(t, kind) => {
            let f = |a: i64, b: i64| match how {
                How::Replace => b,
                How::Add => kind.wrap(a.wrapping_add(b)),
                How::Mul => kind.wrap(a.wrapping_mul(b)),
                How::Max => a.max(b),
                How::Min => a.min(b),
            };
            Out::one(Value::Int(put(t, &at, inner, updates.int()?, f), kind))
        }
        Value::Bool(t) => Out::one(Value::Bool(put(t, &at, inner, updates.bool()?, |a, b| match how {
            How::Replace => b,
            How::Add | How::Max => a || b,
            How::Mul | How::Min => a && b,
        }))),
        Value::Float(t) => {
            let u = updates.float()?;
            let y = put(t, &at, inner, u, |a, b| match how {
                How::Replace => b,
                How::Add => a + b,
                How::Mul => a * b,
                How::Max => a.maximum(b),
                How::Min => a.minimum(b),
            });
            if !cx.any() {
                return Out::one(Value::Float(y));
            }
            if !matches!(how, How::Replace | How::Add) {
                return Err(Error::failed(
                    "its gradient is only written for reduction = none and add; freeze what feeds it or retrain by a command",
                ));
            }
            let (shape, wants) = (u.shape().to_vec(), [cx.wants(0), cx.wants(2)]);
            Out::with(y, move |g| {
                let gu = wants[1].then(|| {
                    let mut out = Vec::with_capacity(at.len() * inner);
                    for &p in &at {
                        out.extend_from_slice(&g.data()[p..p + inner]);
                    }
                    Tensor::new(shape, out)
                });
                let gb = wants[0].then(|| match how {
                    How::Add => g,
                    _ => {
                        let zeros = Tensor::zeros([at.len() * inner]);
                        put(g, &at, inner, &zeros, |_, z| z)
                    }
                });
                Ok(vec![gb, None, gu])
            })
        }
    }
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    let elements: fn(&Attributes<R>) -> Result<Run<R>> = |a| {
        let (axis, how) = (a.int_or("axis", 0)?, how(a)?);
        Ok(Box::new(move |cx, inputs| {
            let shape = inputs.need(0)?.shape();
            let at = element_positions(shape, inputs.int(1)?, axis_of(axis, shape.len())?)?;
            scatter(cx, inputs, at, 1, how)
        }))
    };
    vec![
        Entry::new("ScatterElements", Yes, elements),
        Entry::new("Scatter", Yes, elements),
        Entry::new("ScatterND", Yes, |a| {
            let how = how(a)?;
            Ok(Box::new(move |cx, inputs| {
                let (at, inner) = tuple_positions(inputs.need(0)?.shape(), inputs.int(1)?, 0)?;
                scatter(cx, inputs, at, inner, how)
            }))
        }),
    ]
}
