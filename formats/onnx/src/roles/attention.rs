//! Finds attention: a Softmax over products of data with data, and the weighted products around it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::facts::{Facts, other};
use super::flow::{Flow, FlowNode, ValueId};

/// Values that one search looks at.
const REACH: usize = 20_000;
/// Values that all searches look at: more than any honest model has.
const BUDGET: usize = 20_000_000;

/// What a weighted product makes for an attention.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Label {
    Query,
    Key,
    Value,
    /// What is made of the attention's result.
    Output,
}

/// An attention.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    /// The operation that weighs the values: its result is the context.
    pub(crate) context: usize,
    /// The values that are looked up.
    pub(crate) value: Option<ValueId>,
    /// What is looked up with.
    pub(crate) query: Option<ValueId>,
    /// The weighted products that it uses (by the number of their operation), and what for.
    pub(crate) products: BTreeMap<usize, BTreeSet<Label>>,
}

/// Where a search stops: at weighted products (which are found), and at recurrent layers, tables and other contexts.
pub(crate) struct Marks<'a> {
    /// Operation to whether it is a weighted product.
    pub(crate) product: &'a [bool],
    /// Operations beyond which nothing belongs to an attention.
    pub(crate) stop: &'a [bool],
}

/// All attentions, in the order of their contexts.
pub(crate) fn cores(flow: &Flow<'_>, facts: &Facts, marks: &Marks<'_>) -> Vec<Core> {
    let mut cores: BTreeMap<usize, Core> = BTreeMap::new();
    let mut budget = BUDGET;
    for node in &flow.nodes {
        let core = match node.op() {
            "Softmax" | "SparseMax" => from_softmax(flow, facts, node),
            "Attention" | "MultiHeadAttention" | "GroupQueryAttention" => from_operator(flow, facts, node),
            _ => None,
        };
        if let Some((core, scores)) = core {
            cores.entry(core.context).or_insert(core).search_back(flow, facts, marks, scores, &mut budget);
        }
    }
    let contexts: HashSet<usize> = cores.keys().copied().collect();
    for core in cores.values_mut() {
        core.search_forward(flow, marks, &contexts, &mut budget);
    }
    cores.into_values().collect()
}

/// A Softmax whose result weighs other data, and the scores that it is taken of.
fn from_softmax(flow: &Flow<'_>, facts: &Facts, node: &FlowNode<'_>) -> Option<(Core, Vec<(ValueId, Option<Label>)>)> {
    let scores = node.input(0).filter(|v| !facts.constant[*v])?;
    let mut weights = *node.outputs.first()?;
    for _ in 0..16 {
        let mut next = None;
        for (n, _) in &flow.values[weights].consumers {
            let consumer = &flow.nodes[*n];
            let partner = other(consumer, weights).filter(|v| !facts.constant[*v]);
            match consumer.op() {
                "MatMul" | "Einsum" | "Mul" | "FusedMatMul" if partner.is_some_and(|v| !is_mask(flow, v)) => {
                    let products = BTreeMap::new();
                    let core = Core { context: *n, value: partner, query: None, products };
                    return Some((core, vec![(scores, None)]));
                }
                "Cast" | "Dropout" | "Identity" | "Where" | "Mul" | "Reshape" | "Transpose" | "Unsqueeze"
                | "Squeeze" | "Expand" | "Slice" => next = next.or(consumer.outputs.first().copied()),
                _ => {}
            }
        }
        weights = next?;
    }
    None
}

/// Whether a value is a truth value made a number: it masks, it is not looked up.
fn is_mask(flow: &Flow<'_>, value: ValueId) -> bool {
    let mut value = value;
    for _ in 0..8 {
        let Some(node) = flow.producer(value) else { return false };
        match node.op() {
            "Equal" | "Not" | "And" | "Or" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "IsNaN" => {
                return true;
            }
            "Cast" | "Unsqueeze" | "Squeeze" | "Expand" | "Identity" => match node.input(0) {
                Some(v) => value = v,
                None => return false,
            },
            _ => return false,
        }
    }
    false
}

