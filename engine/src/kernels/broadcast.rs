//! Elementwise functions of two or three tensors with numpy broadcasting, and sums over what was broadcast.

use compress_core::{Error, Result};

use crate::buffer::Elem;
use crate::kernels::view::strides;
use crate::real::Real;
use crate::value::shape_text;

/// The common shape of several.
pub fn common_shape(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1usize; rank];
    for s in shapes {
        for (o, &n) in out[rank - s.len()..].iter_mut().zip(*s) {
            if *o == 1 {
                *o = n;
            } else if n != 1 && n != *o {
                let all: Vec<String> = shapes.iter().map(|s| shape_text(s)).collect();
                return Err(Error::failed(format!("shapes {} do not broadcast together", all.join(" and "))));
            }
        }
    }
    Ok(out)
}

/// Strides of an operand within the common shape: 0 where it is repeated.
fn operand_strides(shape: &[usize], out: &[usize]) -> Vec<isize> {
    let own = strides(shape);
    let lead = out.len() - shape.len();
    (0..out.len()).map(|d| if d < lead || shape[d - lead] == 1 { 0 } else { own[d - lead] }).collect()
}

/// The loop nest of N operands over the common shape, as few dimensions as possible.
struct Nest<const N: usize> {
    shape: Vec<usize>,
    steps: Vec<[isize; N]>,
}

impl<const N: usize> Nest<N> {
    fn new(shapes: [&[usize]; N], out: &[usize]) -> Self {
        let all = shapes.map(|s| operand_strides(s, out));
        let (mut shape, mut steps): (Vec<usize>, Vec<[isize; N]>) = (Vec::new(), Vec::new());
        for (d, &n) in out.iter().enumerate() {
            if n == 1 {
                continue;
            }
            let s: [isize; N] = std::array::from_fn(|i| all[i][d]);
            match (shape.last_mut(), steps.last_mut()) {
                (Some(m), Some(t)) if (0..N).all(|i| t[i] == s[i] * n as isize) => {
                    *m *= n;
                    *t = s;
                }
                _ => {
                    shape.push(n);
                    steps.push(s);
                }
            }
        }
        if shape.is_empty() {
            shape.push(1);
            steps.push([1; N]);
        }
        Nest { shape, steps }
    }

    /// Calls `inner(position, operand offsets, count, operand steps)` for each innermost run.
    fn runs(&self, mut inner: impl FnMut(usize, [usize; N], usize, [isize; N])) {
        if self.shape.contains(&0) {
            return;
        }
        let last = self.shape.len() - 1;
        let (count, step) = (self.shape[last], self.steps[last]);
        let mut index = vec![0usize; last];
        let (mut at, mut from) = (0, [0usize; N]);
        loop {
            inner(at, from, count, step);
            at += count;
            let mut d = last;
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                index[d] += 1;
                for (f, s) in from.iter_mut().zip(self.steps[d]) {
                    *f += s as usize;
                }
                if index[d] < self.shape[d] {
                    break;
                }
                for (f, s) in from.iter_mut().zip(self.steps[d]) {
                    *f -= s as usize * self.shape[d];
                }
                index[d] = 0;
            }
        }
    }
}

/// out = f(a, b) over the common shape `shape`.
pub fn binary<T: Elem, U: Elem, V: Elem>(
    shape: &[usize],
    (a, a_shape): (&[T], &[usize]),
    (b, b_shape): (&[U], &[usize]),
    out: &mut [V],
    f: impl Fn(T, U) -> V,
) {
    Nest::new([a_shape, b_shape], shape).runs(|at, [i, j], n, [p, q]| {
        let o = &mut out[at..at + n];
        super::simd(
            #[inline(always)]
            || match (p, q) {
                (0, 0) => o.fill(f(a[i], b[j])),
                (0, _) => {
                    for (o, y) in o.iter_mut().zip(&b[j..j + n]) {
                        *o = f(a[i], *y);
                    }
                }
                (_, 0) => {
                    for (o, x) in o.iter_mut().zip(&a[i..i + n]) {
                        *o = f(*x, b[j]);
                    }
                }
                _ => {
                    for ((o, x), y) in o.iter_mut().zip(&a[i..i + n]).zip(&b[j..j + n]) {
                        *o = f(*x, *y);
                    }
                }
            },
        );
    });
}

/// a = f(a, b), where a has the common shape.
pub fn binary_into<T: Elem, U: Elem>(
    shape: &[usize],
    a: &mut [T],
    (b, b_shape): (&[U], &[usize]),
    f: impl Fn(T, U) -> T,
) {
    Nest::new([b_shape], shape).runs(|at, [j], n, [q]| {
        let o = &mut a[at..at + n];
        super::simd(
            #[inline(always)]
            || {
                if q == 0 {
                    for o in o.iter_mut() {
                        *o = f(*o, b[j]);
                    }
                } else {
                    for (o, y) in o.iter_mut().zip(&b[j..j + n]) {
                        *o = f(*o, *y);
                    }
                }
            },
        );
    });
}

/// out = f(a, b, c) over the common shape `shape`.
pub fn ternary<S: Elem, T: Elem, U: Elem, V: Elem>(
    shape: &[usize],
    (a, a_shape): (&[S], &[usize]),
    (b, b_shape): (&[T], &[usize]),
    (c, c_shape): (&[U], &[usize]),
    out: &mut [V],
    f: impl Fn(S, T, U) -> V,
) {
    Nest::new([a_shape, b_shape, c_shape], shape).runs(|at, [i, j, k], n, [p, q, r]| {
        let (p, q, r) = (p as usize, q as usize, r as usize);
        for (e, o) in out[at..at + n].iter_mut().enumerate() {
            *o = f(a[i + e * p], b[j + e * q], c[k + e * r]);
        }
    });
}

/// Sums `grad` of shape `from` over everything that was broadcast, into `out` of shape `to`.
pub fn reduce_to<R: Real>(grad: &[R], from: &[usize], out: &mut [R], to: &[usize]) {
    Nest::new([to], from).runs(|at, [i], n, [p]| {
        let g = &grad[at..at + n];
        if p == 0 {
            out[i] += super::lane_sum(g, |v| v);
        } else {
            super::add_into(&mut out[i..i + n], g);
        }
    });
}
