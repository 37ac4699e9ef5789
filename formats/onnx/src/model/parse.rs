//! Reads the structure of a model: every message that leads to a tensor or says what the graph does.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::format::OpenOptions;
use compress_core::{Error, Result};

use super::{Externals, Function, Graph, MessageId, Model, Node, Spans, field};
use crate::wire::{Cursor, Field, Input, Value};

/// Graphs within graphs.
const DEPTH: usize = 64;
/// Bytes of a name.
const NAME: u64 = 64 << 10;

pub(super) struct Parser<'a> {
    pub(super) input: Arc<Input>,
    pub(super) cursor: Cursor<'a>,
    pub(super) spans: Spans,
    pub(super) externals: Externals,
    pub(super) max_expand: u64,
    depth: usize,
}

impl Model {
    /// Opens a model: its structure is read and checked, its payloads stay where they are.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Model> {
        Self::open_redirected(path, options, BTreeMap::new())
    }

    /// Opens a model some of whose external data do not lie under their names yet.
    pub(crate) fn open_redirected(
        path: &Path,
        options: &OpenOptions,
        redirect: BTreeMap<String, PathBuf>,
    ) -> Result<Model> {
        let input = Input::open(path)?;
        let parser = Parser {
            cursor: Cursor::new(&input, 0),
            input: input.clone(),
            spans: Spans::new(input.bytes()),
            externals: Externals::new(path, options.follow_links, redirect),
            max_expand: options.max_expand,
            depth: 0,
        };
        parser.model()
    }
}

