//! Finds chains in a graph and puts the weights in their place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use compress_core::encode::outline::ROLES;
use compress_core::encode::{Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding};
use compress_core::{Error, Result};

use super::chain::{self, Chain};
use super::forms::{self, Kind, Pair};
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
    let mut joined: HashMap<usize, Node> = HashMap::new();
    for (prefix, group) in &groups {
        if outside.contains(prefix) || group.nodes.iter().any(|i| nodes_gone.contains(i)) {
            continue;
        }
        let Some(read) = group.read(prefix, graph) else { continue };
        let bad = |e: Error| e.at(format_args!("tensor \"{}\"", read.name));
        let packed = decode::open(read.outline, &read.pieces, max_expand).map_err(bad)?;
        let parts: Vec<TensorRef> = group.tensors.iter().map(|i| graph.initializers[*i].clone()).collect();
        let chain = &group.nodes[..group.nodes.len() - 2 * read.uses.len()];
        let nodes = chain.iter().map(|i| graph.nodes[*i].message).collect();
        let pair =
            |(a, b, _): &(usize, usize, Node)| Pair { first: graph.nodes[*a].message, second: graph.nodes[*b].message };
        let uses = read.uses.iter().map(pair).collect();
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
                uses,
                decoder: Arc::new(packed),
            })),
        };
        found.insert(group.tensors[0], tensor);
        gone.extend(group.tensors.iter().copied());
        nodes_gone.extend(group.nodes.iter().copied());
        joined.extend(read.uses.into_iter().map(|(_, second, node)| (second, node)));
    }
    let old = std::mem::take(&mut graph.initializers);
    for (i, tensor) in old.into_iter().enumerate() {
        match found.remove(&i) {
            Some(packed) => graph.initializers.push(packed),
            None if gone.contains(&i) => {}
            None => graph.initializers.push(tensor),
        }
    }
    for (i, node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        match joined.remove(&i) {
            Some(node) => graph.nodes.push(node),
            None if nodes_gone.contains(&i) => {}
            None => graph.nodes.push(node),
        }
    }
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
    /// Pairs of nodes, and the node that each is.
    uses: Vec<(usize, usize, Node)>,
}

impl Group {
    /// The packed weight, if the group is exactly one.
    fn read(&self, prefix: &str, graph: &Graph) -> Option<Read> {
        let tensors: Tensors<'_> = self
            .tensors
            .iter()
            .filter_map(|i| Some((graph.initializers[*i].name.rsplit_once('/')?.1, &graph.initializers[*i])))
            .collect();
        if tensors.len() != self.tensors.len() {
            return None;
        }
        let floats = [DataType::FLOAT, DataType::FLOAT16, DataType::BFLOAT16, DataType::DOUBLE];
        match floats.iter().find_map(|t| Some((*t, *tensors.get(t.name().as_str())?))) {
            Some((data_type, shape)) => self.read_chain(prefix, graph, &tensors, data_type, shape),
            None => self.read_factors(prefix, graph, &tensors),
        }
    }

    /// A weight that is rebuilt.
    fn read_chain(
        &self,
        prefix: &str,
        graph: &Graph,
        tensors: &Tensors<'_>,
        data_type: DataType,
        shape: &TensorRef,
    ) -> Option<Read> {
        let inside = |name: &str| self::prefix(name) == Some(prefix);
        let name = graph.nodes.get(*self.nodes.last()?)?.outputs.first().filter(|n| !inside(n))?.clone();
        if name.is_empty() || graph.initializer(&name).is_some() {
            return None;
        }
        let shape = dims_of(shape)?;
        let (terms, pieces) = terms(tensors, data_type)?;
        let outline = Outline { dtype: data_type.dtype(), shape, terms };
        let chain = chain::build(prefix, &name, &outline).ok()?;
        let nodes: Vec<&Node> = self.nodes.iter().map(|i| &graph.nodes[*i]).collect();
        let same = chain_matches(&chain, &pieces, tensors, &nodes) && nodes.len() == chain.ops.len();
        same.then_some(Read { name, data_type, outline, pieces, uses: Vec::new() })
    }

    /// A weight whose factors are multiplied with as they are.
    fn read_factors(&self, prefix: &str, graph: &Graph, tensors: &Tensors<'_>) -> Option<Read> {
        let name = prefix.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix(MARK)?;
        let taken = graph.initializer(name).is_some()
            || graph.inputs.iter().any(|i| i.name == name)
            || graph.nodes.iter().any(|n| n.inputs.iter().chain(&n.outputs).any(|v| v == name));
        if name.is_empty() || taken {
            return None;
        }
        let (terms, pieces) = terms(tensors, DataType::FLOAT)?;
        let nodes: Vec<&Node> = self.nodes.iter().map(|i| &graph.nodes[*i]).collect();
        for kind in Kind::ALL {
            for shape in shapes(kind, &terms, tensors) {
                let outline = Outline { dtype: DataType::FLOAT.dtype(), shape, terms: terms.clone() };
                let Ok(factors) = chain::factors(prefix, &outline, kind) else { continue };
                if !chain_matches(&factors.chain, &pieces, tensors, &nodes) {
                    continue;
                }
                let Some(uses) = pairs(&self.nodes[factors.chain.ops.len()..], graph, &factors, name) else { continue };
                return Some(Read { name: name.into(), data_type: DataType::FLOAT, outline, pieces, uses });
            }
        }
        None
    }
}

