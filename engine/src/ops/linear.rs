//! Matrix products.

use compress_core::{Error, Result};

use crate::buffer::Buf;
use crate::kernels::broadcast::common_shape;
use crate::kernels::gemm::{Mat, gemm, matmul, matmul_add};
use crate::ops::arithmetic::unbroadcast;
use crate::ops::{Attributes, Context, Entry, Gradient, Inputs, Out, Run};
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

/// How the matrices of two operands pair up.
struct Pairs {
    m: usize,
    k: usize,
    n: usize,
    /// For each product: which matrix of a and which of b.
    list: Vec<(usize, usize)>,
    /// Shape of the result.
    shape: Vec<usize>,
}

fn pairs(a: &[usize], b: &[usize]) -> Result<Pairs> {
    let clash = || Error::failed(format!("shapes {} and {} cannot be multiplied", shape_text(a), shape_text(b)));
    if a.is_empty() || b.is_empty() {
        return Err(clash());
    }
    // Vectors are matrices of one row (left) or column (right), which the result does not keep.
    let (a2, b2): (Vec<usize>, Vec<usize>) =
        (if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() }, if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() });
    let ((la, &[m, k]), (lb, &[kb, n])) =
        (a2.split_last_chunk::<2>().ok_or_else(clash)?, b2.split_last_chunk::<2>().ok_or_else(clash)?);
    if k != kb {
        return Err(clash());
    }
    let lead = common_shape(&[la, lb]).map_err(|_| clash())?;
    let mut shape = lead.clone();
    if a.len() > 1 {
        shape.push(m);
    }
    if b.len() > 1 {
        shape.push(n);
    }
    if lb.iter().product::<usize>() == 1 && lb.len() <= la.len() {
        // One matrix on the right: a single product of all rows.
        return Ok(Pairs { m: la.iter().product::<usize>() * m, k, n, list: vec![(0, 0)], shape });
    }
    let count = lead.iter().product();
    let place = |own: &[usize]| {
        let ids: Vec<i64> = (0..own.iter().product::<usize>() as i64).collect();
        let mut out = vec![0i64; count];
        let zero = [0i64];
        crate::kernels::broadcast::binary(&lead, (&ids, own), (&zero, &[]), &mut out, |i, _| i);
        out
    };
    let list = place(la).into_iter().zip(place(lb)).map(|(i, j)| (i as usize, j as usize)).collect();
    Ok(Pairs { m, k, n, list, shape })
}

fn product<R: Real>(cx: &Context, inputs: Inputs<R>) -> Result<Out<R>> {
    if let (Value::Int(a, kind), Value::Int(b, _)) = (inputs.need(0)?, inputs.need(1)?) {
        return Ok(Out { values: vec![Value::Int(integer_product(a, b)?, *kind)], back: None });
    }
    let (a, b) = (inputs.float(0)?.clone(), inputs.float(1)?.clone());
    let p = pairs(a.shape(), b.shape())?;
    let (m, k, n) = (p.m, p.k, p.n);
    let mut y = Buf::stale(p.list.len() * m * n);
    for (c, (i, j)) in p.list.iter().enumerate() {
        let (a, b) = (&a.data()[i * m * k..][..m * k], &b.data()[j * k * n..][..k * n]);
        matmul(&mut y[c * m * n..][..m * n], Mat::new(a, m, k), Mat::new(b, k, n));
    }
    let y = Tensor::new(p.shape.clone(), y);
    if !cx.any() {
        return Out::one(Value::Float(y));
    }
    let wants = [cx.wants(0), cx.wants(1)];
    // Only what the other side's gradient needs is kept.
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    let (a, b) = (wants[1].then_some(a), wants[0].then_some(b));
    Out::with(y, move |g| {
        let ga = b.map(|b| {
            let mut out = Tensor::zeros(sa);
            let data = out.data_mut();
            for (c, (i, j)) in p.list.iter().enumerate() {
                let (g, b) = (&g.data()[c * m * n..][..m * n], &b.data()[j * k * n..][..k * n]);
                matmul_add(&mut data[i * m * k..][..m * k], Mat::new(g, m, n), Mat::new(b, k, n).t());
            }
            out
        });
        let gb = a.map(|a| {
            let mut out = Tensor::zeros(sb);
            let data = out.data_mut();
            for (c, (i, j)) in p.list.iter().enumerate() {
                let (g, a) = (&g.data()[c * m * n..][..m * n], &a.data()[i * m * k..][..m * k]);
                matmul_add(&mut data[j * k * n..][..k * n], Mat::new(a, m, k).t(), Mat::new(g, m, n));
            }
            out
        });
        Ok(vec![ga, gb])
    })
}

