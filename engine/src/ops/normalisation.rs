//! Layer, RMS, group, instance and batch normalisation.

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::norm::{normalise, normalise_back};
use crate::ops::arithmetic::unbroadcast;
use crate::ops::{Attributes, Entry, Gradient, Out, Run, axis_of};
use crate::real::Real;
use crate::value::{Tensor, Value};

/// y = normalised(x) · scale + bias over everything from `axis` on; scale and bias have the trailing shape.
fn layer<R: Real>(a: &Attributes<R>, centred: bool) -> Result<Run<R>> {
    let (axis, epsilon) = (a.int_or("axis", -1)?, a.float_or("epsilon", 1e-5)?);
    a.ignore("stash_type");
    Ok(Box::new(move |cx, inputs| {
        let x = inputs.float(0)?;
        let at = axis_of(axis, x.rank())?;
        let (outer, n) = (x.shape()[..at].iter().product::<usize>(), x.shape()[at..].iter().product::<usize>());
        let (mut z, mut rstd, mut mean) = (Buf::stale(x.len()), vec![R::ZERO; outer], vec![R::ZERO; outer]);
        normalise(x.data(), &mut z, n.max(1), R::of(epsilon), centred, &mut rstd, &mut mean);
        let z = Tensor::new(x.shape(), z);
        let scale = inputs.float(1)?.clone();
        let bias = inputs.float_if(2)?;
        let mut y = super::arithmetic::broadcast(&z, &scale, |z, s| z * s)?;
        if let Some(b) = bias {
            y = super::arithmetic::broadcast(&y, b, |y, b| y + b)?;
        }
        let mut out = Out { values: vec![Value::Float(y)], back: None };
        if cx.outputs > 1 {
            let mut shape = x.shape().to_vec();
            shape[at..].fill(1);
            if centred {
                out.values.push(Value::Float(Tensor::new(shape.clone(), mean)));
            }
            out.values.push(Value::Float(Tensor::new(shape, rstd.clone())));
        }
        if cx.any() {
            let wants = [cx.wants(0), cx.wants(1), cx.wants(2)];
            let bias_shape = bias.map(|b| b.shape().to_vec());
            out.back = Some(Box::new(move |grads| {
                let Some(g) = grads.into_iter().next().flatten() else { return Ok(Vec::new()) };
                let gb = bias_shape.filter(|_| wants[2]).map(|s| unbroadcast(g.clone(), &s));
                let gs = match wants[1] {
                    true => Some(unbroadcast(super::arithmetic::broadcast(&g, &z, |g, z| g * z)?, scale.shape())),
                    false => None,
                };
                let gx = match wants[0] {
                    true => {
                        let mut d = super::arithmetic::broadcast(&g, &scale, |g, s| g * s)?;
                        normalise_back(z.data(), &rstd, d.data_mut(), n.max(1), centred);
                        Some(d)
                    }
                    false => None,
                };
                Ok(vec![gx, gs, gb])
            }));
        }
        Ok(out)
    }))
}

/// A vector of channels shaped to broadcast over [batch, channel, …].
fn per_channel<R: Real>(t: &Tensor<R>, rank: usize) -> Tensor<R> {
    let mut shape = vec![1; rank.max(2)];
    shape[1] = t.len();
    t.reshaped(shape)
}

/// y = (x − mean) / √(var + ε) · scale + bias with stored statistics, as in inference: they are constants to the gradient.
fn batch<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let epsilon = a.float_or("epsilon", 1e-5)?;
    a.ignore("momentum");
    if a.opset() < 9 {
        a.ignore("spatial");
        a.ignore("is_test");
    }
    if a.int_or("training_mode", 0)? != 0 || a.has_output(1) {
        return Err(Error::failed(
            "training mode is not supported: its statistics would change with the batch; export the model for inference (model.eval())",
        ));
    }
    Ok(Box::new(move |cx, inputs| {
        let x = inputs.float(0)?;
        let rank = x.rank();
        let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| inputs.float(i));
        let (scale, bias, mean, var) = (scale?.clone(), bias?.clone(), mean?, var?);
        let rstd = var.map(|v| R::ONE / (v + R::of(epsilon)).sqrt());
        let (mean, rstd) = (per_channel(mean, rank), per_channel(&rstd, rank));
        let centred = super::arithmetic::broadcast(x, &mean, |x, m| x - m)?;
        let z = super::arithmetic::broadcast(&centred, &rstd, |x, r| x * r)?;
        let scale_c = per_channel(&scale, rank);
        let y = super::arithmetic::broadcast(&z, &scale_c, |z, s| z * s)?;
        let y = super::arithmetic::broadcast(&y, &per_channel(&bias, rank), |y, b| y + b)?;
        if !cx.any() {
            return Out::one(Value::Float(y));
        }
        if cx.wants(3) || cx.wants(4) {
            return Err(Error::failed(
                "the running mean and variance are statistics, not weights to train; freeze them",
            ));
        }
        let wants = [cx.wants(0), cx.wants(1), cx.wants(2)];
        let channels = scale.len();
        let z = wants[1].then_some(z);
        Out::with(y, move |g| {
            let vector = |t: Tensor<R>| unbroadcast(t, scale_c.shape()).reshaped([channels]);
            let gs = match &z {
                Some(z) => Some(vector(super::arithmetic::broadcast(&g, z, |g, z| g * z)?)),
                None => None,
            };
            let gb = wants[2].then(|| vector(g.clone()));
            let gx = match wants[0] {
                true => {
                    let factor = super::arithmetic::broadcast(&scale_c, &rstd, |s, r| s * r)?;
                    Some(super::arithmetic::broadcast(&g, &factor, |g, f| g * f)?)
                }
                false => None,
            };
            Ok(vec![gx, gs, gb])
        })
    }))
}

