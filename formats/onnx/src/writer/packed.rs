//! Weights that become packed, and packed ones that become plain.

use std::collections::HashSet;
use std::ops::Range;

use compress_core::format::{Blocks, Outline, Packed, PackedLayout, ValueCoding};
use compress_core::tensor::{Dtype, TensorId};
use compress_core::{Error, Result};

use super::edits::Segment;
use super::sink::{OnnxSink, SMALL, external_fields};
use crate::list::{Site, is_constant};
use crate::model::{Attribute, DataType, Graph, MessageId, Model, Node, Place, field};
use crate::packed::forms::{self, Factors, Half, Pair, Use};
use crate::packed::{MARK, chain, find};
use crate::wire::{Cursor, Message};

/// What stands in the place of something of a graph, parts of it known only when the name of the data's file is.
pub(super) struct Pending {
    graph: MessageId,
    at: Range<u64>,
    parts: Vec<Part>,
}

enum Part {
    Ready(Segment),
    /// An initialiser of external data: dimensions, type and name; offset and length.
    External(Message, u64, u64),
}

impl Pending {
    /// The replacement, its external data in a file of that name.
    pub(super) fn resolve(self, file: &str) -> (MessageId, Range<u64>, Vec<Segment>) {
        let segment = |part| match part {
            Part::Ready(segment) => segment,
            Part::External(head, offset, length) => {
                let mut tensor = head.into_bytes();
                tensor.extend(external_fields(file, offset, length));
                tensor.extend(Message::new().int(field::TENSOR_LOCATION, 1).into_bytes());
                let field = Message::new().bytes(field::GRAPH_INITIALIZER, tensor);
                Segment::Bytes(field.into_bytes())
            }
        };
        (self.graph, self.at, self.parts.into_iter().map(segment).collect())
    }
}

/// Where a weight stands.
struct Spot {
    graph: MessageId,
    /// As the graph's nodes know it.
    name: String,
    /// The field that is replaced, and those that go.
    at: Range<u64>,
    gone: Vec<Range<u64>>,
    /// Whether large data go to the file of external data.
    external: bool,
}

impl OnnxSink {
    pub(super) fn put_packed(&mut self, id: TensorId, packed: &Packed<'_>) -> Result<()> {
        let shared = self.rewrite.shared.clone();
        let (info, outline) = (&shared.list.infos[id], packed.outline());
        if packed.dtype != info.dtype || packed.shape != info.shape {
            return Err(Error::failed("it was packed as another type or shape"));
        }
        if let [term] = packed.terms.as_slice()
            && let [values] = term.pieces.as_slice()
            && is_plain(&outline)
        {
            return self.put_dense(id, values.data.as_ref());
        }
        can_unpack(&shared.model, &outline)?;
        let spot = self.spot(id)?;
        let prefix = self.prefix(&spot.name);
        let graph = graph_of(&shared.model.graph, spot.graph);
        let factors = graph.and_then(|g| forms::of(g, &spot.name, &prefix, &outline));
        let factors = factors.filter(|(_, uses)| !self.touched(graph, uses));
        let chain = match &factors {
            Some((factors, _)) => factors.chain.clone(),
            None => chain::build(&prefix, &spot.name, &outline)?,
        };
        let mut parts = Vec::new();
        for (i, term) in packed.terms.iter().enumerate() {
            for piece in &term.pieces {
                let name = chain::piece_name(&prefix, i, piece.role);
                let data_type = DataType::of(&piece.dtype)
                    .ok_or_else(|| Error::failed(format!("ONNX has no {}", piece.dtype.name())))?;
                parts.extend(self.initializer(&name, data_type, &piece.shape, piece.data.as_ref(), spot.external)?);
            }
        }
        for c in &chain.constants {
            parts.extend(self.initializer(&c.name, c.data_type, &c.dims, &Memory(&c.bytes), false)?);
        }
        for op in &chain.ops {
            self.rewrite.add_node_first(spot.graph, op.message());
        }
        if let Some(graph) = graph {
            if self.rewrite.remove_graph_input(graph, &spot.name) {
                self.no_inputs.push(spot.name.clone());
            }
            match &factors {
                Some((factors, uses)) => self.split_nodes(id, graph, factors, uses, &prefix)?,
                None => self.join_nodes(id, graph)?,
            }
        }
        // Before IR 4 every initialiser had to be an input, and nothing that hangs on an input is folded.
        if self.raised.is_none() && self.rewrite.raise_ir_version(4) {
            self.raised = Some(shared.model.ir_version);
        }
        self.replace_spot(id, spot, parts);
        Ok(())
    }