fn integer_product(a: &Tensor<i64>, b: &Tensor<i64>) -> Result<Tensor<i64>> {
    let p = pairs(a.shape(), b.shape())?;
    let mut y = vec![0i64; p.list.len() * p.m * p.n];
    for (c, (i, j)) in p.list.iter().enumerate() {
        for r in 0..p.m {
            for s in 0..p.n {
                y[(c * p.m + r) * p.n + s] = (0..p.k)
                    .map(|k| a.data()[(i * p.m + r) * p.k + k].wrapping_mul(b.data()[(j * p.k + k) * p.n + s]))
                    .fold(0, i64::wrapping_add);
            }
        }
    }
    Ok(Tensor::new(p.shape, y))
}

/// y = α·a'·b' + β·c, the primes for optional transposition.
fn general<R: Real>(at: &Attributes<R>) -> Result<Run<R>> {
    let (alpha, beta): (R, R) = (R::of(at.float_or("alpha", 1.0)?), R::of(at.float_or("beta", 1.0)?));
    let (ta, tb) = (at.int_or("transA", 0)? != 0, at.int_or("transB", 0)? != 0);
    at.ignore("broadcast"); // opset < 7: c always broadcasts here
    Ok(Box::new(move |cx, inputs| {
        let (a, b) = (inputs.float(0)?.clone(), inputs.float(1)?.clone());
        let clash = || {
            Error::failed(format!(
                "shapes {} and {} cannot be multiplied",
                shape_text(a.shape()),
                shape_text(b.shape())
            ))
        };
        let (&[ra, ca], &[rb, cb]) = (a.shape(), b.shape()) else { return Err(clash()) };
        let (m, k, n) = (if ta { ca } else { ra }, if ta { ra } else { ca }, if tb { rb } else { cb });
        if k != if tb { cb } else { rb } {
            return Err(clash());
        }
        let mut y: Tensor<R> = match inputs.float_if(2)? {
            Some(c) => {
                let mut y = Buf::stale(m * n);
                if common_shape(&[c.shape(), &[m, n]])? != [m, n] {
                    return Err(Error::failed(format!(
                        "shape {} does not broadcast to [{m}×{n}]",
                        shape_text(c.shape())
                    )));
                }
                let zero = [R::ZERO];
                let scale = beta / alpha;
                crate::kernels::broadcast::binary(&[m, n], (c.data(), c.shape()), (&zero, &[]), &mut y, |v, _| {
                    v * scale
                });
                Tensor::new([m, n], y)
            }
            None => Tensor::zeros([m, n]),
        };
        let turned = |t: &Tensor<R>, flip: bool| -> (Tensor<R>, bool) { (t.clone(), flip) };
        let ((a, ta), (b, tb)) = (turned(&a, ta), turned(&b, tb));
        fn mat<R: Real>(t: &Tensor<R>, flip: bool) -> Mat<'_, R> {
            let m = Mat::new(t.data(), t.shape()[0], t.shape()[1]);
            if flip { m.t() } else { m }
        }
        matmul_add(y.data_mut(), mat(&a, ta), mat(&b, tb));
        if alpha != R::ONE {
            y.data_mut().iter_mut().for_each(|v| *v *= alpha);
        }
        if !cx.any() {
            return Out::one(Value::Float(y));
        }
        let wants = [cx.wants(0), cx.wants(1), cx.wants(2)];
        let c_shape = inputs.float_if(2)?.map(|c| c.shape().to_vec());
        Out::with(y, move |g| {
            let scaled = |mut t: Tensor<R>, by: R| {
                if by != R::ONE {
                    t.data_mut().iter_mut().for_each(|v| *v *= by);
                }
                t
            };
            let gm = Mat::new(g.data(), m, n);
            let ga = wants[0].then(|| {
                let mut out = Tensor::zeros(a.shape());
                let b = mat(&b, tb);
                if ta {
                    gemm(out.data_mut(), m, b, gm.t(), false)
                } else {
                    gemm(out.data_mut(), k, gm, b.t(), false)
                }
                scaled(out, alpha)
            });
            let gb = wants[1].then(|| {
                let mut out = Tensor::zeros(b.shape());
                let a = mat(&a, ta);
                if tb {
                    gemm(out.data_mut(), k, gm.t(), a, false)
                } else {
                    gemm(out.data_mut(), n, a.t(), gm, false)
                }
                scaled(out, alpha)
            });
            let gc = c_shape.filter(|_| wants[2]).map(|s| scaled(unbroadcast(g.clone(), &s), beta));
            Ok(vec![ga, gb, gc])
        })
    }))
}

pub(super) fn entries<R: Real>() -> Vec<Entry<R>> {
    vec![Entry::new("MatMul", Gradient::Yes, |_| Ok(Box::new(product))), Entry::new("Gemm", Gradient::Yes, general)]
}
