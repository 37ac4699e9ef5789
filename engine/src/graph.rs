//! The graph as the engine sees it: names, operators, attributes, constants in memory. Made from an ONNX model
//! ([`crate::import`]), or by hand in tests.

use std::collections::BTreeMap;

use crate::real::Real;
use crate::value::Value;

/// A graph.
#[derive(Clone, Debug, Default)]
pub struct Graph<R: Real> {
    /// What it is fed with (initialisers that are listed as inputs too are not here).
    pub inputs: Vec<Input>,
    /// Names of its results.
    pub outputs: Vec<String>,
    /// Names that the file gives to the dynamic dimensions of its results.
    pub output_dim_names: BTreeMap<String, Vec<Option<String>>>,
    /// Operations, sorted by dependency.
    pub nodes: Vec<Node<R>>,
    /// Initialisers by name.
    pub constants: BTreeMap<String, Value<R>>,
}

/// An input of a graph.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its dimensions where the file gives them; `None` = dynamic.
    pub dims: Option<Vec<Option<usize>>>,
    /// Names that the file gives to dynamic dimensions.
    pub dim_names: Vec<Option<String>>,
    /// `"float"`, `"integer"`, `"boolean"`.
    pub kind: &'static str,
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Node<R: Real> {
    /// Its name, maybe empty.
    pub name: String,
    /// The operator.
    pub op: String,
    /// The operator's domain, `""` for the standard one.
    pub domain: String,
    /// Values read; `""` = absent.
    pub inputs: Vec<String>,
    /// Values made; `""` = not wanted.
    pub outputs: Vec<String>,
    /// Attributes.
    pub attributes: Vec<(String, Attribute<R>)>,
    /// Version of the operator set that it is written in.
    pub opset: i64,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Attribute<R: Real> {
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Vec<String>),
    Tensor(Value<R>),
    Graph(Box<Graph<R>>),
    /// A kind that no supported operator uses.
    Other,
}

impl<R: Real> Node<R> {
    /// A node of the standard domain without attributes.
    pub fn new(op: &str, inputs: &[&str], outputs: &[&str]) -> Node<R> {
        let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Node {
            name: String::new(),
            op: op.into(),
            domain: String::new(),
            inputs: own(inputs),
            outputs: own(outputs),
            attributes: Vec::new(),
            opset: 20,
        }
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: Attribute<R>) -> Node<R> {
        self.attributes.push((name.into(), value));
        self
    }

    /// How messages call it: its name and operator.
    pub fn title(&self) -> String {
        match (self.name.is_empty(), self.outputs.first()) {
            (true, Some(out)) => format!("node that makes \"{out}\" ({})", self.op),
            _ => format!("node \"{}\" ({})", self.name, self.op),
        }
    }
}
