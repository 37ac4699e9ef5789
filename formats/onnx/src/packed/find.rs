//! Finds chains in a graph and puts the weights in their place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use compress_core::encode::outline::ROLES;
use compress_core::encode::{Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding};
use compress_core::{Error, Result};

use super::chain::{self, Chain};
use super::{MARK, PackedRef, decode};
use crate::model::{Attribute, DataType, Graph, Node, Place, TensorRef, count_elements};

/// Replaces the chains of a graph and of all graphs in it by the weights that they make.
pub(crate) fn fold(graph: &mut Graph, max_expand: u64) -> Result<()> {
    for node in &mut graph.nodes {
        for (_, attribute) in &mut node.attributes {
            match attribute {
                Attribute::Graph(inner) => fold(inner, max_expand)?,
                Attribute::Graphs(inner) => inner.iter_mut().try_for_each(|g| fold(g, max_expand))?,
                _ => {}
            }
        }
    }
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for (i, tensor) in graph.initializers.iter().enumerate() {
        if let Some(prefix) = prefix(&tensor.name) {
            groups.entry(prefix.into()).or_default().tensors.push(i);
        }
    }
    if groups.is_empty() {
        return Ok(());
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let prefixes: BTreeSet<&str> = node.inputs.iter().chain(&node.outputs).filter_map(|n| prefix(n)).collect();
        for prefix in prefixes {
            if let Some(group) = groups.get_mut(prefix) {
                group.nodes.push(i);
            }
        }
    }
    let mut outside = BTreeSet::new();
    read_elsewhere(graph, &mut outside);
    let mut found: HashMap<usize, TensorRef> = HashMap::new();
    let (mut gone, mut nodes_gone) = (BTreeSet::new(), BTreeSet::new());
    for (prefix, group) in &groups {
        let Some(read) = group.read(prefix, graph).filter(|_| !outside.contains(prefix)) else { continue };
        let bad = |e: Error| e.at(format_args!("tensor \"{}\"", read.name));
        let packed = decode::open(read.outline, &read.pieces, max_expand).map_err(bad)?;
        let parts: Vec<TensorRef> = group.tensors.iter().map(|i| graph.initializers[*i].clone()).collect();
        let nodes = group.nodes.iter().map(|i| graph.nodes[*i].message).collect();
        let dims = packed.outline().shape.clone();
        let tensor = TensorRef {
            name: read.name,
            data_type: read.data_type,
            elements: count_elements(&dims).unwrap_or(0),
            dims,
            message: parts[0].message,
            place: Place::Packed(Arc::new(PackedRef {
                outline: packed.outline().clone(),
                parts,
                nodes,
                decoder: Arc::new(packed),
            })),
        };
        found.insert(group.tensors[0], tensor);
        gone.extend(group.tensors.iter().copied());
        nodes_gone.extend(group.nodes.iter().copied());
    }
    let mut i = 0;
    let old = std::mem::take(&mut graph.initializers);
    for (i, tensor) in old.into_iter().enumerate() {
        match found.remove(&i) {
            Some(packed) => graph.initializers.push(packed),
            None if gone.contains(&i) => {}
            None => graph.initializers.push(tensor),
        }
    }
    graph.nodes.retain(|_| {
        i += 1;
        !nodes_gone.contains(&(i - 1))
    });
    Ok(())
}

/// The part of a name before its last slash, where that ends in our mark and at most a number.
pub(crate) fn prefix(name: &str) -> Option<&str> {
    let prefix = name.rsplit_once('/')?.0;
    prefix.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with(MARK).then_some(prefix)
}

/// The prefixes of names that the graph gives out or that graphs within it use.
fn read_elsewhere(graph: &Graph, names: &mut BTreeSet<String>) {
    fn all(graph: &Graph, names: &mut BTreeSet<String>) {
        for node in &graph.nodes {
            names.extend(node.inputs.iter().chain(&node.outputs).filter_map(|n| prefix(n)).map(String::from));
        }
        read_elsewhere(graph, names);
    }
    let ends = graph.outputs.iter().chain(&graph.inputs);
    names.extend(ends.filter_map(|v| prefix(&v.name)).map(String::from));
    for attribute in graph.nodes.iter().flat_map(|n| &n.attributes) {
        match &attribute.1 {
            Attribute::Graph(inner) => all(inner, names),
            Attribute::Graphs(inner) => inner.iter().for_each(|g| all(g, names)),
            _ => {}
        }
    }
}

/// Initialisers and nodes whose names have one prefix.
#[derive(Default)]
struct Group {
    tensors: Vec<usize>,
    nodes: Vec<usize>,
}

/// What a group turned out to be.
struct Read {
    name: String,
    data_type: DataType,
    outline: Outline,
    pieces: Vec<Vec<TensorRef>>,
}