/// Initialisers by the last part of their names.
type Tensors<'a> = BTreeMap<&'a str, &'a TensorRef>;

/// The numbers of a constant that is a shape.
fn dims_of(shape: &TensorRef) -> Option<Vec<u64>> {
    if shape.dims.len() != 1 || shape.elements > 64 || shape.data_type != DataType::INT64 {
        return None;
    }
    let dims: Option<Vec<u64>> = shape.read_i64s().ok()??.into_iter().map(|d| u64::try_from(d).ok()).collect();
    dims.filter(|s| count_elements(s).is_some())
}

/// The terms, and their pieces.
fn terms(tensors: &Tensors<'_>, data_type: DataType) -> Option<(Vec<TermOutline>, Vec<Vec<TensorRef>>)> {
    let (mut terms, mut pieces) = (Vec::new(), Vec::new());
    loop {
        let term = terms.len();
        let found: Vec<(&'static str, &TensorRef)> =
            ROLES.iter().filter_map(|role| Some((*role, *tensors.get(format!("{term}.{role}").as_str())?))).collect();
        if found.is_empty() {
            return Some((terms, pieces));
        }
        terms.push(outline(&found, data_type)?);
        pieces.push(found.into_iter().map(|(_, t)| t.clone()).collect::<Vec<_>>());
    }
}

/// The shapes that a weight may have whose factors are these: of packed indices the columns are known but for a byte.
fn shapes(kind: Kind, terms: &[TermOutline], tensors: &Tensors<'_>) -> Vec<Vec<u64>> {
    let shape = |name: &str| tensors.get(name).and_then(|t| dims_of(t));
    let [term] = terms else { return Vec::new() };
    let (Ok(u), Ok(v)) = (chain::piece(term, "u"), chain::piece(term, "v")) else { return Vec::new() };
    let ([rows, _], [_, width]) = (u.shape.as_slice(), v.shape.as_slice()) else { return Vec::new() };
    let cols = match term.values {
        ValueCoding::Codebook(bits) => {
            let bits = u64::from(bits.max(1));
            let most = width.saturating_mul(8) / bits;
            (width.saturating_sub(1).saturating_mul(8) / bits + 1)..=most
        }
        _ => *width..=*width,
    };
    match kind {
        Kind::Product => cols.map(|c| vec![*rows, c]).collect(),
        Kind::Conv => shape("v_shape")
            .filter(|s| s.len() >= 3)
            .map(|s| [rows].into_iter().chain(&s[1..]).copied().collect())
            .into_iter()
            .collect(),
        Kind::Recurrent => match shape("u_shape").as_deref() {
            Some([directions, gates, _]) => cols.map(|c| vec![*directions, *gates, c]).collect(),
            _ => Vec::new(),
        },
    }
}

/// Whether a group's initialisers are these pieces and the chain's constants, and its first nodes the chain.
fn chain_matches(chain: &Chain, pieces: &[Vec<TensorRef>], tensors: &Tensors<'_>, nodes: &[&Node]) -> bool {
    let count: usize = pieces.iter().map(Vec::len).sum();
    count + chain.constants.len() == tensors.len()
        && constants_match(chain, tensors)
        && chain.ops.len() <= nodes.len()
        && chain.ops.iter().zip(nodes).all(|(op, node)| op.is(node))
}

/// The nodes that multiply with factors, in pairs.
fn pairs(nodes: &[usize], graph: &Graph, factors: &forms::Factors, name: &str) -> Option<Vec<(usize, usize, Node)>> {
    if nodes.is_empty() {
        return None;
    }
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    for i in nodes {
        let node = &graph.nodes[*i];
        match node.inputs.iter().find_map(|input| open.remove(input.as_str())) {
            Some(first) => pairs.push((first, *i, forms::join(&graph.nodes[first], node, factors, name)?)),
            None => {
                let middle = node.outputs.first().filter(|m| prefix(m).is_some())?;
                if open.insert(middle, *i).is_some() {
                    return None;
                }
            }
        }
    }
    open.is_empty().then_some(pairs)
}

/// A term from the roles and types of its pieces.
fn outline(found: &[(&'static str, &TensorRef)], data_type: DataType) -> Option<TermOutline> {
    let get = |role: &str| found.iter().find(|(r, _)| *r == role).map(|(_, t)| *t);
    let layout = if get("mask").is_some() {
        PackedLayout::Mask
    } else if get("deltas").is_some() {
        PackedLayout::Deltas
    } else if get("unary").is_some() {
        PackedLayout::Rice
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

fn constants_match(chain: &Chain, tensors: &Tensors<'_>) -> bool {
    chain.constants.iter().all(|constant| {
        let found = constant.name.rsplit_once('/').and_then(|(_, name)| tensors.get(name));
        found.is_some_and(|t| {
            t.data_type == constant.data_type
                && t.dims == constant.dims
                && t.read_bytes().is_ok_and(|bytes| bytes == constant.bytes)
        })
    })
}
