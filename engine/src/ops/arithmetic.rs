//! Arithmetic of two or more tensors that broadcast together.

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::broadcast::{binary, common_shape, reduce_to};
use crate::ops::{Context, Entry, Gradient, Grads, Inputs, Out, Run};
use crate::real::Real;
use crate::value::{IntKind, Tensor, Value};

/// f of two float tensors.
pub(super) fn broadcast<R: Real>(a: &Tensor<R>, b: &Tensor<R>, f: impl Fn(R, R) -> R) -> Result<Tensor<R>> {
    let shape = common_shape(&[a.shape(), b.shape()])?;
    let mut out = Buf::stale(shape.iter().product());
    binary(&shape, (a.data(), a.shape()), (b.data(), b.shape()), &mut out, f);
    Ok(Tensor::new(shape, out))
}

/// The same where `a` may be overwritten.
fn broadcast_into<R: Real>(mut a: Tensor<R>, b: &Tensor<R>, f: impl Fn(R, R) -> R) -> Result<Tensor<R>> {
    if common_shape(&[a.shape(), b.shape()])? == a.shape() {
        let shape = a.shape().to_vec();
        if let Some(data) = a.unique_mut() {
            crate::kernels::broadcast::binary_into(&shape, data, (b.data(), b.shape()), f);
            return Ok(a);
        }
    }
    broadcast(&a, b, f)
}

/// Sums a gradient over what was broadcast from `shape`.
pub(super) fn unbroadcast<R: Real>(g: Tensor<R>, shape: &[usize]) -> Tensor<R> {
    if g.shape() == shape {
        return g;
    }
    let mut out = Tensor::zeros(shape);
    reduce_to(g.data(), g.shape(), out.data_mut(), shape);
    out
}

/// A binary operator on floats with the gradients `da(g, a, b)` and `db(g, a, b)` elementwise, on integers by `int`.
fn operator<R: Real>(
    f: impl Fn(R, R) -> R + Copy + Send + Sync + 'static,
    int: fn(i64, i64, IntKind) -> Result<i64>,
    da: impl Fn(R, R, R) -> R + Copy + Send + Sync + 'static,
    db: impl Fn(R, R, R) -> R + Copy + Send + Sync + 'static,
) -> Result<Run<R>> {
    Ok(Box::new(move |cx, mut inputs| {
        if let (Value::Int(a, kind), Value::Int(b, _)) = (inputs.need(0)?, inputs.need(1)?) {
            return Out::one(Value::Int(integers(a, b, |x, y| int(x, y, *kind))?, *kind));
        }
        let (a, b) = (inputs.take_float(0)?, inputs.take_float(1)?);
        if !cx.any() {
            return Out::one(Value::Float(broadcast_into(a, &b, f)?));
        }
        let y = broadcast(&a, &b, f)?;
        let wants = [cx.wants(0), cx.wants(1)];
        Out::with(y, move |g| {
            let part = |d: &dyn Fn(R, R, R) -> R, shape: &[usize]| -> Result<Tensor<R>> {
                let mut out = Buf::stale(g.len());
                crate::kernels::broadcast::ternary(
                    g.shape(),
                    (g.data(), g.shape()),
                    (a.data(), a.shape()),
                    (b.data(), b.shape()),
                    &mut out,
                    d,
                );
                Ok(unbroadcast(Tensor::new(g.shape(), out), shape))
            };
            let ga = if wants[0] { Some(part(&da, a.shape())?) } else { None };
            let gb = if wants[1] { Some(part(&db, b.shape())?) } else { None };
            Ok(vec![ga, gb])
        })
    }))
}

/// f of two integer tensors.
pub(super) fn integers(a: &Tensor<i64>, b: &Tensor<i64>, f: impl Fn(i64, i64) -> Result<i64>) -> Result<Tensor<i64>> {
    let shape = common_shape(&[a.shape(), b.shape()])?;
    let mut out = Buf::stale(shape.iter().product());
    let failed = std::cell::RefCell::new(None);
    binary(&shape, (a.data(), a.shape()), (b.data(), b.shape()), &mut out, |x, y| {
        f(x, y).unwrap_or_else(|e| {
            failed.borrow_mut().get_or_insert(e);
            0
        })
    });
    match failed.into_inner() {
        Some(e) => Err(e),
        None => Ok(Tensor::new(shape, out)),
    }
}

