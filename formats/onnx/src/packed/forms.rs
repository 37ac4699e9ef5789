//! Factored weights that are never put together: where W = U·V is only multiplied with, x·W is computed as (x·U)·V,
//! rank · (m + n) multiplications a position instead of m · n.
//!
//! | in the model | in the file | carrier |
//! |---|---|---|
//! | MatMul(x, W) | MatMul(MatMul(x, U), V) | second |
//! | MatMul(W, x) | MatMul(U, MatMul(V, x)) | second |
//! | Gemm(x, W, c) | Gemm(MatMul(x, U), V, c) | second |
//! | Gemm(x, W, c), transB | Gemm(Gemm(x, V), U, c), both transB | second |
//! | Conv(x, W, b), one group | Conv(Conv(x, V), U, b): rank kernels of W's size, then 1 × 1 | first |
//! | LSTM, GRU, RNN (x, W, …) | LSTM(MatMul(x, Vᵀ), U, …), the input size is the rank | second |
//!
//! The *carrier* is the model's own node: it keeps its name, attributes and whatever else it has. So the model's node can
//! be read back out of the pair, and the graph that everything else sees has the node and the weight.

use compress_core::encode::Outline;
use compress_core::tensor::Dtype;

use super::chain::{self, Chain, Op};
use crate::model::{Attribute, Graph, MessageId, Node, Place};

/// What multiplies with a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// MatMul, Gemm.
    Product,
    /// Conv.
    Conv,
    /// LSTM, GRU, RNN, by the matrix of their input.
    Recurrent,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Product, Kind::Conv, Kind::Recurrent];

    /// The kind of a use, by node and input.
    fn of(node: &Node, slot: usize) -> Option<Kind> {
        if !node.is_standard() || node.outputs.is_empty() {
            return None;
        }
        match (node.op_type.as_str(), slot) {
            ("MatMul", 0 | 1) if node.inputs.len() == 2 => Some(Kind::Product),
            ("Gemm", 1) if node.int("transA").unwrap_or(0) == 0 => Some(Kind::Product),
            ("Conv", 1) if node.int("group").unwrap_or(1) == 1 && node.inputs.len() <= 3 => Some(Kind::Conv),
            ("LSTM" | "GRU" | "RNN", 1) if node.inputs.len() >= 3 => Some(Kind::Recurrent),
            _ => None,
        }
    }

    /// Whether a weight of this shape is the matrix rows × cols for this kind.
    fn fits(self, shape: &[u64], rows: u64, cols: u64) -> bool {
        match (self, shape) {
            (Kind::Product, [r, c]) => (*r, *c) == (rows, cols),
            (Kind::Conv, [out, inner @ ..]) => {
                let inner = inner.len().checked_sub(2).and(inner.iter().try_fold(1u64, |n, d| n.checked_mul(*d)));
                *out == rows && inner == Some(cols)
            }
            (Kind::Recurrent, [directions, gates, c]) => directions.checked_mul(*gates) == Some(rows) && *c == cols,
            _ => false,
        }
    }
}

/// The factors as nodes see them.
pub(crate) struct Factors {
    pub(crate) kind: Kind,
    /// What makes them ready.
    pub(crate) chain: Chain,
    /// Their names.
    pub(crate) u: String,
    pub(crate) v: String,
}

/// A node that uses a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Use {
    /// Which node of the graph.
    pub(crate) node: usize,
    /// Which of its inputs.
    pub(crate) slot: usize,
}

/// One of the two nodes that a node becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// A new node.
    New(Op),
    /// The model's node with other inputs and outputs.
    Carrier { inputs: Vec<String>, outputs: Vec<String> },
}

/// Two nodes of a file that are one of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) first: MessageId,
    pub(crate) second: MessageId,
}

/// Where a weight's factors can be used as they are, and all its uses; `None` where the weight must be rebuilt.
pub(crate) fn of(graph: &Graph, name: &str, prefix: &str, outline: &Outline) -> Option<(Factors, Vec<Use>)> {
    let [rows, cols, rank] = outline.product()?;
    let elements = outline.shape.iter().product();
    // In half precision the value between the factors would be rounded as well.
    if outline.dtype != Dtype::F32 || rows.checked_add(cols)?.checked_mul(rank)? >= elements {
        return None;
    }
    let uses = uses(graph, name)?;
    let kind = Kind::of(&graph.nodes[uses.first()?.node], uses.first()?.slot)?;
    let same = uses.iter().all(|u| Kind::of(&graph.nodes[u.node], u.slot) == Some(kind));
    if !same || !kind.fits(&outline.shape, rows, cols) {
        return None;
    }
    let factors = chain::factors(prefix, outline, kind).ok()?;
    let splits = uses.iter().all(|u| split(&graph.nodes[u.node], u.slot, &factors, "m").is_some());
    splits.then_some((factors, uses))
}