/// Group normalisation over [batch, channel, …] with `groups` groups (instance: one a channel); scale and bias are per
/// channel, or per group before opset 21.
fn group<R: Real>(a: &Attributes<R>, instance: bool) -> Result<Run<R>> {
    let epsilon = a.float_or("epsilon", 1e-5)?;
    let groups = if instance { None } else { Some(a.int_or("num_groups", 1)?.max(1) as usize) };
    a.ignore("stash_type");
    Ok(Box::new(move |cx, inputs| {
        let x = inputs.float(0)?;
        let &[n, channels, ..] = x.shape() else { return Err(Error::failed("its input has no channels")) };
        let groups = groups.unwrap_or(channels);
        let rows = n * groups;
        let len = x.len().checked_div(rows).unwrap_or(0).max(1);
        let (mut z, mut rstd, mut mean) = (Buf::stale(x.len()), vec![R::ZERO; rows], vec![R::ZERO; rows]);
        normalise(x.data(), &mut z, len, R::of(epsilon), true, &mut rstd, &mut mean);
        let z = Tensor::new(x.shape(), z);
        let wide = |t: &Tensor<R>| -> Result<Tensor<R>> {
            let each = channels / t.len().max(1);
            if t.len() * each != channels {
                return Err(Error::failed(format!("{} scales for {channels} channels", t.len())));
            }
            let v = (0..channels).map(|c| t.data()[c / each]).collect::<Vec<_>>();
            Ok(per_channel(&Tensor::vector(v), z.rank()))
        };
        let (scale, bias) = (inputs.float(1)?, inputs.float(2)?);
        let (scale_c, bias_c) = (wide(scale)?, wide(bias)?);
        let y = super::arithmetic::broadcast(&z, &scale_c, |z, s| z * s)?;
        let y = super::arithmetic::broadcast(&y, &bias_c, |y, b| y + b)?;
        if !cx.any() {
            return Out::one(Value::Float(y));
        }
        let wants = [cx.wants(0), cx.wants(1), cx.wants(2)];
        let (scales, z) = (scale.len(), z.clone());
        Out::with(y, move |g| {
            let vector = |t: Tensor<R>| {
                let per = unbroadcast(t, scale_c.shape());
                let sums: Vec<R> =
                    per.data().chunks(channels / scales).map(|c| c.iter().fold(R::ZERO, |a, v| a + *v)).collect();
                Tensor::vector(sums)
            };
            let gs = match wants[1] {
                true => Some(vector(super::arithmetic::broadcast(&g, &z, |g, z| g * z)?)),
                false => None,
            };
            let gb = wants[2].then(|| vector(g.clone()));
            let gx = match wants[0] {
                true => {
                    let mut d = super::arithmetic::broadcast(&g, &scale_c, |g, s| g * s)?;
                    normalise_back(z.data(), &rstd, d.data_mut(), len, true);
                    Some(d)
                }
                false => None,
            };
            Ok(vec![gx, gs, gb])
        })
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    vec![
        Entry::new("LayerNormalization", Yes, |a| layer(a, true)),
        Entry::new("RMSNormalization", Yes, |a| layer(a, false)),
        Entry::new("BatchNormalization", Yes, batch),
        Entry::new("GroupNormalization", Yes, |a| group(a, false)),
        Entry::new("InstanceNormalization", Yes, |a| group(a, true)),
    ]
}
