//! Elementwise functions of one tensor.

use compress_core::{Error, Result};

use crate::kernels::activation::softplus;
use crate::kernels::simd;
use crate::ops::{Attributes, Entry, Gradient, Out, Run};
use crate::real::Real;
use crate::value::{Tensor, Value};

/// What the derivative is made from; the other one is not kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Input,
    Output,
}

/// y = f(x) with dx = dy · slope(kept). `f` and `slope` are inlined into vector loops.
fn unary<R: Real>(
    keep: Keep,
    f: impl Fn(R) -> R + Copy + Send + Sync + 'static,
    slope: impl Fn(R) -> R + Copy + Send + Sync + 'static,
) -> Result<Run<R>> {
    Ok(Box::new(move |cx, mut inputs| {
        let x = inputs.take_float(0)?;
        if !cx.any() {
            return Out::one(Value::Float(apply(x, f)));
        }
        let input = (keep == Keep::Input).then(|| x.clone());
        let y = apply(x, f);
        let kept = input.unwrap_or_else(|| y.clone());
        Out::with(y, move |mut g| {
            let d = g.data_mut();
            let k = kept.data();
            simd(
                #[inline(always)]
                || {
                    for (d, k) in d.iter_mut().zip(k) {
                        *d *= slope(*k);
                    }
                },
            );
            Ok(vec![Some(g)])
        })
    }))
}

/// f of every element, in place where nobody else holds them.
fn apply<R: Real>(mut x: Tensor<R>, f: impl Fn(R) -> R + Copy) -> Tensor<R> {
    match x.unique_mut() {
        Some(data) => {
            simd(
                #[inline(always)]
                || {
                    for v in data.iter_mut() {
                        *v = f(*v);
                    }
                },
            );
            x
        }
        None => simd(
            #[inline(always)]
            || x.map(f),
        ),
    }
}

/// Operators without attributes: `"Name": Keep, f, slope`.
macro_rules! plain {
    ($name:literal, $keep:ident, $f:expr, $slope:expr) => {
        Entry::new($name, Gradient::Yes, |_| unary(Keep::$keep, $f, $slope))
    };
}

/// Operators that are flat wherever they are smooth.
macro_rules! flat {
    ($name:literal, $f:expr) => {
        Entry::new($name, Gradient::Zero, |_| {
            Ok(Box::new(|_, mut inputs| Out::one(Value::Float(apply(inputs.take_float(0)?, $f)))))
        })
    };
}