impl Parser<'_> {
    fn model(mut self) -> Result<Model> {
        let end = self.input.bytes();
        let (mut ir_version, mut ir_version_span, mut producer) = (0, 0..0, String::new());
        let (mut opsets, mut metadata, mut functions, mut graph) = (Vec::new(), Vec::new(), Vec::new(), None);
        while let Some(f) = self.cursor.field(end)? {
            match (f.number, &f.value) {
                (field::MODEL_IR_VERSION, Value::Varint(v)) => {
                    (ir_version, ir_version_span) = (*v as i64, f.span.clone())
                }
                (2, Value::Bytes(range)) => producer = self.string(range)?,
                (7, Value::Bytes(body)) => {
                    self.once(&graph, &f)?;
                    graph = Some(self.graph(0, &f.span, body)?);
                }
                (8, Value::Bytes(range)) => opsets.push(self.opset(range)?),
                (14, Value::Bytes(range)) if range.end - range.start > NAME => {}
                (14, Value::Bytes(range)) => metadata.push(self.entry(range)?),
                (25, Value::Bytes(body)) => functions.push(self.function(&f.span, body)?),
                (1 | 2 | 7 | 8 | 14 | 25, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        let Some(mut graph) = graph else { return Err(self.input.broken("it has no graph")) };
        crate::packed::find::fold(&mut graph, self.max_expand)
            .map_err(|e| e.at(format_args!("\"{}\"", self.input.path().display())))?;
        let (input, spans, externals) = (self.input, self.spans, self.externals);
        let model = Model {
            ir_version,
            producer,
            opsets,
            graph,
            functions,
            metadata,
            input,
            spans,
            ir_version_span,
            externals,
        };
        Ok(model)
    }

    pub(super) fn graph(&mut self, parent: MessageId, span: &Range<u64>, body: &Range<u64>) -> Result<Graph> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.cursor.broken(span.start, format_args!("graphs nested more than {DEPTH} deep")));
        }
        let message = self.spans.add_graph(parent, span.clone(), body.clone());
        let mut graph = Graph {
            name: String::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            sparse_initializers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            value_info: Vec::new(),
            message,
        };
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (field::GRAPH_NODE, Value::Bytes(b)) => graph.nodes.push(self.node(message, &f.span, b)?),
                (2, Value::Bytes(range)) => graph.name = self.string(range)?,
                (field::GRAPH_INITIALIZER, Value::Bytes(b)) => {
                    graph.initializers.push(self.tensor(message, &f.span, b)?);
                }
                (11, Value::Bytes(b)) => graph.inputs.push(self.value_info(&f.span, b)?),
                (12, Value::Bytes(b)) => graph.outputs.push(self.value_info(&f.span, b)?),
                (13, Value::Bytes(b)) => graph.value_info.push(self.value_info(&f.span, b)?),
                (15, Value::Bytes(b)) => graph.sparse_initializers.push(self.sparse(message, &f.span, b)?),
                (1 | 2 | 5 | 11 | 12 | 13 | 15, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        self.depth -= 1;
        let names = graph.initializers.iter().map(|t| &t.name);
        let mut seen = HashSet::new();
        for name in names.chain(graph.sparse_initializers.iter().map(|s| &s.values.name)) {
            if !seen.insert(name) {
                return Err(self.input.broken(format_args!("two initializers are named \"{name}\"")));
            }
        }
        Ok(graph)
    }

    fn node(&mut self, parent: MessageId, span: &Range<u64>, body: &Range<u64>) -> Result<Node> {
        let message = self.spans.add(parent, span.clone(), body.clone());
        let mut node = Node {
            name: String::new(),
            op_type: String::new(),
            domain: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Vec::new(),
            position: span.start,
            message,
        };
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Bytes(range)) => node.inputs.push(self.string(range)?),
                (2, Value::Bytes(range)) => node.outputs.push(self.string(range)?),
                (3, Value::Bytes(range)) => node.name = self.string(range)?,
                (4, Value::Bytes(range)) => node.op_type = self.string(range)?,
                (5, Value::Bytes(b)) => node.attributes.push(self.attribute(message, &f.span, b)?),
                (7, Value::Bytes(range)) => node.domain = self.string(range)?,
                (1..=5 | 7, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        if node.op_type.is_empty() {
            return Err(self.cursor.broken(span.start, "a node without an operator"));
        }
        Ok(node)
    }

    fn function(&mut self, span: &Range<u64>, body: &Range<u64>) -> Result<Function> {
        let message = self.spans.add(0, span.clone(), body.clone());
        let (domain, name) = (String::new(), String::new());
        let mut function =
            Function { domain, name, inputs: Vec::new(), outputs: Vec::new(), nodes: Vec::new(), opsets: Vec::new() };
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Bytes(range)) => function.name = self.string(range)?,
                (4, Value::Bytes(range)) => function.inputs.push(self.string(range)?),
                (5, Value::Bytes(range)) => function.outputs.push(self.string(range)?),
                (7, Value::Bytes(b)) => function.nodes.push(self.node(message, &f.span, b)?),
                (9, Value::Bytes(range)) => function.opsets.push(self.opset(range)?),
                (10, Value::Bytes(range)) => function.domain = self.string(range)?,
                (1 | 4 | 5 | 7 | 9 | 10, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        Ok(function)
    }

    fn opset(&mut self, body: &Range<u64>) -> Result<(String, i64)> {
        let (mut domain, mut version) = (String::new(), 0);
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Bytes(range)) => domain = self.string(range)?,
                (2, Value::Varint(v)) => version = *v as i64,
                _ => {}
            }
        }
        self.cursor.seek(body.end);
        Ok((domain, version))
    }

    /// Key and value of a `StringStringEntryProto`.
    pub(super) fn entry(&mut self, body: &Range<u64>) -> Result<(String, String)> {
        let (mut key, mut value) = (String::new(), String::new());
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (field::ENTRY_KEY, Value::Bytes(range)) => key = self.string(range)?,
                (field::ENTRY_VALUE, Value::Bytes(range)) => value = self.string(range)?,
                _ => {}
            }
        }
        self.cursor.seek(body.end);
        Ok((key, value))
    }

    pub(super) fn string(&mut self, range: &Range<u64>) -> Result<String> {
        let bytes = self.cursor.bytes(range, NAME, "a name")?;
        String::from_utf8(bytes).map_err(|_| self.cursor.broken(range.start, "a name that is not UTF-8"))
    }

    /// Integers, packed or a single one.
    pub(super) fn integers(&mut self, value: &Value, mut each: impl FnMut(&Self, u64) -> Result<()>) -> Result<()> {
        match value {
            Value::Varint(v) => each(self, *v),
            Value::Bytes(range) => {
                let back = self.cursor.position();
                self.cursor.seek(range.start);
                while self.cursor.position() < range.end {
                    let v = self.cursor.varint(range.end)?;
                    each(self, v)?;
                }
                self.cursor.seek(back);
                Ok(())
            }
            _ => Err(self.cursor.broken(self.cursor.position(), "numbers of the wrong wire type")),
        }
    }

    pub(super) fn dimension(&self, value: u64, at: u64) -> Result<u64> {
        match i64::try_from(value) {
            Ok(_) => Ok(value),
            Err(_) => Err(self.cursor.broken(at, "a negative dimension")),
        }
    }

    /// A message that may stand only once: two would have to be merged.
    pub(super) fn once<T>(&self, earlier: &Option<T>, f: &Field) -> Result<()> {
        match earlier {
            None => Ok(()),
            Some(_) => Err(self.cursor.broken(f.span.start, format_args!("field {} twice", f.number))),
        }
    }

    pub(super) fn wrong_type(&self, f: &Field) -> Error {
        self.cursor.broken(f.span.start, format_args!("field {} of the wrong wire type", f.number))
    }
}