/// Add and Sub keep nothing but shapes.
fn additive<R: Real>(sign: R, int: fn(i64, i64, IntKind) -> Result<i64>) -> Result<Run<R>> {
    Ok(Box::new(move |cx, mut inputs| {
        if let (Value::Int(a, kind), Value::Int(b, _)) = (inputs.need(0)?, inputs.need(1)?) {
            return Out::one(Value::Int(integers(a, b, |x, y| int(x, y, *kind))?, *kind));
        }
        let (a, b) = (inputs.take_float(0)?, inputs.take_float(1)?);
        let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
        let plus = sign == R::ONE;
        let y = match common_shape(&[&sa, &sb])? {
            // the larger operand gives the memory
            s if plus && s == sb && s != sa => broadcast_into(b, &a, |x, y| x + y)?,
            _ if plus => broadcast_into(a, &b, |x, y| x + y)?,
            _ => broadcast_into(a, &b, |x, y| x - y)?,
        };
        if !cx.any() {
            return Out::one(Value::Float(y));
        }
        let wants = [cx.wants(0), cx.wants(1)];
        Out::with(y, move |g| {
            let gb = wants[1].then(|| {
                let g = unbroadcast(g.clone(), &sb);
                if plus { g } else { g.map(|v| -v) }
            });
            Ok(vec![wants[0].then(|| unbroadcast(g, &sa)), gb])
        })
    }))
}

/// Sum, Mean, Max, Min of any number of tensors, as a chain of two.
fn variadic<R: Real>(f: fn(R, R) -> R, int: fn(i64, i64) -> i64, pick: bool, mean: bool) -> Result<Run<R>> {
    Ok(Box::new(move |cx, inputs| {
        let Inputs(list) = inputs;
        let list: Vec<Value<R>> = list.into_iter().flatten().collect();
        if let Some(Value::Int(first, kind)) = list.first() {
            let mut acc = first.clone();
            for v in &list[1..] {
                acc = integers(&acc, v.int()?, |x, y| Ok(int(x, y)))?;
            }
            return Out::one(Value::Int(acc, *kind));
        }
        let floats = list.iter().map(|v| v.float().cloned()).collect::<Result<Vec<_>>>()?;
        let Some((first, rest)) = floats.split_first() else {
            return Err(Error::failed("it has no inputs"));
        };
        let mut y = first.clone();
        for t in rest {
            y = broadcast(&y, t, f)?;
        }
        let scale = if mean { R::ONE / R::count(floats.len()) } else { R::ONE };
        if mean {
            y = y.map(|v| v * scale);
        }
        if !cx.any() {
            return Out::one(Value::Float(y));
        }
        let (kept, wants) = (y.clone(), cx.grad.clone());
        Out::with(y, move |g| back_of_variadic(&g, &kept, &floats, &wants, pick, scale))
    }))
}

/// For Max and Min the gradient goes to the first operand that equals the result.
fn back_of_variadic<R: Real>(
    g: &Tensor<R>,
    y: &Tensor<R>,
    list: &[Tensor<R>],
    wants: &[bool],
    pick: bool,
    scale: R,
) -> Result<Grads<R>> {
    let mut left = g.map(|v| v * scale);
    let mut out = Vec::new();
    for (t, want) in list.iter().zip(wants) {
        let share = if pick {
            let hit = broadcast(y, t, |y, t| if y == t { R::ONE } else { R::ZERO })?;
            let share = broadcast(&left, &hit, |g, h| g * h)?;
            left = broadcast(&left, &hit, |g, h| g * (R::ONE - h))?;
            share
        } else {
            left.clone()
        };
        out.push(want.then(|| unbroadcast(share, t.shape())));
    }
    Ok(out)
}

fn divide(a: i64, b: i64, kind: IntKind) -> Result<i64> {
    match b {
        0 => Err(Error::failed("an integer is divided by zero")),
        _ if kind == IntKind::U64 => Ok((a as u64 / b as u64) as i64),
        _ => Ok(kind.wrap(a.wrapping_div(b))),
    }
}

