//! Attributes of a node, each of which must be read: what no operator asked for is refused by name.

use std::cell::RefCell;
use std::collections::BTreeSet;

use compress_core::{Error, Result};

use crate::graph::{Attribute, Graph, Node};
use crate::real::Real;
use crate::value::Value;

/// The attributes of one node.
pub struct Attributes<'a, R: Real> {
    node: &'a Node<R>,
    read: RefCell<BTreeSet<&'a str>>,
}

impl<'a, R: Real> Attributes<'a, R> {
    /// Those of a node, none read yet.
    pub fn new(node: &'a Node<R>) -> Self {
        Attributes { node, read: RefCell::default() }
    }

    /// Version of the operator set.
    pub fn opset(&self) -> i64 {
        self.node.opset
    }

    /// Operator.
    pub fn op(&self) -> &str {
        &self.node.op
    }

    /// Whether input `i` is connected.
    pub fn has_input(&self, i: usize) -> bool {
        self.node.inputs.get(i).is_some_and(|n| !n.is_empty())
    }

    /// Number of outputs named.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether output `i` is wanted.
    pub fn has_output(&self, i: usize) -> bool {
        self.node.outputs.get(i).is_some_and(|n| !n.is_empty())
    }

    fn get(&self, name: &str) -> Option<&'a Attribute<R>> {
        let (name, value) = self.node.attributes.iter().find(|(n, _)| n == name)?;
        self.read.borrow_mut().insert(name);
        Some(value)
    }

    fn wrong<T>(&self, name: &str, expected: &str) -> Result<T> {
        Err(Error::failed(format!("attribute \"{name}\" is not {expected}; the file breaks the ONNX standard")))
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Int(i)) => Ok(Some(*i)),
            Some(_) => self.wrong(name, "an integer"),
        }
    }

    /// An integer with a default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<Option<f64>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Float(f)) => Ok(Some(*f)),
            Some(_) => self.wrong(name, "a number"),
        }
    }

    /// A number with a default.
    pub fn float_or(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// Integers.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(v)) => Ok(Some(v.clone())),
            Some(_) => self.wrong(name, "a list of integers"),
        }
    }

    /// Numbers.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Floats(v)) => Ok(Some(v.clone())),
            Some(_) => self.wrong(name, "a list of numbers"),
        }
    }

    /// A word, one of those allowed.
    pub fn word(&self, name: &str, default: &str, allowed: &[&str]) -> Result<String> {
        let word = match self.get(name) {
            None => default.to_string(),
            Some(Attribute::Text(t)) => t.clone(),
            Some(_) => return self.wrong(name, "a string"),
        };
        if allowed.contains(&word.as_str()) {
            return Ok(word);
        }
        Err(Error::failed(format!(
            "{name} = \"{word}\" is not supported (only {}); export the model with one of these",
            allowed.join(", ")
        )))
    }

    /// Words.
    pub fn words(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Texts(v)) => Ok(Some(v.clone())),
            Some(_) => self.wrong(name, "a list of strings"),
        }
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Result<Option<Value<R>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Tensor(v)) => Ok(Some(v.clone())),
            Some(_) => self.wrong(name, "a tensor"),
        }
    }

    /// A sub-graph.
    pub fn graph(&self, name: &str) -> Result<Option<&'a Graph<R>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Graph(g)) => Ok(Some(g)),
            Some(_) => self.wrong(name, "a graph"),
        }
    }

    /// Reads over an attribute that changes nothing here.
    pub fn ignore(&self, name: &str) {
        let _ = self.get(name);
    }

    /// Refuses attributes that nobody has read.
    pub fn finish(&self) -> Result<()> {
        let read = self.read.borrow();
        match self.node.attributes.iter().find(|(n, _)| !read.contains(n.as_str())) {
            None => Ok(()),
            Some((name, _)) => Err(Error::failed(format!(
                "attribute \"{name}\" is not supported here; export the model without it, or evaluate and retrain by a command"
            ))),
        }
    }
}