    /// A packed weight becomes an ordinary initialiser.
    pub(super) fn put_unpacked(&mut self, id: TensorId, blocks: &dyn Blocks) -> Result<()> {
        let spot = self.spot(id)?;
        let shared = self.rewrite.shared.clone();
        let info = &shared.list.infos[id];
        let data_type = DataType::of(&info.dtype).ok_or_else(|| Error::failed("it has no ONNX type"))?;
        let parts = self.initializer(&spot.name, data_type, &info.shape, blocks, spot.external)?;
        if let Some(graph) = graph_of(&shared.model.graph, spot.graph) {
            self.join_nodes(id, graph)?;
        }
        self.replace_spot(id, spot, parts);
        Ok(())
    }

    /// Whether a node that uses a weight was changed for another one already.
    fn touched(&self, graph: Option<&Graph>, uses: &[Use]) -> bool {
        let node = |u: &Use| graph.and_then(|g| g.nodes.get(u.node)).map(|n| n.message);
        uses.iter().filter_map(node).any(|message| self.split.contains(&message))
    }

    /// Nodes that multiply with a weight become two each, which multiply with its factors.
    fn split_nodes(
        &mut self,
        id: TensorId,
        graph: &Graph,
        factors: &Factors,
        uses: &[Use],
        prefix: &str,
    ) -> Result<()> {
        for (i, used) in uses.iter().enumerate() {
            let node = &graph.nodes[used.node];
            let halves = forms::split(node, used.slot, factors, &format!("{prefix}/m{i}"));
            let halves =
                halves.ok_or_else(|| Error::failed("a node that cannot be split (a mistake of this program)"))?;
            let mut bytes = Vec::new();
            for half in halves {
                let node = match half {
                    Half::New(op) => op.message().into_bytes(),
                    Half::Carrier { inputs, outputs } => self.carrier(node.message, &inputs, &outputs)?,
                };
                bytes.extend(Message::new().bytes(field::GRAPH_NODE, node).into_bytes());
            }
            self.replace_node(id, graph, node, bytes);
        }
        Ok(())
    }

    /// Nodes that multiply with the factors of a weight become one again each.
    fn join_nodes(&mut self, id: TensorId, graph: &Graph) -> Result<()> {
        let pairs = self.pairs(id);
        for node in graph.nodes.iter().filter(|n| pairs.iter().any(|p| [p.first, p.second].contains(&n.message))) {
            let bytes = self.carrier(node.message, &node.inputs, &node.outputs)?;
            let bytes = Message::new().bytes(field::GRAPH_NODE, bytes).into_bytes();
            self.replace_node(id, graph, node, bytes);
        }
        Ok(())
    }