fn remainder(a: i64, b: i64, kind: IntKind, fmod: bool) -> Result<i64> {
    if b == 0 {
        return Err(Error::failed("an integer is divided by zero"));
    }
    if kind == IntKind::U64 {
        return Ok((a as u64 % b as u64) as i64);
    }
    let r = a.wrapping_rem(b);
    Ok(if !fmod && r != 0 && (r < 0) != (b < 0) { r + b } else { r })
}

/// Pow: the exponent may be of another type than the base.
fn pow<R: Real>() -> Result<Run<R>> {
    fn power<R: Real>(x: R, y: R) -> R {
        if y == R::of(2.0) {
            x * x
        } else if y == R::of(0.5) {
            x.sqrt()
        } else {
            x.powf(y)
        }
    }
    let floats = operator::<R>(
        power,
        |a, b, _| Ok((a as f64).powf(b as f64) as i64),
        |g, x, y| if y == R::of(2.0) { g * y * x } else { g * y * x.powf(y - R::ONE) },
        |g, x, y| if x > R::ZERO { g * power(x, y) * x.ln() } else { R::ZERO },
    )?;
    Ok(Box::new(move |cx: &Context, inputs: Inputs<R>| {
        let as_float = |v: &Value<R>| match v {
            Value::Int(t, _) => Value::Float(t.map(|i| R::of(i as f64))),
            v => v.clone(),
        };
        match (inputs.need(0)?, inputs.need(1)?) {
            (Value::Float(_), b @ Value::Int(..)) => {
                let list = vec![inputs.get(0).cloned(), Some(as_float(b))];
                floats(cx, Inputs(list))
            }
            (a @ Value::Int(_, kind), b @ Value::Float(_)) => {
                let y = broadcast(as_float(a).float()?, b.float()?, power)?;
                Out::one(Value::Int(y.map(|v| kind.wrap(v.f64() as i64)), *kind))
            }
            _ => floats(cx, inputs),
        }
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    vec![
        Entry::new("Add", Yes, |_| additive(R::ONE, |a, b, k| Ok(k.wrap(a.wrapping_add(b))))),
        Entry::new("Sub", Yes, |_| additive(-R::ONE, |a, b, k| Ok(k.wrap(a.wrapping_sub(b))))),
        Entry::new("Mul", Yes, |_| {
            operator(|a: R, b| a * b, |a, b, k| Ok(k.wrap(a.wrapping_mul(b))), |g, _, b| g * b, |g, a, _| g * a)
        }),
        Entry::new("Div", Yes, |_| operator(|a: R, b| a / b, divide, |g, _, b| g / b, |g, a, b| -g * a / (b * b))),
        Entry::new("Pow", Yes, |_| pow()),
        Entry::new("PRelu", Yes, |_| {
            operator(
                |x: R, s| if x < R::ZERO { s * x } else { x },
                |x, s, k| Ok(k.wrap(if x < 0 { x.wrapping_mul(s) } else { x })),
                |g, x, s| if x < R::ZERO { g * s } else { g },
                |g, x, _| if x < R::ZERO { g * x } else { R::ZERO },
            )
        }),
        Entry::new("Mod", Gradient::Zero, |a| {
            let fmod = a.int_or("fmod", 0)? != 0;
            Ok(Box::new(move |_, inputs| match (inputs.need(0)?, inputs.need(1)?) {
                (Value::Int(a, kind), Value::Int(b, _)) => {
                    Out::one(Value::Int(integers(a, b, |x, y| remainder(x, y, *kind, fmod))?, *kind))
                }
                (a, b) => Out::one(Value::Float(broadcast(a.float()?, b.float()?, |x, y| {
                    let (x, y) = (x.f64(), y.f64());
                    let r = x % y;
                    R::of(if !fmod && r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r })
                })?)),
            }))
        }),
        Entry::new("Sum", Yes, |_| variadic(|a, b| a + b, |a, b| a.wrapping_add(b), false, false)),
        Entry::new("Mean", Yes, |_| variadic(|a, b| a + b, |a, b| a.wrapping_add(b), false, true)),
        Entry::new("Max", Yes, |_| variadic(R::maximum, i64::max, true, false)),
        Entry::new("Min", Yes, |_| variadic(R::minimum, i64::min, true, false)),
    ]
}
