//! Convolution, and the window geometry that pooling shares.

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::conv::{Channels, Window, backward, forward};
use crate::ops::{Attributes, Entry, Gradient, Out, Run};
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

/// The attributes that say how a window moves.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    kernel: Option<Vec<i64>>,
    stride: Option<Vec<i64>>,
    dilation: Option<Vec<i64>>,
    pads: Option<Vec<i64>>,
    auto: String,
    ceil: bool,
}

impl Geometry {
    pub(crate) fn read<R: Real>(a: &Attributes<R>) -> Result<Geometry> {
        Ok(Geometry {
            kernel: a.ints("kernel_shape")?,
            stride: a.ints("strides")?,
            dilation: a.ints("dilations")?,
            pads: a.ints("pads")?,
            auto: a.word("auto_pad", "NOTSET", &["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])?,
            ceil: a.int_or("ceil_mode", 0)? != 0,
        })
    }

    /// The window over an input of these spatial sizes, and the padding behind it.
    pub(crate) fn window(&self, input: &[usize], kernel: Option<&[usize]>) -> Result<(Window, Vec<usize>)> {
        let rank = input.len();
        let list = |v: &Option<Vec<i64>>, default: usize| -> Result<Vec<usize>> {
            let v =
                v.as_ref().map_or_else(|| vec![default; rank], |v| v.iter().map(|n| (*n).max(0) as usize).collect());
            if v.len() == rank {
                return Ok(v);
            }
            Err(Error::failed(format!("{} entries for {rank} spatial dimensions", v.len())))
        };
        let kernel = match (kernel, &self.kernel) {
            (Some(k), None) => k.to_vec(),
            (Some(k), Some(named)) if !named.iter().map(|n| *n as usize).eq(k.iter().copied()) => {
                return Err(Error::failed(format!(
                    "kernel_shape {named:?} is not that of the weight, {}",
                    shape_text(k)
                )));
            }
            (Some(k), _) => k.to_vec(),
            (None, Some(_)) => list(&self.kernel, 1)?,
            (None, None) => return Err(Error::failed("kernel_shape is missing")),
        };
        let (stride, dilation) = (list(&self.stride, 1)?, list(&self.dilation, 1)?);
        let pads = match &self.pads {
            Some(p) if p.len() == 2 * rank && p.iter().all(|v| *v >= 0) => p.iter().map(|v| *v as usize).collect(),
            Some(p) => return Err(Error::failed(format!("pads {p:?} do not fit {rank} spatial dimensions"))),
            None => vec![0; 2 * rank],
        };
        let (mut pad, mut end) = (pads[..rank].to_vec(), pads[rank..].to_vec());
        let mut output = Vec::new();
        for d in 0..rank {
            let reach = dilation[d] * (kernel[d].max(1) - 1) + 1;
            if self.auto.starts_with("SAME") {
                let out = input[d].div_ceil(stride[d]);
                let total = ((out - 1) * stride[d] + reach).saturating_sub(input[d]);
                let small = total / 2;
                (pad[d], end[d]) =
                    if self.auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                output.push(out);
                continue;
            }
            if self.auto == "VALID" {
                (pad[d], end[d]) = (0, 0);
            }
            let room = (input[d] + pad[d] + end[d]).checked_sub(reach).ok_or_else(|| {
                Error::failed(format!("a window of {reach} does not fit an input of {} with padding", input[d]))
            })?;
            let mut out = if self.ceil { room.div_ceil(stride[d]) } else { room / stride[d] } + 1;
            if self.ceil && (out - 1) * stride[d] >= input[d] + pad[d] {
                out -= 1; // a window must start within the input or the padding before it
            }
            output.push(out);
        }
        Ok((Window { input: input.to_vec(), kernel, stride, dilation, pad, output }, end))
    }
}

fn conv<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let geometry = Geometry::read(a)?;
    let groups = a.int_or("group", 1)?.max(1) as usize;
    Ok(Box::new(move |cx, inputs| {
        let (x, k) = (inputs.float(0)?.clone(), inputs.float(1)?.clone());
        let bias = inputs.float_if(2)?;
        let (xs, ks) = (x.shape(), k.shape());
        let fits = xs.len() == ks.len() && xs.len() > 2 && xs[1] == ks[1] * groups && ks[0].is_multiple_of(groups);
        if !fits || bias.is_some_and(|b| b.len() != ks[0]) {
            return Err(Error::failed(format!(
                "input {} and weight {} do not fit a convolution in {groups} groups",
                shape_text(xs),
                shape_text(ks)
            )));
        }
        let (window, _) = geometry.window(&xs[2..], Some(&ks[2..]))?;
        let ch = Channels { batch: xs[0], input: xs[1], output: ks[0], groups };
        let mut shape = vec![xs[0], ks[0]];
        shape.extend(&window.output);
        let mut y = Buf::stale(shape.iter().product());
        forward(&window, ch, x.data(), k.data(), bias.map(Tensor::data), &mut y);
        let y = Tensor::new(shape, y);
        if !cx.any() {
            return Out::one(Value::Float(y));
        }
        let wants = [cx.wants(0), cx.wants(1), cx.wants(2)];
        Out::with(y, move |g| {
            let mut gx = wants[0].then(|| Tensor::zeros(x.shape()));
            let mut gk = wants[1].then(|| Tensor::zeros(k.shape()));
            let mut gb = wants[2].then(|| Tensor::zeros([ch.output]));
            backward(
                &window,
                ch,
                x.data(),
                k.data(),
                g.data(),
                gx.as_mut().map(Tensor::data_mut),
                gk.as_mut().map(Tensor::data_mut),
                gb.as_mut().map(Tensor::data_mut),
            );
            Ok(vec![gx, gk, gb])
        })
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    vec![Entry::new("Conv", Gradient::Yes, conv)]
}
