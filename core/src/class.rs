//! Weight classes: named populations of parts that are judged together.
//!
//! A format that has a graph gives [`Roles`]; for others they are made from the tensors' names
//! ([`names::roles`]). The recipe's `[classes]` then overrides names.

pub mod names;

pub mod resolve;

/// What each tensor is in the model, by [`crate::tensor::TensorId`].
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// One entry a tensor.
    pub tensors: Vec<Role>,
}

/// What a tensor is.
#[derive(Clone, Debug)]
pub enum Role {
    /// A weight of two or more dimensions: its parts tile the tensor in storage order.
    Weight(Vec<PartSpec>),
    /// Left alone unless the recipe says `include_1d`: a bias, a norm, the joined bias [1, 8H] of an ONNX LSTM.
    /// Holds the parts that it would have then, and the reason to print: `"bias"`.
    OneDimensional(Vec<PartSpec>, String),
    /// Never pruned, with the reason: `"shape constant"`, `"I64"`.
    Never(String),
}

/// A rectangular block of a tensor, rows × cols: rows = outputs, cols = inputs (embeddings: rows = ids). It always
/// takes a contiguous range of the tensor as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartSpec {
    /// Default class: `source.layer1`, `attention`, `encoder.layer0.attention.query`.
    pub class: String,
    /// What is below the class for a part that is not the whole tensor: `forget/recurrent`; empty otherwise.
    pub below: String,
    /// First element within the tensor as stored.
    pub offset: u64,
    /// Rows (outputs).
    pub rows: u64,
    /// Columns (inputs).
    pub cols: u64,
    /// How rows × cols lie in the file.
    pub order: Order,
    /// What the part does, for methods and encodings that treat kinds differently.
    pub kind: Kind,
    /// Groups of a grouped convolution, else 1: the rows are cut into this many equal runs with inputs of their own.
    pub groups: u64,
}

impl PartSpec {
    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.rows * self.cols
    }

    /// `class`, or `class/below`: what globs of a recipe match besides the class.
    pub fn name(&self) -> String {
        if self.below.is_empty() { self.class.clone() } else { format!("{}/{}", self.class, self.below) }
    }
}

/// How a part's rows × cols lie in storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Element (r, c) at r · cols + c.
    RowMajor,
    /// Element (r, c) at c · rows + r: the weight of an ONNX MatMul, stored [inputs, outputs].
    ColumnMajor,
}

/// What a part does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A table of rows that ids select.
    Embedding,
    /// A product with a matrix: MatMul, Gemm.
    Linear,
    /// The input matrix of an LSTM, GRU or RNN, or a gate of it.
    RecurrentInput,
    /// The recurrent matrix of an LSTM, GRU or RNN, or a gate of it.
    Recurrent,
    /// A convolution kernel, [out, in / groups · kernel].
    Conv,
    /// A bias, a norm or anything else of one dimension.
    Vector,
    /// Two or more dimensions, use unknown.
    Unknown,
}
