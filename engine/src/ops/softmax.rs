//! Softmax and LogSoftmax.

use compress_core::Result;

use crate::buffer::Buf;
use crate::kernels::softmax::{log_softmax, log_softmax_back, softmax, softmax_back};
use crate::kernels::view::{View, read, write};
use crate::ops::{Attributes, Entry, Gradient, Out, Run, axis_of};
use crate::real::Real;
use crate::value::{Tensor, Value};

/// Up to opset 12 everything from `axis` on is one row; since 13 only the axis itself.
fn rows<R: Real>(a: &Attributes<R>, log: bool) -> Result<Run<R>> {
    let joined = a.opset() < 13;
    let axis = a.int_or("axis", if joined { 1 } else { -1 })?;
    Ok(Box::new(move |cx, mut inputs| {
        let x = inputs.take_float(0)?;
        let shape = x.shape().to_vec();
        let at = if shape.is_empty() { 0 } else { axis_of(axis, shape.len())? };
        let mut view = View::of(&shape);
        let n = if joined {
            shape[at..].iter().product()
        } else {
            if let Some(last) = shape.len().checked_sub(1) {
                view.shape.swap(at, last);
                view.strides.swap(at, last);
            }
            shape.get(at).copied().unwrap_or(1)
        };
        let plain = view.shape == shape && view.strides == View::of(&shape).strides;
        let mut y = Buf::stale(x.len());
        if x.is_empty() {
            return Out::one(Value::Float(x));
        }
        let (forward, backward): (fn(&[R], &mut [R], usize), fn(&[R], &mut [R], usize)) =
            if log { (log_softmax, log_softmax_back) } else { (softmax, softmax_back) };
        if plain {
            forward(x.data(), &mut y, n);
        } else {
            let mut moved = Buf::stale(x.len());
            read(&view, x.data(), &mut moved);
            let mut z = Buf::stale(x.len());
            forward(&moved, &mut z, n);
            write(&view, &z, &mut y);
        }
        let y = Tensor::new(shape, y);
        if !cx.wants(0) {
            return Out::one(Value::Float(y));
        }
        let kept = y.clone();
        Out::with(y, move |mut g| {
            if plain {
                backward(kept.data(), g.data_mut(), n);
                return Ok(vec![Some(g)]);
            }
            let (mut ym, mut gm) = (Buf::stale(kept.len()), Buf::stale(kept.len()));
            read(&view, kept.data(), &mut ym);
            read(&view, g.data(), &mut gm);
            backward(&ym, &mut gm, n);
            write(&view, &gm, g.data_mut());
            Ok(vec![Some(g)])
        })
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    vec![
        Entry::new("Softmax", Gradient::Yes, |a| rows(a, false)),
        Entry::new("LogSoftmax", Gradient::Yes, |a| rows(a, true)),
    ]
}
