//! Reads the structure of a model: every message that leads to a tensor or says what the graph does.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::format::OpenOptions;
use compress_core::{Error, Result};

use super::{Attribute, DataType, Dim, Externals, Function, Graph, MessageId, Model, Node, Spans, ValueInfo, field};
use crate::wire::{Cursor, Field, Input, Value};

/// Graphs within graphs.
const DEPTH: usize = 64;
/// Bytes of a name.
const NAME: u64 = 64 << 10;
/// Bytes of an attribute's list of numbers or of a string; longer ones are not held in memory.
const LIST: u64 = 1 << 20;

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
                (14, Value::Bytes(range)) => {
                    if range.end - range.start <= NAME {
                        metadata.push(self.entry(range)?);
                    }
                }
                (25, Value::Bytes(body)) => functions.push(self.function(&f.span, body)?),
                (1 | 2 | 7 | 8 | 14 | 25, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        let Some(graph) = graph else { return Err(self.input.broken("it has no graph")) };
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

    fn graph(&mut self, parent: MessageId, span: &Range<u64>, body: &Range<u64>) -> Result<Graph> {
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

    fn attribute(&mut self, parent: MessageId, span: &Range<u64>, body: &Range<u64>) -> Result<(String, Attribute)> {
        let message = self.spans.add(parent, span.clone(), body.clone());
        let mut draft = AttributeDraft::default();
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            self.attribute_field(&mut draft, message, &f)?;
            self.cursor.seek(f.span.end);
        }
        Ok((std::mem::take(&mut draft.name), draft.value()))
    }

    fn attribute_field(&mut self, draft: &mut AttributeDraft, message: MessageId, f: &Field) -> Result<()> {
        let short = |range: &Range<u64>| range.end - range.start <= LIST;
        match (f.number, &f.value) {
            (1, Value::Bytes(range)) => draft.name = self.string(range)?,
            (2, Value::Fixed32(v)) => draft.float = Some(f32::from_bits(*v)),
            (3, Value::Varint(v)) => draft.int = Some(*v as i64),
            (4, Value::Bytes(range)) if short(range) => draft.string = Some(self.cursor.bytes(range, LIST, "")?),
            (5, Value::Bytes(b)) => {
                self.once(&draft.tensor, f)?;
                draft.tensor = Some(self.tensor(message, &f.span, b)?);
            }
            (6, Value::Bytes(b)) => {
                self.once(&draft.graph, f)?;
                draft.graph = Some(self.graph(message, &f.span, b)?);
            }
            (7, Value::Fixed32(v)) => draft.floats.push(f32::from_bits(*v)),
            (7, Value::Bytes(range)) if short(range) => {
                let bytes = self.cursor.bytes(range, LIST, "")?;
                if bytes.len() % 4 != 0 {
                    return Err(self.cursor.broken(f.span.start, "packed numbers with a broken one at the end"));
                }
                draft.floats.extend(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])));
            }
            (8, Value::Bytes(range)) if !short(range) => draft.other = true,
            (8, value) => self.integers(value, |_, v| {
                draft.ints.push(v as i64);
                Ok(())
            })?,
            (9, Value::Bytes(range)) if short(range) => draft.strings.push(self.cursor.bytes(range, LIST, "")?),
            (10, Value::Bytes(b)) => draft.tensors.push(self.tensor(message, &f.span, b)?),
            (11, Value::Bytes(b)) => draft.graphs.push(self.graph(message, &f.span, b)?),
            (20, Value::Varint(v)) => draft.kind = *v,
            (21, Value::Bytes(range)) => draft.reference = self.string(range)?,
            (22, Value::Bytes(b)) => {
                self.once(&draft.sparse, f)?;
                draft.sparse = Some(self.sparse(message, &f.span, b)?);
            }
            (4 | 7 | 9, Value::Bytes(_)) => draft.other = true,
            (1..=11 | 20..=22, _) => return Err(self.wrong_type(f)),
            _ => {}
        }
        Ok(())
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

    fn value_info(&mut self, span: &Range<u64>, body: &Range<u64>) -> Result<ValueInfo> {
        let mut info = ValueInfo { name: String::new(), data_type: None, dims: None, span: span.clone() };
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Bytes(range)) => info.name = self.string(range)?,
                (2, Value::Bytes(b)) => {
                    if let Some(tensor) = self.inner(b, 1)? {
                        self.tensor_type(&tensor, &mut info)?;
                    }
                }
                (1 | 2, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        Ok(info)
    }

    fn tensor_type(&mut self, body: &Range<u64>, info: &mut ValueInfo) -> Result<()> {
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match &f.value {
                Value::Varint(v) if f.number == 1 => info.data_type = i32::try_from(*v).ok().map(DataType),
                Value::Bytes(b) if f.number == 2 => {
                    let mut dims = Vec::new();
                    self.cursor.seek(b.start);
                    while let Some(d) = self.cursor.field(b.end)? {
                        if let (1, Value::Bytes(dim)) = (d.number, &d.value) {
                            dims.push(self.dim(dim)?);
                        }
                        self.cursor.seek(d.span.end);
                    }
                    info.dims = Some(dims);
                }
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        Ok(())
    }

    fn dim(&mut self, body: &Range<u64>) -> Result<Dim> {
        let mut dim = Dim::Unknown;
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Varint(v)) if *v <= i64::MAX as u64 => dim = Dim::Value(*v),
                (2, Value::Bytes(range)) => dim = Dim::Name(self.string(range)?),
                _ => {}
            }
        }
        Ok(dim)
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

    /// The body of the last message field `number` of a message.
    fn inner(&mut self, body: &Range<u64>, number: u32) -> Result<Option<Range<u64>>> {
        let mut found = None;
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            if let (true, Value::Bytes(range)) = (f.number == number, f.value) {
                found = Some(range);
            }
        }
        Ok(found)
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

