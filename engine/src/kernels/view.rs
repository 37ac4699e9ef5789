//! Strided views. Transpose, Slice, Expand and Tile are one copy with different strides; their gradients are its adjoint.

use crate::buffer::Elem;
use crate::real::Real;

/// Which elements of a slice a tensor of `shape` reads: index · strides + offset. Stride 0 repeats, negative goes back.
#[derive(Clone, Debug)]
pub struct View {
    /// Dimensions of what is seen.
    pub shape: Vec<usize>,
    /// Step of each dimension in the source.
    pub strides: Vec<isize>,
    /// Where element (0, …, 0) lies.
    pub offset: isize,
}

/// Row-major strides of a shape.
pub fn strides(shape: &[usize]) -> Vec<isize> {
    let mut out = vec![1isize; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1] * shape[i + 1].max(1) as isize;
    }
    out
}

impl View {
    /// All of a row-major tensor.
    pub fn of(shape: &[usize]) -> View {
        View { shape: shape.to_vec(), strides: strides(shape), offset: 0 }
    }

    /// Neighbouring dimensions that step as one are joined, dimensions of 1 dropped.
    fn merged(&self) -> (Vec<usize>, Vec<isize>) {
        let (mut shape, mut steps): (Vec<usize>, Vec<isize>) = (Vec::new(), Vec::new());
        for (&n, &s) in self.shape.iter().zip(&self.strides) {
            if n == 1 {
                continue;
            }
            match (shape.last_mut(), steps.last_mut()) {
                (Some(m), Some(t)) if *t == s * n as isize => {
                    *m *= n;
                    *t = s;
                }
                _ => {
                    shape.push(n);
                    steps.push(s);
                }
            }
        }
        (shape, steps)
    }

    /// Calls `inner(position in the view, source offset, count, step)` for each innermost run.
    fn runs(&self, mut inner: impl FnMut(usize, isize, usize, isize)) {
        if self.shape.contains(&0) {
            return;
        }
        let (shape, steps) = self.merged();
        let Some((&count, outer)) = shape.split_last() else { return inner(0, self.offset, 1, 1) };
        let step = steps[outer.len()];
        let mut index = vec![0usize; outer.len()];
        let (mut at, mut from) = (0, self.offset);
        loop {
            inner(at, from, count, step);
            at += count;
            let mut d = outer.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                index[d] += 1;
                from += steps[d];
                if index[d] < outer[d] {
                    break;
                }
                from -= steps[d] * outer[d] as isize;
                index[d] = 0;
            }
        }
    }
}

/// dst = what the view sees of src.
pub fn read<T: Elem>(view: &View, src: &[T], dst: &mut [T]) {
    view.runs(|at, from, count, step| {
        let dst = &mut dst[at..at + count];
        match step {
            1 => dst.copy_from_slice(&src[from as usize..from as usize + count]),
            0 => dst.fill(src[from as usize]),
            _ => {
                for (i, d) in dst.iter_mut().enumerate() {
                    *d = src[(from + i as isize * step) as usize];
                }
            }
        }
    });
}

/// The adjoint of [`read`]: src positions collect what was read from them.
pub fn add_back<R: Real>(view: &View, grad: &[R], src_grad: &mut [R]) {
    view.runs(|at, from, count, step| {
        let grad = &grad[at..at + count];
        match step {
            1 => super::add_into(&mut src_grad[from as usize..from as usize + count], grad),
            0 => src_grad[from as usize] += super::lane_sum(grad, |v| v),
            _ => {
                for (i, g) in grad.iter().enumerate() {
                    src_grad[(from + i as isize * step) as usize] += *g;
                }
            }
        }
    });
}

/// What the view sees is put into src: the inverse of [`read`] for views that see nothing twice.
pub fn write<T: Elem>(view: &View, values: &[T], src: &mut [T]) {
    view.runs(|at, from, count, step| {
        for (i, v) in values[at..at + count].iter().enumerate() {
            src[(from + i as isize * step) as usize] = *v;
        }
    });
}