impl Group {
    /// The packed weight, if the group is exactly one.
    fn read(&self, prefix: &str, graph: &Graph) -> Option<Read> {
        let inside = |name: &str| self::prefix(name) == Some(prefix);
        let tensors: BTreeMap<&str, &TensorRef> = self
            .tensors
            .iter()
            .filter_map(|i| Some((graph.initializers[*i].name.rsplit_once('/')?.1, &graph.initializers[*i])))
            .collect();
        let name = graph.nodes.get(*self.nodes.last()?)?.outputs.first().filter(|n| !inside(n))?.clone();
        if name.is_empty() || graph.initializer(&name).is_some() {
            return None;
        }
        let floats = [DataType::FLOAT, DataType::FLOAT16, DataType::BFLOAT16, DataType::DOUBLE];
        let (data_type, shape) = floats.iter().find_map(|t| Some((*t, *tensors.get(t.name().as_str())?)))?;
        if shape.dims.len() != 1 || shape.elements > 64 || shape.data_type != DataType::INT64 {
            return None;
        }
        let shape: Option<Vec<u64>> = shape.read_i64s().ok()??.into_iter().map(|d| u64::try_from(d).ok()).collect();
        let shape = shape.filter(|s| count_elements(s).is_some())?;
        let (mut terms, mut pieces) = (Vec::new(), Vec::new());
        loop {
            let term = terms.len();
            let found: Vec<(&'static str, &TensorRef)> = ROLES
                .iter()
                .filter_map(|role| Some((*role, *tensors.get(format!("{term}.{role}").as_str())?)))
                .collect();
            if found.is_empty() {
                break;
            }
            terms.push(outline(&found, data_type)?);
            pieces.push(found.into_iter().map(|(_, t)| t.clone()).collect::<Vec<_>>());
        }
        let outline = Outline { dtype: data_type.dtype(), shape, terms };
        let chain = chain::build(prefix, &name, &outline).ok()?;
        let count: usize = pieces.iter().map(Vec::len).sum();
        let all = count + chain.constants.len() == tensors.len() && tensors.len() == self.tensors.len();
        let nodes: Vec<&Node> = self.nodes.iter().map(|i| &graph.nodes[*i]).collect();
        let same = all && constants_match(&chain, &tensors) && nodes_match(&chain, &nodes);
        same.then_some(Read { name, data_type, outline, pieces })
    }
}

/// A term from the roles and types of its pieces.
fn outline(found: &[(&'static str, &TensorRef)], data_type: DataType) -> Option<TermOutline> {
    let get = |role: &str| found.iter().find(|(r, _)| *r == role).map(|(_, t)| *t);
    let layout = if get("mask").is_some() {
        PackedLayout::Mask
    } else if get("deltas").is_some() {
        PackedLayout::Deltas
    } else if get("hash").is_some() {
        PackedLayout::Hashed
    } else if get("u").is_some() {
        PackedLayout::Factored
    } else {
        PackedLayout::Dense
    };
    let role = if layout == PackedLayout::Factored { "u" } else { "values" };
    let book = get(&chain::companion(role, "codebook"));
    let values = match (get(role)?.data_type, book) {
        (DataType::UINT8, Some(book)) => {
            let bits = (1..=8u8).find(|b| book.dims == [1 << b])?;
            ValueCoding::Codebook(bits)
        }
        (_, Some(_)) => return None,
        (DataType::INT8, None) => ValueCoding::Int8,
        (t, None) if t == data_type => ValueCoding::Plain,
        (DataType::FLOAT16, None) => ValueCoding::F16,
        (DataType::BFLOAT16, None) => ValueCoding::Bf16,
        _ => return None,
    };
    let piece = |(role, t): &(&'static str, &TensorRef)| {
        let readable = matches!(t.place, Place::Empty | Place::Raw { .. } | Place::Typed(_) | Place::External(_));
        readable.then(|| PieceOutline::new(role, t.data_type.dtype(), t.dims.clone()))
    };
    let pieces: Option<Vec<PieceOutline>> = found.iter().map(piece).collect();
    Some(TermOutline { layout, values, pieces: pieces? })
}

fn constants_match(chain: &Chain, tensors: &BTreeMap<&str, &TensorRef>) -> bool {
    chain.constants.iter().all(|constant| {
        let found = constant.name.rsplit_once('/').and_then(|(_, name)| tensors.get(name));
        found.is_some_and(|t| {
            t.data_type == constant.data_type
                && t.dims == constant.dims
                && t.read_bytes().is_ok_and(|bytes| bytes == constant.bytes)
        })
    })
}

fn nodes_match(chain: &Chain, nodes: &[&Node]) -> bool {
    let same = |(op, node): (&chain::Op, &&Node)| {
        let attribute = match (op.attribute, node.attributes.as_slice()) {
            (None, []) => true,
            (Some((name, value)), [(n, Attribute::Int(v))]) => n == name && *v == value,
            _ => false,
        };
        let outputs = node.outputs.len() == 1 && node.outputs[0] == op.output;
        node.is_standard() && node.op_type == op.op && node.inputs == op.inputs && outputs && attribute
    };
    chain.ops.len() == nodes.len() && chain.ops.iter().zip(nodes).all(same)
}