/// An `AttributeProto` as it stands.
#[derive(Default)]
struct AttributeDraft {
    name: String,
    kind: u64,
    float: Option<f32>,
    int: Option<i64>,
    string: Option<Vec<u8>>,
    tensor: Option<super::TensorRef>,
    graph: Option<Graph>,
    floats: Vec<f32>,
    ints: Vec<i64>,
    strings: Vec<Vec<u8>>,
    tensors: Vec<super::TensorRef>,
    graphs: Vec<Graph>,
    sparse: Option<super::SparseRef>,
    reference: String,
    other: bool,
}

impl AttributeDraft {
    /// The value that the attribute's type names. Defaults count: an attribute of type INT without a value is 0.
    fn value(self) -> Attribute {
        if !self.reference.is_empty() {
            return Attribute::Reference(self.reference);
        }
        if self.other {
            return Attribute::Other;
        }
        let kind = if self.kind == 0 { self.guess() } else { self.kind };
        match kind {
            1 => Attribute::Float(self.float.unwrap_or(0.0)),
            2 => Attribute::Int(self.int.unwrap_or(0)),
            3 => Attribute::String(self.string.unwrap_or_default()),
            4 => self.tensor.map_or(Attribute::Other, |t| Attribute::Tensor(Box::new(t))),
            5 => self.graph.map_or(Attribute::Other, |g| Attribute::Graph(Box::new(g))),
            6 => Attribute::Floats(self.floats),
            7 => Attribute::Ints(self.ints),
            8 => Attribute::Strings(self.strings),
            9 => Attribute::Tensors(self.tensors),
            10 => Attribute::Graphs(self.graphs),
            11 => self.sparse.map_or(Attribute::Other, |s| Attribute::Sparse(Box::new(s))),
            _ => Attribute::Other,
        }
    }

    /// Files of IR version 1 have no type field.
    fn guess(&self) -> u64 {
        let present = [
            (self.float.is_some(), 1),
            (self.int.is_some(), 2),
            (self.string.is_some(), 3),
            (self.tensor.is_some(), 4),
            (self.graph.is_some(), 5),
            (!self.floats.is_empty(), 6),
            (!self.ints.is_empty(), 7),
            (!self.strings.is_empty(), 8),
            (!self.tensors.is_empty(), 9),
            (!self.graphs.is_empty(), 10),
            (self.sparse.is_some(), 11),
        ];
        present.iter().find(|(there, _)| *there).map_or(0, |(_, kind)| *kind)
    }
}