/// All uses of a weight; `None` where something else than one input each of some nodes of this graph reads it.
fn uses(graph: &Graph, name: &str) -> Option<Vec<Use>> {
    if graph.outputs.iter().any(|o| o.name == name) || graph.nodes.iter().any(|n| read_within(n, name)) {
        return None;
    }
    // Nodes that are a pair already, of another weight.
    let others = graph.initializers.iter().filter(|t| t.name != name);
    let pairs: Vec<Pair> = others
        .filter_map(|t| if let Place::Packed(packed) = &t.place { Some(packed.uses.as_slice()) } else { None })
        .flatten()
        .copied()
        .collect();
    let mut uses = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let mut slots = node.inputs.iter().enumerate().filter(|(_, input)| *input == name).map(|(slot, _)| slot);
        let Some(slot) = slots.next() else { continue };
        if slots.next().is_some() || pairs.iter().any(|p| p.first == node.message || p.second == node.message) {
            return None;
        }
        uses.push(Use { node: i, slot });
    }
    Some(uses)
}

/// Whether a graph within a node reads a value of that name.
fn read_within(node: &Node, name: &str) -> bool {
    let reads = |graph: &Graph| {
        let inputs = graph.nodes.iter().flat_map(|n| &n.inputs);
        inputs.chain(graph.outputs.iter().map(|o| &o.name)).any(|n| n == name)
            || graph.nodes.iter().any(|n| read_within(n, name))
    };
    node.attributes.iter().any(|(_, attribute)| match attribute {
        Attribute::Graph(graph) => reads(graph),
        Attribute::Graphs(graphs) => graphs.iter().any(reads),
        _ => false,
    })
}

/// The two nodes that a node becomes, with a value of the name `middle` between them.
pub(crate) fn split(node: &Node, slot: usize, factors: &Factors, middle: &str) -> Option<[Half; 2]> {
    if Kind::of(node, slot) != Some(factors.kind) {
        return None;
    }
    let (u, v) = (factors.u.as_str(), factors.v.as_str());
    let new = |op: &'static str, inputs: &[&str], attribute| {
        let inputs = inputs.iter().map(|i| (*i).to_string()).collect();
        Half::New(Op { op, inputs, output: middle.into(), attribute })
    };
    // The carrier at the second place, with these two inputs.
    let second = |a: &str, b: &str| {
        let rest = node.inputs.get(2..).unwrap_or_default().iter().cloned();
        Half::Carrier { inputs: [a.into(), b.into()].into_iter().chain(rest).collect(), outputs: node.outputs.clone() }
    };
    let x = node.input(1 - slot)?;
    Some(match (factors.kind, slot) {
        (Kind::Product, 0) => [new("MatMul", &[v, x], None), second(u, middle)],
        (Kind::Product, _) if node.op_type == "Gemm" && node.int("transB").unwrap_or(0) != 0 => {
            [new("Gemm", &[x, v], Some(("transB", 1))), second(middle, u)]
        }
        (Kind::Product, _) => [new("MatMul", &[x, u], None), second(middle, v)],
        (Kind::Recurrent, _) => [new("MatMul", &[x, v], None), second(middle, u)],
        (Kind::Conv, _) => {
            let first = Half::Carrier { inputs: vec![x.into(), v.into()], outputs: vec![middle.into()] };
            let bias = node.inputs.get(2).cloned();
            let inputs = [middle.into(), u.into()].into_iter().chain(bias).collect();
            let output = node.outputs.first()?.clone();
            [first, Half::New(Op { op: "Conv", inputs, output, attribute: None })]
        }
    })
}

/// The node that two nodes of a file stand for, if they are what [`split`] makes of it.
pub(crate) fn join(first: &Node, second: &Node, factors: &Factors, name: &str) -> Option<Node> {
    let middle = first.outputs.first()?;
    let (node, slot) = match factors.kind {
        Kind::Conv => {
            let bias = second.inputs.get(2).cloned();
            let inputs = [first.inputs.first()?.clone(), name.into()].into_iter().chain(bias).collect();
            (Node { inputs, outputs: second.outputs.clone(), ..first.clone() }, 1)
        }
        Kind::Product | Kind::Recurrent => {
            let place = second.inputs.iter().take(2).position(|input| input == middle)?;
            let (slot, mut inputs) = (1 - place, second.inputs.clone());
            inputs[place] = first.inputs.get(place)?.clone();
            *inputs.get_mut(slot)? = name.into();
            (Node { inputs, ..second.clone() }, slot)
        }
    };
    let halves = split(&node, slot, factors, middle)?;
    let same = |half: &Half, node: &Node| match half {
        Half::New(op) => op.is(node),
        Half::Carrier { inputs, outputs } => node.inputs == *inputs && node.outputs == *outputs,
    };
    (same(&halves[0], first) && same(&halves[1], second)).then_some(node)
}