/// Attention in one operator: of the standard set (from opset 23) or ONNX Runtime's.
fn from_operator(flow: &Flow<'_>, facts: &Facts, node: &FlowNode<'_>) -> Option<(Core, Vec<(ValueId, Option<Label>)>)> {
    let output = *node.outputs.first()?;
    let context = flow.values[output].producer?;
    if node.op() == "Attention" && !node.node.is_standard() {
        return None; // its weight is an input: a weighted product itself
    }
    let labels = [Label::Query, Label::Key, Label::Value];
    let inputs: Vec<_> = labels
        .iter()
        .enumerate()
        .filter_map(|(i, label)| node.input(i).filter(|v| !facts.constant[*v]).map(|v| (v, Some(*label))))
        .collect();
    let core = Core { context, value: node.input(2), query: node.input(0), products: BTreeMap::new() };
    Some((core, inputs))
}

impl Core {
    /// From the scores and the values back to the weighted products that make them.
    fn search_back(
        &mut self,
        flow: &Flow<'_>,
        facts: &Facts,
        marks: &Marks<'_>,
        from: Vec<(ValueId, Option<Label>)>,
        budget: &mut usize,
    ) {
        let mut open = from;
        open.extend(self.value.map(|v| (v, Some(Label::Value))));
        let mut seen: HashSet<(ValueId, Option<Label>)> = open.iter().copied().collect();
        while let Some((value, label)) = open.pop() {
            *budget = budget.saturating_sub(1);
            let more = *budget > 0 && seen.len() < REACH;
            let Some(n) = flow.values[value].producer.filter(|_| more) else { continue };
            let node = &flow.nodes[n];
            if marks.stop[n] || n == self.context || node.op() == "Shape" {
                continue;
            }
            if marks.product[n] {
                self.products.entry(n).or_default().insert(label.unwrap_or(Label::Query));
                // A score that is a product with a weight itself (v · tanh(W₁h + W₂s)): what it is made of counts too.
                if label.is_some() {
                    continue;
                }
            }
            let data = || node.inputs.iter().flatten().copied().filter(|v| !facts.constant[*v]);
            let is_dot = matches!(node.op(), "MatMul" | "Einsum" | "FusedMatMul") && data().count() == 2;
            for (i, input) in data().enumerate() {
                let label = match (label, is_dot && label.is_none(), i) {
                    (_, true, 0) => {
                        self.query = self.query.or(Some(input));
                        Some(Label::Query)
                    }
                    (_, true, _) => Some(Label::Key),
                    (label, ..) => label,
                };
                if seen.insert((input, label)) {
                    open.push((input, label));
                }
            }
        }
    }

    /// From the context on to the first weighted products.
    fn search_forward(&mut self, flow: &Flow<'_>, marks: &Marks<'_>, contexts: &HashSet<usize>, budget: &mut usize) {
        let mut open: Vec<ValueId> = flow.nodes[self.context].outputs.clone();
        let mut seen: HashSet<ValueId> = open.iter().copied().collect();
        while let Some(value) = open.pop() {
            for (n, _) in &flow.values[value].consumers {
                *budget = budget.saturating_sub(1);
                if marks.product[*n] {
                    self.products.entry(*n).or_default().insert(Label::Output);
                } else if !marks.stop[*n] && !contexts.contains(n) && *budget > 0 && seen.len() < REACH {
                    for output in &flow.nodes[*n].outputs {
                        if seen.insert(*output) {
                            open.push(*output);
                        }
                    }
                }
            }
        }
    }
}

/// How labels are called in class names: `query`, `qkv`, `key_value`.
pub(crate) fn words(labels: &BTreeSet<Label>) -> String {
    let inner: Vec<&str> = labels
        .iter()
        .filter_map(|l| match l {
            Label::Query => Some("query"),
            Label::Key => Some("key"),
            Label::Value => Some("value"),
            Label::Output => None,
        })
        .collect();
    match inner.len() {
        0 => "output".into(),
        3 => "qkv".into(),
        _ => inner.join("_"),
    }
}
