//! The operators. One file a family; each gives a table of [`Entry`]. An operator is a function from values to values
//! that, when a gradient is wanted, also gives the function back from output gradients to input gradients: it captures
//! exactly what it needs, so nothing else stays in memory.

mod arithmetic;
mod attributes;
mod compare;
mod constant;
pub(crate) mod convolution;
mod index;
mod linear;
mod normalisation;
mod pooling;
mod recurrent;
mod reduction;
mod scatter;
mod shape;
mod softmax;
mod unary;
mod view;

use compress_core::{Error, Result};

pub use attributes::Attributes;

use crate::real::Real;
use crate::value::{Tensor, Value};

/// What an operator is told besides its inputs.
#[derive(Clone, Debug)]
pub struct Context {
    /// For each input: whether its gradient is wanted.
    pub grad: Vec<bool>,
    /// Number of outputs that the node names.
    pub outputs: usize,
    /// Random state of dropout; `None` = nothing drops.
    pub noise: Option<Noise>,
}

/// Where random numbers come from: the same key gives the same ones, whatever thread asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noise {
    /// Made from seed, step and slice of the batch.
    pub key: u64,
}

impl Context {
    /// Whether any gradient is wanted.
    pub fn any(&self) -> bool {
        self.grad.iter().any(|g| *g)
    }

    /// Whether the gradient of input `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.grad.get(i).copied().unwrap_or(false)
    }
}

/// Gradients, one an output or an input; `None` = zero or not wanted.
pub type Grads<R> = Vec<Option<Tensor<R>>>;
/// From the gradients of the outputs to those of the inputs.
pub type Back<R> = Box<dyn FnOnce(Grads<R>) -> Result<Grads<R>> + Send + Sync>;
/// An operator with its attributes.
pub type Run<R> = Box<dyn Fn(&Context, Inputs<R>) -> Result<Out<R>> + Send + Sync>;

/// What an operator gives.
pub struct Out<R: Real> {
    /// One an output.
    pub values: Vec<Value<R>>,
    /// How gradients go back, if any was wanted.
    pub back: Option<Back<R>>,
}

impl<R: Real> Out<R> {
    /// One output without gradient.
    pub fn one(v: Value<R>) -> Result<Out<R>> {
        Ok(Out { values: vec![v], back: None })
    }

    /// One output whose gradient goes back by `back`.
    pub fn with(
        v: Tensor<R>,
        back: impl FnOnce(Tensor<R>) -> Result<Grads<R>> + Send + Sync + 'static,
    ) -> Result<Out<R>> {
        let back: Back<R> = Box::new(move |grads| match grads.into_iter().next().flatten() {
            Some(g) => back(g),
            None => Ok(Vec::new()),
        });
        Ok(Out { values: vec![Value::Float(v)], back: Some(back) })
    }
}

/// The inputs of a node; absent ones are `None`.
pub struct Inputs<R: Real>(pub Vec<Option<Value<R>>>);

impl<R: Real> Inputs<R> {
    /// Whether input `i` is there.
    pub fn has(&self, i: usize) -> bool {
        self.0.get(i).is_some_and(Option::is_some)
    }

    /// Input `i`, if it is there.
    pub fn get(&self, i: usize) -> Option<&Value<R>> {
        self.0.get(i).and_then(Option::as_ref)
    }

    /// Input `i`.
    pub fn need(&self, i: usize) -> Result<&Value<R>> {
        self.get(i).ok_or_else(|| Error::failed(format!("input {i} is missing")))
    }

    /// Input `i`, moved out.
    pub fn take(&mut self, i: usize) -> Result<Value<R>> {
        self.0.get_mut(i).and_then(Option::take).ok_or_else(|| Error::failed(format!("input {i} is missing")))
    }

    /// Float input `i`.
    pub fn float(&self, i: usize) -> Result<&Tensor<R>> {
        self.need(i)?.float().map_err(|e| e.at(format!("input {i}")))
    }

    /// Float input `i`, moved out.
    pub fn take_float(&mut self, i: usize) -> Result<Tensor<R>> {
        match self.take(i)? {
            Value::Float(t) => Ok(t),
            v => v.float().cloned().map_err(|e| e.at(format!("input {i}"))),
        }
    }

    /// Float input `i`, if it is there.
    pub fn float_if(&self, i: usize) -> Result<Option<&Tensor<R>>> {
        self.get(i).map(Value::float).transpose().map_err(|e| e.at(format!("input {i}")))
    }

    /// Integer input `i`.
    pub fn int(&self, i: usize) -> Result<&Tensor<i64>> {
        self.need(i)?.int().map_err(|e| e.at(format!("input {i}")))
    }

    /// Integers of input `i`, if it is there: axes, shapes.
    pub fn ints_if(&self, i: usize) -> Result<Option<Vec<i64>>> {
        self.get(i).map(|v| Ok(v.int()?.data().to_vec())).transpose().map_err(|e: Error| e.at(format!("input {i}")))
    }
}

/// How an operator stands to gradients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gradient {
    /// It carries them.
    Yes,
    /// Its derivative is zero wherever it exists, or its outputs are no floats.
    Zero,
    /// It would, but is not written: training through it is refused.
    Missing,
}

/// An operator of the table.
pub struct Entry<R: Real> {
    /// ONNX name, `domain::name` outside the standard one.
    pub name: &'static str,
    /// How it stands to gradients.
    pub gradient: Gradient,
    /// Reads the attributes, refuses what is not supported.
    pub build: fn(&Attributes<R>) -> Result<Run<R>>,
}

impl<R: Real> Entry<R> {
    const fn new(name: &'static str, gradient: Gradient, build: fn(&Attributes<R>) -> Result<Run<R>>) -> Entry<R> {
        Entry { name, gradient, build }
    }
}

/// All operators, by family.
pub fn table<R: Real>() -> Vec<Entry<R>> {
    let families: [fn() -> Vec<Entry<R>>; 15] = [
        arithmetic::entries,
        compare::entries,
        constant::entries,
        convolution::entries,
        index::entries,
        linear::entries,
        normalisation::entries,
        pooling::entries,
        recurrent::entries,
        reduction::entries,
        scatter::entries,
        shape::entries,
        softmax::entries,
        unary::entries,
        view::entries,
    ];
    let mut all: Vec<Entry<R>> = families.into_iter().flat_map(|f| f()).collect();
    all.sort_by_key(|e| e.name);
    all
}

/// Names of all supported operators with whether gradients pass, in order; `If` with a constant condition is resolved
/// before anything runs.
pub fn supported() -> Vec<(&'static str, Gradient)> {
    let mut list: Vec<_> = table::<f32>().iter().map(|e| (e.name, e.gradient)).collect();
    list.push(("If", Gradient::Yes));
    list.sort_by_key(|e| e.0);
    list
}

/// An index within `n`, counted from the end where negative.
pub fn index_within(i: i64, n: usize) -> Result<usize> {
    index::checked(i, n)
}

/// `axis` of a tensor of `rank` dimensions, counted from the end where negative.
pub fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    if (0..rank as i64).contains(&at) {
        Ok(at as usize)
    } else {
        Err(Error::failed(format!("axis {axis} does not exist in a tensor of {rank} dimensions")))
    }
}

/// A tensor cut at `axis`: (product before, size, product after).
pub fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}
