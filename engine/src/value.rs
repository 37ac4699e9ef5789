//! Tensors as the engine computes with them: row-major, shared, with floats of one type, integers as i64, booleans.

use std::sync::Arc;

use compress_core::{Error, Result};

use crate::buffer::{Buf, Elem};
use crate::real::Real;

/// A row-major tensor whose data may be shared.
#[derive(Clone, Debug)]
pub struct Tensor<T: Elem> {
    shape: Vec<usize>,
    data: Arc<Buf<T>>,
}

impl<T: Elem> Tensor<T> {
    /// A tensor of this shape; `data` must hold the shape's product.
    pub fn new(shape: impl Into<Vec<usize>>, data: impl Into<Buf<T>>) -> Tensor<T> {
        let (shape, data) = (shape.into(), data.into());
        assert_eq!(shape.iter().product::<usize>(), data.len(), "data of shape {shape:?}");
        Tensor { shape, data: Arc::new(data) }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Tensor<T> {
        Tensor::full(shape, T::default())
    }

    /// All `v`.
    pub fn full(shape: impl Into<Vec<usize>>, v: T) -> Tensor<T> {
        let shape = shape.into();
        let n = shape.iter().product();
        Tensor::new(shape, Buf::full(n, v))
    }

    /// No dimensions, one element.
    pub fn scalar(v: T) -> Tensor<T> {
        Tensor::new([], vec![v])
    }

    /// One dimension.
    pub fn vector(v: Vec<T>) -> Tensor<T> {
        Tensor::new([v.len()], v)
    }

    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The elements to be changed; copied first where others share them.
    pub fn data_mut(&mut self) -> &mut [T] {
        let buf: &mut Buf<T> = Arc::make_mut(&mut self.data);
        buf
    }

    /// The elements to be changed, if nobody else shares them.
    pub fn unique_mut(&mut self) -> Option<&mut [T]> {
        Arc::get_mut(&mut self.data).map(|b| &mut b[..])
    }

    /// The same elements in another shape with the same product.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Tensor<T> {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), self.len(), "{:?} as {shape:?}", self.shape);
        Tensor { shape, data: self.data.clone() }
    }

    /// Each element through `f`.
    pub fn map<U: Elem>(&self, f: impl Fn(T) -> U) -> Tensor<U> {
        let mut out = Buf::stale(self.len());
        for (o, v) in out.iter_mut().zip(self.data()) {
            *o = f(*v);
        }
        Tensor::new(self.shape.clone(), out)
    }
}

/// The ONNX integer types; values are held as i64 and wrapped to the type after arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum IntKind {
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
}

impl IntKind {
    /// Wraps a value to the type's range (u64 stays as its bits).
    pub fn wrap(self, v: i64) -> i64 {
        match self {
            IntKind::I64 | IntKind::U64 => v,
            IntKind::I32 => i64::from(v as i32),
            IntKind::I16 => i64::from(v as i16),
            IntKind::I8 => i64::from(v as i8),
            IntKind::U32 => i64::from(v as u32),
            IntKind::U16 => i64::from(v as u16),
            IntKind::U8 => i64::from(v as u8),
        }
    }

    /// Number of bits.
    pub fn bits(self) -> u32 {
        match self {
            IntKind::I64 | IntKind::U64 => 64,
            IntKind::I32 | IntKind::U32 => 32,
            IntKind::I16 | IntKind::U16 => 16,
            IntKind::I8 | IntKind::U8 => 8,
        }
    }

    /// Whether negative numbers exist.
    pub fn signed(self) -> bool {
        matches!(self, IntKind::I64 | IntKind::I32 | IntKind::I16 | IntKind::I8)
    }
}

/// What flows along a graph's edges. f16, bf16 and f64 tensors are computed in `R` too.
#[derive(Clone, Debug)]
pub enum Value<R: Real> {
    /// Any floating-point type.
    Float(Tensor<R>),
    /// Any integer type.
    Int(Tensor<i64>, IntKind),
    /// Truth values.
    Bool(Tensor<bool>),
}

impl<R: Real> Value<R> {
    /// i64 integers.
    pub fn ints(t: Tensor<i64>) -> Value<R> {
        Value::Int(t, IntKind::I64)
    }

    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        match self {
            Value::Float(t) => t.shape(),
            Value::Int(t, _) => t.shape(),
            Value::Bool(t) => t.shape(),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `"float"`, `"integer"`, `"boolean"`.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Float(_) => "float",
            Value::Int(..) => "integer",
            Value::Bool(_) => "boolean",
        }
    }

    /// The float tensor.
    pub fn float(&self) -> Result<&Tensor<R>> {
        match self {
            Value::Float(t) => Ok(t),
            _ => Err(Error::failed(format!("a float tensor was expected, this one is {}", self.kind()))),
        }
    }

    /// The integer tensor.
    pub fn int(&self) -> Result<&Tensor<i64>> {
        match self {
            Value::Int(t, _) => Ok(t),
            _ => Err(Error::failed(format!("an integer tensor was expected, this one is {}", self.kind()))),
        }
    }

    /// The boolean tensor.
    pub fn bool(&self) -> Result<&Tensor<bool>> {
        match self {
            Value::Bool(t) => Ok(t),
            _ => Err(Error::failed(format!("a boolean tensor was expected, this one is {}", self.kind()))),
        }
    }

    /// `float [2×3]`.
    pub fn describe(&self) -> String {
        format!("{} {}", self.kind(), shape_text(self.shape()))
    }
}

/// `[2×3]`.
pub fn shape_text(shape: &[usize]) -> String {
    let words: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", words.join("×"))
}

/// Applies an expression that is generic over the element type, keeping the kind.
macro_rules! per_kind {
    ($value:expr, $t:ident => $e:expr) => {
        match $value {
            $crate::value::Value::Float($t) => $crate::value::Value::Float($e),
            $crate::value::Value::Int($t, kind) => $crate::value::Value::Int($e, *kind),
            $crate::value::Value::Bool($t) => $crate::value::Value::Bool($e),
        }
    };
}
pub(crate) use per_kind;
