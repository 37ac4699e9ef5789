//! A parsed ONNX model: the structure in memory, the payloads left where they lie in the file.
//!
//! ```no_run
//! # fn main() -> compress_core::Result<()> {
//! use compress_onnx::model::Model;
//! let model = Model::open(std::path::Path::new("nmt.onnx"), &Default::default())?;
//! for node in &model.graph.nodes {
//!     println!("{} {:?} -> {:?}", node.op_type, node.inputs, node.outputs);
//! }
//! for tensor in &model.graph.initializers {
//!     println!("{} {:?} {} bytes", tensor.name, tensor.dims, tensor.dense_bytes());
//!     let little_endian: Vec<u8> = tensor.read_bytes()?;
//! }
//! # Ok(()) }
//! ```

mod dtype;
mod external;
mod parse;
mod parse_attribute;
mod parse_tensor;
mod parse_types;
mod spans;
mod sparse;
mod tensor;
mod typed;

use std::sync::Arc;

pub use dtype::DataType;
pub(crate) use external::Externals;
pub(crate) use spans::{MessageId, Spans};
pub use sparse::SparseRef;
pub use tensor::TensorRef;
pub(crate) use tensor::{Place, count_elements, field};
pub(crate) use typed::encode_entries;

use crate::wire::Input;

/// A model, `ModelProto`.
#[derive(Debug)]
pub struct Model {
    /// Version of the file format.
    pub ir_version: i64,
    /// Who wrote it: `"pytorch"`.
    pub producer: String,
    /// Operator sets: domain (`""` = the standard one) and version.
    pub opsets: Vec<(String, i64)>,
    /// What it computes.
    pub graph: Graph,
    /// Local functions, which nodes call by (domain, name).
    pub functions: Vec<Function>,
    /// Metadata, key and value.
    pub metadata: Vec<(String, String)>,
    pub(crate) input: Arc<Input>,
    pub(crate) spans: Spans,
    /// Where the field `ir_version` lies; empty and at the start where it is absent.
    pub(crate) ir_version_span: std::ops::Range<u64>,
    pub(crate) externals: Externals,
}

impl Model {
    /// The version of the operator set of a domain; `""` is the standard one.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let plain = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_string() };
        self.opsets.iter().find(|(d, _)| plain(d) == plain(domain)).map(|(_, version)| *version)
    }

    /// The local function that a node calls, if it calls one.
    pub fn function(&self, node: &Node) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == node.op_type && f.domain == node.domain)
    }
}

/// A graph, `GraphProto`: the model's or that of a branch or loop body.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Operations, in file order (the standard says: sorted by dependency).
    pub nodes: Vec<Node>,
    /// Constants.
    pub initializers: Vec<TensorRef>,
    /// Constants that are stored sparse.
    pub sparse_initializers: Vec<SparseRef>,
    /// Inputs. Files of IR version 3 list initialisers here as well.
    pub inputs: Vec<ValueInfo>,
    /// Outputs.
    pub outputs: Vec<ValueInfo>,
    /// Types of values in between, where the file gives them.
    pub value_info: Vec<ValueInfo>,
    pub(crate) message: MessageId,
}

impl Graph {
    /// The initialiser of that name.
    pub fn initializer(&self, name: &str) -> Option<&TensorRef> {
        self.initializers.iter().find(|t| t.name == name)
    }
}

/// A local function, `FunctionProto`.
#[derive(Clone, Debug)]
pub struct Function {
    /// Domain under which nodes call it.
    pub domain: String,
    /// Name under which nodes call it.
    pub name: String,
    /// Names of its formal inputs.
    pub inputs: Vec<String>,
    /// Names of its formal outputs.
    pub outputs: Vec<String>,
    /// Its body.
    pub nodes: Vec<Node>,
    /// Operator sets of the body.
    pub opsets: Vec<(String, i64)>,
}

/// An operation, `NodeProto`.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name; often empty.
    pub name: String,
    /// The operator: `"MatMul"`.
    pub op_type: String,
    /// The operator's domain; `""` is the standard one.
    pub domain: String,
    /// Names of the values that it reads; `""` = an optional one that is absent.
    pub inputs: Vec<String>,
    /// Names of the values that it makes; `""` = one that is not wanted.
    pub outputs: Vec<String>,
    /// Attributes, by name, in file order.
    pub attributes: Vec<(String, Attribute)>,
    /// Where it begins in the file.
    pub(crate) position: u64,
    /// The message itself.
    pub(crate) message: MessageId,
}

impl Node {
    /// Whether it is an operator of the standard set.
    pub fn is_standard(&self) -> bool {
        self.domain.is_empty() || self.domain == "ai.onnx"
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name) {
            Some(Attribute::Int(i)) => Some(*i),
            _ => None,
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attribute(name) {
            Some(Attribute::Float(f)) => Some(*f),
            _ => None,
        }
    }

    /// An attribute that is a list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attribute(name) {
            Some(Attribute::Ints(i)) => Some(i),
            _ => None,
        }
    }

    /// A string attribute, if it is UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        match self.attribute(name) {
            Some(Attribute::String(s)) => std::str::from_utf8(s).ok(),
            _ => None,
        }
    }

    /// An attribute that is a list of strings, those that are UTF-8.
    pub fn strings(&self, name: &str) -> Option<Vec<&str>> {
        match self.attribute(name) {
            Some(Attribute::Strings(s)) => s.iter().map(|s| std::str::from_utf8(s).ok()).collect(),
            _ => None,
        }
    }

    /// A graph attribute.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        match self.attribute(name) {
            Some(Attribute::Graph(g)) => Some(g),
            _ => None,
        }
    }

    /// The name of input `i`; `None` where it is absent.
    pub fn input(&self, i: usize) -> Option<&str> {
        self.inputs.get(i).map(String::as_str).filter(|s| !s.is_empty())
    }
}

/// The value of an attribute, `AttributeProto`.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// An f32.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Bytes, mostly UTF-8.
    String(Vec<u8>),
    /// A tensor.
    Tensor(Box<TensorRef>),
    /// A graph.
    Graph(Box<Graph>),
    /// f32 values.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Strings.
    Strings(Vec<Vec<u8>>),
    /// Tensors.
    Tensors(Vec<TensorRef>),
    /// Graphs.
    Graphs(Vec<Graph>),
    /// A sparse tensor.
    Sparse(Box<SparseRef>),
    /// Within a function: the value is that of the call's attribute of this name.
    Reference(String),
    /// Types, lists of sparse tensors, very long lists: nothing that we need.
    Other,
}

/// A named value and its type, `ValueInfoProto`.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// The value's name.
    pub name: String,
    /// Element type, where it is a tensor of known type.
    pub data_type: Option<DataType>,
    /// Dimensions, where the rank is known.
    pub dims: Option<Vec<Dim>>,
    /// Where the field lies in its graph.
    pub(crate) span: std::ops::Range<u64>,
}

/// One dimension of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dim {
    /// A number.
    Value(u64),
    /// A name that stands for a number known at run time.
    Name(String),
    /// Not known.
    Unknown,
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