fn c<R: Real>(v: f64) -> R {
    R::of(v)
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    vec![
        Entry::new("Abs", Yes, |_| {
            let run = unary(Keep::Input, R::abs, |x: R| sign(x))?;
            Ok(Box::new(move |cx, inputs| match inputs.need(0)? {
                Value::Int(t, kind) => Out::one(Value::Int(t.map(i64::wrapping_abs), *kind)),
                _ => run(cx, inputs),
            }))
        }),
        Entry::new("Neg", Yes, |_| {
            let run = unary(Keep::Output, |x: R| -x, |_| -R::ONE)?;
            Ok(Box::new(move |cx, inputs| match inputs.need(0)? {
                Value::Int(t, kind) => Out::one(Value::Int(t.map(|v| kind.wrap(v.wrapping_neg())), *kind)),
                _ => run(cx, inputs),
            }))
        }),
        plain!("Exp", Output, R::exp, |y| y),
        plain!("Log", Input, R::ln, |x| R::ONE / x),
        plain!("Sqrt", Output, R::sqrt, |y| c::<R>(0.5) / y),
        plain!("Reciprocal", Output, |x: R| R::ONE / x, |y| -y * y),
        plain!("Tanh", Output, R::tanh, |y| R::ONE - y * y),
        plain!("Sigmoid", Output, R::sigmoid, |y| y * (R::ONE - y)),
        plain!("Relu", Output, |x: R| x.maximum(R::ZERO), |y| if y > R::ZERO { R::ONE } else { R::ZERO }),
        plain!("Erf", Input, R::erf, |x| c::<R>(std::f64::consts::FRAC_2_SQRT_PI) * (-x * x).exp()),
        plain!("Sin", Input, |x: R| c(x.f64().sin()), |x| c(x.f64().cos())),
        plain!("Cos", Input, |x: R| c(x.f64().cos()), |x| c(-x.f64().sin())),
        plain!("Softplus", Input, softplus, R::sigmoid),
        plain!("Softsign", Output, |x: R| x / (R::ONE + x.abs()), |y| (R::ONE - y.abs()) * (R::ONE - y.abs())),
        plain!("HardSwish", Input, |x: R| x * hard(x), hard_swish_slope),
        plain!("Mish", Input, |x: R| x * softplus(x).tanh(), mish_slope),
        Entry::new("Gelu", Yes, |a| match a.word("approximate", "none", &["none", "tanh"])?.as_str() {
            "none" => unary(Keep::Input, gelu, gelu_slope),
            _ => unary(Keep::Input, gelu_tanh, gelu_tanh_slope),
        }),
        Entry::new("LeakyRelu", Yes, |a| {
            let alpha: R = c(a.float_or("alpha", 0.01)?);
            unary(
                Keep::Input,
                move |x: R| if x < R::ZERO { alpha * x } else { x },
                move |x: R| if x < R::ZERO { alpha } else { R::ONE },
            )
        }),
        Entry::new("Elu", Yes, |a| {
            let alpha: R = c(a.float_or("alpha", 1.0)?);
            unary(
                Keep::Input,
                move |x: R| if x < R::ZERO { alpha * (x.exp() - R::ONE) } else { x },
                move |x: R| if x < R::ZERO { alpha * x.exp() } else { R::ONE },
            )
        }),
        Entry::new("Celu", Yes, |a| {
            let alpha: R = c(a.float_or("alpha", 1.0)?);
            unary(
                Keep::Input,
                move |x: R| if x < R::ZERO { alpha * ((x / alpha).exp() - R::ONE) } else { x },
                move |x: R| if x < R::ZERO { (x / alpha).exp() } else { R::ONE },
            )
        }),
        Entry::new("Selu", Yes, |a| {
            let alpha: R = c(a.float_or("alpha", 1.673_263_192_176_818_8)?);
            let gamma: R = c(a.float_or("gamma", 1.050_701_022_148_132_3)?);
            unary(
                Keep::Input,
                move |x: R| gamma * if x <= R::ZERO { alpha * (x.exp() - R::ONE) } else { x },
                move |x: R| gamma * if x <= R::ZERO { alpha * x.exp() } else { R::ONE },
            )
        }),
        Entry::new("ThresholdedRelu", Yes, |a| {
            let alpha: R = c(a.float_or("alpha", 1.0)?);
            unary(
                Keep::Input,
                move |x: R| if x > alpha { x } else { R::ZERO },
                move |x: R| if x > alpha { R::ONE } else { R::ZERO },
            )
        }),
        Entry::new("HardSigmoid", Yes, |a| {
            let (alpha, beta): (R, R) = (c(a.float_or("alpha", 0.2)?), c(a.float_or("beta", 0.5)?));
            unary(
                Keep::Output,
                move |x: R| (alpha * x + beta).maximum(R::ZERO).minimum(R::ONE),
                move |y: R| if y > R::ZERO && y < R::ONE { alpha } else { R::ZERO },
            )
        }),
        Entry::new("Clip", Yes, clip),
        flat!("Floor", |x: R| c::<R>(x.f64().floor())),
        flat!("Ceil", |x: R| c::<R>(x.f64().ceil())),
        flat!("Round", |x: R| c::<R>(x.f64().round_ties_even())),
        Entry::new("Sign", Gradient::Zero, |_| {
            Ok(Box::new(|_, inputs| {
                Out::one(match inputs.need(0)? {
                    Value::Int(t, kind) => Value::Int(t.map(i64::signum), *kind),
                    v => Value::Float(v.float()?.map(sign)),
                })
            }))
        }),
    ]
}

