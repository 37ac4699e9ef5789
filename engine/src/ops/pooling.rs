//! Pooling.

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::pool::{counts, max, mean, mean_back};
use crate::ops::convolution::Geometry;
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run};
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

fn spatial(shape: &[usize]) -> Result<(usize, &[usize])> {
    match shape {
        [n, c, rest @ ..] if !rest.is_empty() => Ok((n * c, rest)),
        s => Err(Error::failed(format!("{} has no spatial dimensions", shape_text(s)))),
    }
}

fn max_pool<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let geometry = Geometry::read(a)?;
    let column_major = a.int_or("storage_order", 0)? != 0;
    Ok(Box::new(move |cx, inputs| {
        let value = inputs.need(0)?;
        let (planes, input) = spatial(value.shape())?;
        let (window, _) = geometry.window(input, None)?;
        let mut shape = value.shape()[..2].to_vec();
        shape.extend(&window.output);
        let (n_in, n_out) = (window.input_len(), window.output_len());
        let mut at = vec![0usize; planes * n_out];
        if let Value::Int(t, kind) = value {
            let x: Vec<f64> = t.data().iter().map(|v| *v as f64).collect();
            let mut y = vec![0f64; planes * n_out];
            max(&window, &x, &mut y, &mut at);
            return Out::one(Value::Int(
                Tensor::new(shape, y.into_iter().map(|v| v as i64).collect::<Vec<_>>()),
                *kind,
            ));
        }
        let x = value.float()?;
        let mut y = Buf::stale(planes * n_out);
        max(&window, x.data(), &mut y, &mut at);
        let mut out = Out { values: vec![Value::Float(Tensor::new(shape.clone(), y))], back: None };
        if cx.outputs > 1 {
            let place = |p: usize| if column_major { transposed(p, input) } else { p };
            let ids = at.iter().enumerate().map(|(o, p)| (o / n_out * n_in + place(*p)) as i64).collect::<Vec<_>>();
            out.values.push(Value::ints(Tensor::new(shape, ids)));
        }
        if cx.wants(0) {
            let old = x.shape().to_vec();
            out.back = Some(Box::new(move |grads| {
                let Some(g) = grads.into_iter().next().flatten() else { return Ok(Vec::new()) };
                let mut back = Tensor::zeros(old);
                let data = back.data_mut();
                for (o, (v, p)) in g.data().iter().zip(&at).enumerate().filter(|(_, (_, p))| **p != usize::MAX) {
                    data[o / n_out * n_in + p] += *v;
                }
                Ok(vec![Some(back)])
            }));
        }
        Ok(out)
    }))
}

/// A row-major position as a column-major one (first spatial dimension fastest).
fn transposed(mut p: usize, input: &[usize]) -> usize {
    let mut out = 0;
    let mut index = vec![0; input.len()];
    for d in (0..input.len()).rev() {
        index[d] = p % input[d];
        p /= input[d];
    }
    for d in (0..input.len()).rev() {
        out = out * input[d] + index[d];
    }
    out
}

fn average_pool<R: Real>(a: &Attributes<R>) -> Result<Run<R>> {
    let geometry = Geometry::read(a)?;
    let include = a.int_or("count_include_pad", 0)? != 0;
    Ok(Box::new(move |cx, inputs| {
        let x = inputs.float(0)?;
        let (planes, input) = spatial(x.shape())?;
        let (window, end) = geometry.window(input, None)?;
        let counts = counts(&window, include, &end);
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(&window.output);
        let mut y = Buf::stale(planes * window.output_len());
        mean(&window, &counts, x.data(), &mut y);
        let y = Tensor::new(shape, y);
        if !cx.wants(0) {
            return Out::one(Value::Float(y));
        }
        let old = x.shape().to_vec();
        Out::with(y, move |g| {
            let mut back = Tensor::zeros(old);
            mean_back(&window, &counts, g.data(), back.data_mut());
            Ok(vec![Some(back)])
        })
    }))
}

/// One window over everything.
fn global<R: Real>(cx: &Context, inputs: Inputs<R>, largest: bool) -> Result<Out<R>> {
    let x = inputs.float(0)?;
    let (planes, input) = spatial(x.shape())?;
    let n: usize = input.iter().product();
    if n == 0 {
        return Err(Error::failed("there is nothing to pool"));
    }
    let mut shape = x.shape()[..2].to_vec();
    shape.resize(x.rank(), 1);
    let mut at = vec![0; planes];
    let y = x.data().chunks_exact(n).zip(&mut at).map(|(row, at)| {
        if !largest {
            return crate::kernels::lane_sum(row, |v| v) / R::count(n);
        }
        for (i, v) in row.iter().enumerate() {
            if *v > row[*at] {
                *at = i;
            }
        }
        row[*at]
    });
    let y = Tensor::new(shape, y.collect::<Vec<_>>());
    if !cx.wants(0) {
        return Out::one(Value::Float(y));
    }
    let old = x.shape().to_vec();
    Out::with(y, move |g| {
        let mut back = Tensor::zeros(old);
        for ((row, v), at) in back.data_mut().chunks_exact_mut(n).zip(g.data()).zip(at) {
            if largest {
                row[at] = *v;
            } else {
                row.fill(*v / R::count(n));
            }
        }
        Ok(vec![Some(back)])
    })
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    use Gradient::Yes;
    vec![
        Entry::new("MaxPool", Yes, max_pool),
        Entry::new("AveragePool", Yes, average_pool),
        Entry::new("GlobalMaxPool", Yes, |_| Ok(Box::new(|cx, inputs| global(cx, inputs, true)))),
        Entry::new("GlobalAveragePool", Yes, |_| Ok(Box::new(|cx, inputs| global(cx, inputs, false)))),
    ]
}