    /// The pairs of nodes in the input that multiply with a weight's factors.
    fn pairs(&self, id: TensorId) -> Vec<Pair> {
        match &self.rewrite.shared.list.sites[id] {
            Site::Tensor(t) | Site::Pair(t, _) => match &t.place {
                Place::Packed(packed) => packed.uses.clone(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Puts bytes in the place of a node, which may be two in the input.
    fn replace_node(&mut self, id: TensorId, graph: &Graph, node: &Node, bytes: Vec<u8>) {
        self.split.insert(node.message);
        let shared = self.rewrite.shared.clone();
        let field = |message: MessageId| shared.model.spans.get(message).field.clone();
        let pair = self.pairs(id).into_iter().find(|p| [p.first, p.second].contains(&node.message));
        if let Some(pair) = pair {
            self.rewrite.replace(graph.message, field(pair.first), Vec::new());
        }
        let at = field(pair.map_or(node.message, |p| p.second));
        self.rewrite.replace(graph.message, at, vec![Segment::Bytes(bytes)]);
    }

    /// A node of the input with other inputs and outputs; all else is copied as it is.
    fn carrier(&self, message: MessageId, inputs: &[String], outputs: &[String]) -> Result<Vec<u8>> {
        let model = &self.rewrite.shared.model;
        let body = model.spans.get(message).body.clone();
        let node = inputs.iter().fold(Message::new(), |m, name| m.bytes(field::NODE_INPUT, name));
        let node = outputs.iter().fold(node, |m, name| m.bytes(field::NODE_OUTPUT, name));
        let (mut bytes, mut cursor) = (node.into_bytes(), Cursor::new(&model.input, body.start));
        while let Some(f) = cursor.field(body.end)? {
            if f.number != field::NODE_INPUT && f.number != field::NODE_OUTPUT {
                bytes.extend(cursor.bytes(&f.span, 1 << 24, "a field of a node")?);
            }
        }
        Ok(bytes)
    }

    fn replace_spot(&mut self, id: TensorId, spot: Spot, parts: Vec<Part>) {
        let first = self.rewrite.shared.list.infos.len();
        let slots = self.rewrite.shared.list.parts_of.get(&id).cloned().unwrap_or(0..0);
        for slot in slots.map(|s| s + first).chain([id]) {
            self.homes.remove(&slot);
            self.given[slot] = true;
        }
        for range in spot.gone {
            self.rewrite.replace(spot.graph, range, Vec::new());
        }
        self.pending.push(Pending { graph: spot.graph, at: spot.at, parts });
    }

    /// An initialiser's field; its payload is written.
    fn initializer(
        &mut self,
        name: &str,
        data_type: DataType,
        dims: &[u64],
        blocks: &dyn Blocks,
        external: bool,
    ) -> Result<Vec<Part>> {
        let bytes = blocks.bytes();
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).unwrap_or(u64::MAX);
        if u128::from(elements) * u128::from(data_type.bits()) != u128::from(bytes) * 8 {
            return Err(Error::failed(format!("the piece \"{name}\" of shape {dims:?} has {bytes} bytes")));
        }
        let head = Message::new()
            .packed(field::TENSOR_DIMS, dims.iter().map(|d| *d as i64))
            .int(field::TENSOR_TYPE, i64::from(data_type.0))
            .bytes(field::TENSOR_NAME, name);
        if external && bytes >= SMALL {
            let data = self.data_file()?;
            let offset = data.reserve(bytes, None);
            data.write(offset, blocks)?;
            return Ok(vec![Part::External(head, offset, bytes)]);
        }
        let head = head.header(field::TENSOR_RAW, bytes).into_bytes();
        let field = Message::new().header(field::GRAPH_INITIALIZER, head.len() as u64 + bytes).into_bytes();
        let payload = self.rewrite.append(blocks)?;
        Ok(vec![Part::Ready(Segment::Bytes([field, head].concat())), Part::Ready(payload)])
    }

    fn spot(&self, id: TensorId) -> Result<Spot> {
        let shared = &self.rewrite.shared;
        let (spans, list) = (&shared.model.spans, &shared.list);
        let slots = list.parts_of.get(&id).cloned().unwrap_or(0..0);
        let external =
            self.moves || shared.list.infos[id].file > 0 || slots.into_iter().any(|slot| list.parts[slot].1 > 0);
        let (message, name) = match &list.sites[id] {
            Site::Tensor(t) | Site::Pair(t, _) => match &t.place {
                Place::Packed(packed) => {
                    let field = |message: MessageId| spans.get(message).field.clone();
                    let gone = packed.parts[1..].iter().map(|p| p.message).chain(packed.nodes.iter().copied());
                    let graph = spans.get(t.message).parent.unwrap_or(0);
                    let (at, name) = (field(t.message), t.name.clone());
                    return Ok(Spot { graph, name, at, gone: gone.map(field).collect(), external });
                }
                _ => (t.message, &t.name),
            },
            Site::Sparse(s, true) => (s.message, &s.values.name),
            _ => return Err(Error::failed("a constant of this kind cannot be changed")),
        };
        let (parent, at) = (spans.get(message).parent.unwrap_or(0), spans.get(message).field.clone());
        if spans.is_graph(parent) {
            return Ok(Spot { graph: parent, name: name.clone(), at, gone: Vec::new(), external });
        }
        // A Constant: tensor, attribute, node, graph.
        let node = spans.get(parent).parent.unwrap_or(0);
        let (graph, at) = (spans.get(node).parent.unwrap_or(0), spans.get(node).field.clone());
        let constant = graph_of(&shared.model.graph, graph)
            .and_then(|g| g.nodes.iter().find(|n| n.message == node && is_constant(n)))
            .and_then(|n| n.outputs.first())
            .filter(|name| !name.is_empty());
        match constant {
            Some(name) => Ok(Spot { graph, name: name.clone(), at, gone: Vec::new(), external }),
            None => Err(Error::failed("a tensor of an attribute or of a function cannot be packed")),
        }
    }

    /// What packing changed beside the weights.
    pub(super) fn warnings(&self) -> Vec<String> {
        let file = &self.rewrite.shared.files[0].name;
        let mut warnings = Vec::new();
        if let Some(first) = self.no_inputs.first() {
            let (n, more) = (self.no_inputs.len(), if self.no_inputs.len() > 1 { ", …" } else { "" });
            warnings.push(format!(
                "\"{file}\": {n} packed weights were graph inputs too, and are no longer: \"{first}\"{more}"
            ));
        }
        if let Some(old) = self.raised {
            warnings.push(format!(
                "\"{file}\": IR version raised from {old} to 4, the first whose initialisers need not be inputs"
            ));
        }
        warnings
    }

    /// A prefix for what belongs to a weight, unlike all that are in the model.
    fn prefix(&mut self, name: &str) -> String {
        let model = &self.rewrite.shared.model;
        let used = self.prefixes.get_or_insert_with(|| prefixes(model));
        let first = format!("{name}{MARK}");
        if !used.contains(&first) {
            return first;
        }
        let unused = (2u64..).map(|i| format!("{name}{MARK}{i}")).find(|p| !used.contains(p));
        unused.unwrap_or(first)
    }
}

/// What an ordinary initialiser is.
fn is_plain(outline: &Outline) -> bool {
    let plain = (PackedLayout::Dense, ValueCoding::Plain);
    matches!(outline.terms.as_slice(), [term] if (term.layout, term.values) == plain)
}

/// Whether the model's opset has the operators.
fn can_unpack(model: &Model, outline: &Outline) -> Result<()> {
    let opset = model.opset("").unwrap_or(0);
    let mut pieces = outline.terms.iter().flat_map(|t| &t.pieces);
    let bf16 = outline.dtype == Dtype::Bf16 || pieces.any(|p| p.dtype == Dtype::Bf16);
    if opset < 11 || (bf16 && opset < 13) {
        let what = if bf16 { "bf16 values" } else { "it" };
        return Err(Error::failed(format!("the model's opset {opset} has no operators to unpack {what}")));
    }
    Ok(())
}

/// The graph that is this message.
fn graph_of(graph: &Graph, message: MessageId) -> Option<&Graph> {
    if graph.message == message {
        return Some(graph);
    }
    graph.nodes.iter().flat_map(|n| &n.attributes).find_map(|(_, attribute)| match attribute {
        Attribute::Graph(inner) => graph_of(inner, message),
        Attribute::Graphs(inner) => inner.iter().find_map(|g| graph_of(g, message)),
        _ => None,
    })
}

/// All prefixes of the kind that ours are.
fn prefixes(model: &Model) -> HashSet<String> {
    fn walk(graph: &Graph, used: &mut HashSet<String>) {
        let mut add = |name: &str| used.extend(find::prefix(name).map(String::from));
        graph.initializers.iter().for_each(|t| add(&t.name));
        graph.sparse_initializers.iter().for_each(|t| add(&t.values.name));
        graph.inputs.iter().chain(&graph.outputs).for_each(|v| add(&v.name));
        graph.nodes.iter().flat_map(|n| n.inputs.iter().chain(&n.outputs)).for_each(|name| add(name));
        for (_, attribute) in graph.nodes.iter().flat_map(|n| &n.attributes) {
            match attribute {
                Attribute::Graph(inner) => walk(inner, used),
                Attribute::Graphs(inner) => inner.iter().for_each(|g| walk(g, used)),
                _ => {}
            }
        }
    }
    let mut used = HashSet::new();
    walk(&model.graph, &mut used);
    used
}

/// Bytes in memory.
struct Memory<'a>(&'a [u8]);

impl Blocks for Memory<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0[offset as usize..][..out.len()]);
        Ok(())
    }
}
