//! The activation functions that ONNX recurrent operators may name, with derivatives in terms of their output.

use compress_core::{Error, Result};

use crate::real::Real;

/// An activation with its parameters.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Affine { alpha: f64, beta: f64 },
    LeakyRelu { alpha: f64 },
    ThresholdedRelu { alpha: f64 },
    ScaledTanh { alpha: f64, beta: f64 },
    HardSigmoid { alpha: f64, beta: f64 },
    Elu { alpha: f64 },
    Softsign,
    Softplus,
}

use Activation as A;

impl Activation {
    /// From its ONNX name (any case); takes what it needs from `alphas` and `betas` in order.
    pub fn parse(
        name: &str,
        alphas: &mut impl Iterator<Item = f64>,
        betas: &mut impl Iterator<Item = f64>,
    ) -> Result<Activation> {
        let mut alpha = |default: f64| alphas.next().unwrap_or(default);
        let mut beta = |default: f64| betas.next().unwrap_or(default);
        Ok(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => A::Sigmoid,
            "tanh" => A::Tanh,
            "relu" => A::Relu,
            "affine" => A::Affine { alpha: alpha(1.0), beta: beta(0.0) },
            "leakyrelu" => A::LeakyRelu { alpha: alpha(0.01) },
            "thresholdedrelu" => A::ThresholdedRelu { alpha: alpha(1.0) },
            "scaledtanh" => A::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) },
            "hardsigmoid" => A::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
            "elu" => A::Elu { alpha: alpha(1.0) },
            "softsign" => A::Softsign,
            "softplus" => A::Softplus,
            _ => return Err(Error::failed(format!("activation \"{name}\" is not one that ONNX defines"))),
        })
    }

    /// x = f(x).
    #[inline(always)]
    pub fn apply<R: Real>(self, x: &mut [R]) {
        #[inline(always)]
        fn each<R: Real>(x: &mut [R], f: impl Fn(R) -> R) {
            for v in x {
                *v = f(*v);
            }
        }
        let of = R::of;
        match self {
            A::Sigmoid => each(x, R::sigmoid),
            A::Tanh => each(x, R::tanh),
            A::Relu => each(x, |v| v.maximum(R::ZERO)),
            A::Affine { alpha, beta } => each(x, |v| of(alpha) * v + of(beta)),
            A::LeakyRelu { alpha } => each(x, |v| if v < R::ZERO { of(alpha) * v } else { v }),
            A::ThresholdedRelu { alpha } => each(x, |v| if v > of(alpha) { v } else { R::ZERO }),
            A::ScaledTanh { alpha, beta } => each(x, |v| of(alpha) * (of(beta) * v).tanh()),
            A::HardSigmoid { alpha, beta } => {
                each(x, |v| (of(alpha) * v + of(beta)).maximum(R::ZERO).minimum(R::ONE));
            }
            A::Elu { alpha } => each(x, |v| if v < R::ZERO { of(alpha) * (v.exp() - R::ONE) } else { v }),
            A::Softsign => each(x, |v| v / (R::ONE + v.abs())),
            A::Softplus => each(x, softplus),
        }
    }

    /// f'(x), given y = f(x).
    #[inline(always)]
    pub fn slope<R: Real>(self, y: R) -> R {
        let of = R::of;
        let step = |on: bool, low: f64| if on { R::ONE } else { of(low) };
        match self {
            A::Sigmoid => y * (R::ONE - y),
            A::Tanh => R::ONE - y * y,
            A::Relu | A::ThresholdedRelu { .. } => step(y > R::ZERO, 0.0),
            A::Affine { alpha, .. } => of(alpha),
            A::LeakyRelu { alpha } => step(y > R::ZERO, alpha),
            A::ScaledTanh { alpha, beta } => of(beta) * (of(alpha) - y * y / of(alpha)),
            A::HardSigmoid { alpha, .. } => {
                if y > R::ZERO && y < R::ONE {
                    of(alpha)
                } else {
                    R::ZERO
                }
            }
            A::Elu { alpha } => {
                if y >= R::ZERO {
                    R::ONE
                } else {
                    y + of(alpha)
                }
            }
            A::Softsign => (R::ONE - y.abs()) * (R::ONE - y.abs()),
            A::Softplus => R::ONE - (-y).exp(),
        }
    }
}

/// log(1 + e^x) without overflow.
#[inline(always)]
pub fn softplus<R: Real>(x: R) -> R {
    x.maximum(R::ZERO) + (R::ONE + (-x.abs()).exp()).ln()
}

/// Limits pre-activations to ± `clip`, as the `clip` attribute of recurrent operators says.
#[inline(always)]
pub fn clip<R: Real>(x: &mut [R], clip: Option<f64>) {
    if let Some(c) = clip {
        for v in x {
            *v = v.maximum(R::of(-c)).minimum(R::of(c));
        }
    }
}
