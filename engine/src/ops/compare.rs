//! Comparisons, logic, bits, and choosing by a condition.

use compress_core::{Error, Result};

use crate::buffer::{Buf, Elem};
use crate::kernels::broadcast::{binary, common_shape, ternary};
use crate::ops::arithmetic::{integers, unbroadcast};
use crate::ops::{Entry, Gradient, Inputs, Out, Run};
use crate::real::Real;
use crate::value::{IntKind, Tensor, Value};

fn each<T: Elem, V: Elem>(a: &Tensor<T>, b: &Tensor<T>, f: impl Fn(T, T) -> V) -> Result<Tensor<V>> {
    let shape = common_shape(&[a.shape(), b.shape()])?;
    let mut out = Buf::stale(shape.iter().product());
    binary(&shape, (a.data(), a.shape()), (b.data(), b.shape()), &mut out, f);
    Ok(Tensor::new(shape, out))
}

/// A comparison of floats and of integers.
fn comparison<R: Real>(float: fn(R, R) -> bool, int: fn(i64, i64) -> bool) -> Result<Run<R>> {
    Ok(Box::new(move |_, inputs| {
        let t = match (inputs.need(0)?, inputs.need(1)?) {
            (Value::Int(a, _), Value::Int(b, _)) => each(a, b, int)?,
            (Value::Bool(a), Value::Bool(b)) => each(a, b, |x, y| int(i64::from(x), i64::from(y)))?,
            (a, b) => each(a.float()?, b.float()?, float)?,
        };
        Out::one(Value::Bool(t))
    }))
}

fn logic<R: Real>(f: fn(bool, bool) -> bool) -> Result<Run<R>> {
    Ok(Box::new(move |_, inputs| Out::one(Value::Bool(each(inputs.need(0)?.bool()?, inputs.need(1)?.bool()?, f)?))))
}

fn bits<R: Real>(f: fn(i64, i64) -> i64) -> Result<Run<R>> {
    Ok(Box::new(move |_, inputs| match inputs.need(0)? {
        Value::Int(a, kind) => Out::one(Value::Int(integers(a, inputs.int(1)?, |x, y| Ok(kind.wrap(f(x, y))))?, *kind)),
        v => Err(Error::failed(format!("an integer tensor was expected, this one is {}", v.kind()))),
    }))
}

/// Right shifts of signed integers fill with the sign; a count outside the width shifts everything out.
fn shift(a: i64, by: i64, left: bool, kind: IntKind) -> i64 {
    let inside = (0..i64::from(kind.bits())).contains(&by);
    match (left, kind.signed()) {
        (true, _) if inside => kind.wrap(a << by),
        (false, true) => a >> if inside { by } else { 63 },
        (false, false) if inside => ((a as u64) >> by) as i64,
        _ => 0,
    }
}

/// Where: gradients go to the side that was chosen.
fn choose<R: Real>(cx: &crate::ops::Context, inputs: Inputs<R>) -> Result<Out<R>> {
    let cond = inputs.need(0)?.bool()?.clone();
    fn pick<T: Elem>(cond: &Tensor<bool>, a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
        let shape = common_shape(&[cond.shape(), a.shape(), b.shape()])?;
        let mut out = Buf::stale(shape.iter().product());
        let c = (cond.data(), cond.shape());
        ternary(&shape, c, (a.data(), a.shape()), (b.data(), b.shape()), &mut out, |c, x, y| if c { x } else { y });
        Ok(Tensor::new(shape, out))
    }
    let (a, b) = match (inputs.need(1)?, inputs.need(2)?) {
        (Value::Int(a, kind), b) => return Out::one(Value::Int(pick(&cond, a, b.int()?)?, *kind)),
        (Value::Bool(a), b) => return Out::one(Value::Bool(pick(&cond, a, b.bool()?)?)),
        (Value::Float(a), b) => (a, b.float()?),
    };
    let y = pick(&cond, a, b)?;
    if !cx.any() {
        return Out::one(Value::Float(y));
    }
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    let wants = [cx.wants(1), cx.wants(2)];
    Out::with(y, move |g| {
        let zero = Tensor::scalar(R::ZERO);
        let ga = if wants[0] { Some(unbroadcast(pick(&cond, &g, &zero)?, &sa)) } else { None };
        let gb = if wants[1] { Some(unbroadcast(pick(&cond, &zero, &g)?, &sb)) } else { None };
        Ok(vec![None, ga, gb])
    })
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::{Yes, Zero};
    vec![
        Entry::new("Equal", Zero, |_| comparison(|a, b| a == b, |a, b| a == b)),
        Entry::new("Less", Zero, |_| comparison(|a, b| a < b, |a, b| a < b)),
        Entry::new("LessOrEqual", Zero, |_| comparison(|a, b| a <= b, |a, b| a <= b)),
        Entry::new("Greater", Zero, |_| comparison(|a, b| a > b, |a, b| a > b)),
        Entry::new("GreaterOrEqual", Zero, |_| comparison(|a, b| a >= b, |a, b| a >= b)),
        Entry::new("And", Zero, |_| logic(|a, b| a && b)),
        Entry::new("Or", Zero, |_| logic(|a, b| a || b)),
        Entry::new("Xor", Zero, |_| logic(|a, b| a != b)),
        Entry::new("Not", Zero, |_| {
            Ok(Box::new(|_, inputs| Out::one(Value::Bool(inputs.need(0)?.bool()?.map(|v| !v)))))
        }),
        Entry::new("IsNaN", Zero, |_| {
            Ok(Box::new(|_, inputs| Out::one(Value::Bool(inputs.float(0)?.map(|v| v.is_nan())))))
        }),
        Entry::new("IsInf", Zero, |a| {
            let (low, high) = (a.int_or("detect_negative", 1)? != 0, a.int_or("detect_positive", 1)? != 0);
            Ok(Box::new(move |_, inputs| {
                let inf = |v: R| !v.finite() && !v.is_nan() && if v > R::ZERO { high } else { low };
                Out::one(Value::Bool(inputs.float(0)?.map(inf)))
            }))
        }),
        Entry::new("BitShift", Zero, |a| {
            let left = a.word("direction", "", &["LEFT", "RIGHT"])? == "LEFT";
            Ok(Box::new(move |_, inputs| match inputs.need(0)? {
                Value::Int(a, kind) => {
                    let t = integers(a, inputs.int(1)?, |x, y| Ok(shift(x, y, left, *kind)))?;
                    Out::one(Value::Int(t, *kind))
                }
                v => Err(Error::failed(format!("an integer tensor was expected, this one is {}", v.kind()))),
            }))
        }),
        Entry::new("BitwiseAnd", Zero, |_| bits(|a, b| a & b)),
        Entry::new("BitwiseOr", Zero, |_| bits(|a, b| a | b)),
        Entry::new("BitwiseXor", Zero, |_| bits(|a, b| a ^ b)),
        Entry::new("BitwiseNot", Zero, |_| {
            Ok(Box::new(|_, inputs| match inputs.need(0)? {
                Value::Int(t, kind) => Out::one(Value::Int(t.map(|v| kind.wrap(!v)), *kind)),
                v => Err(Error::failed(format!("an integer tensor was expected, this one is {}", v.kind()))),
            }))
        }),
        Entry::new("Where", Yes, |_| Ok(Box::new(choose))),
    ]
}