fn sign<R: Real>(x: R) -> R {
    if x > R::ZERO {
        R::ONE
    } else if x < R::ZERO {
        -R::ONE
    } else {
        x
    }
}

fn hard<R: Real>(x: R) -> R {
    (x / c(6.0) + c(0.5)).maximum(R::ZERO).minimum(R::ONE)
}

fn hard_swish_slope<R: Real>(x: R) -> R {
    let h = hard(x);
    if h > R::ZERO && h < R::ONE { h + x / c(6.0) } else { h }
}

fn mish_slope<R: Real>(x: R) -> R {
    let t = softplus(x).tanh();
    t + x * (R::ONE - t * t) * x.sigmoid()
}

/// x · Φ(x), Φ the normal distribution (Hendrycks & Gimpel 2016).
#[inline(always)]
fn gelu<R: Real>(x: R) -> R {
    c::<R>(0.5) * x * (R::ONE + (x * c(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

#[inline(always)]
fn gelu_slope<R: Real>(x: R) -> R {
    let density = c::<R>(0.398_942_280_401_432_7) * (-x * x * c(0.5)).exp();
    c::<R>(0.5) * (R::ONE + (x * c(std::f64::consts::FRAC_1_SQRT_2)).erf()) + x * density
}

const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

#[inline(always)]
fn gelu_tanh<R: Real>(x: R) -> R {
    c::<R>(0.5) * x * (R::ONE + (c::<R>(SQRT_2_OVER_PI) * (x + c::<R>(0.044715) * x * x * x)).tanh())
}

#[inline(always)]
fn gelu_tanh_slope<R: Real>(x: R) -> R {
    let t = (c::<R>(SQRT_2_OVER_PI) * (x + c::<R>(0.044715) * x * x * x)).tanh();
    let inner = c::<R>(SQRT_2_OVER_PI) * (R::ONE + c::<R>(3.0 * 0.044715) * x * x);
    c::<R>(0.5) * (R::ONE + t) + c::<R>(0.5) * x * (R::ONE - t * t) * inner
}

/// Clip: bounds are attributes before opset 11, inputs since.
fn clip<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let (low, high) = (a.float("min")?, a.float("max")?);
    Ok(Box::new(move |cx, mut inputs| {
        if let Value::Int(t, kind) = inputs.need(0)? {
            let bound = |i: usize, d: i64| inputs.get(i).map_or(Ok(d), |v| scalar(v.int()?));
            let (lo, hi) = (bound(1, i64::MIN)?, bound(2, i64::MAX)?);
            return Out::one(Value::Int(t.map(|v| v.max(lo).min(hi)), *kind));
        }
        let bound = |i: usize, d: Option<f64>, free: R| match inputs.float_if(i)? {
            Some(t) => scalar(t),
            None => Ok(d.map_or(free, R::of)),
        };
        let lo = bound(1, low, R::NEG_INFINITY)?;
        let hi = bound(2, high, -R::NEG_INFINITY)?;
        let x = inputs.take_float(0)?;
        if !cx.wants(0) {
            return Out::one(Value::Float(apply(x, move |v| v.maximum(lo).minimum(hi))));
        }
        let y = x.map(|v| v.maximum(lo).minimum(hi));
        Out::with(y, move |mut g| {
            for (d, v) in g.data_mut().iter_mut().zip(x.data()) {
                if *v < lo || *v > hi {
                    *d = R::ZERO;
                }
            }
            Ok(vec![Some(g)])
        })
    }))
}

fn scalar<T: crate::buffer::Elem>(t: &Tensor<T>) -> Result<T> {
    match t.data() {
        [v] => Ok(*v),
        _ => Err(Error::failed(format!("a single number was expected, not {} of them", t.len()))),
    }
}
