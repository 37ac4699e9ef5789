//! Blocks of a transformer: attention and feed-forward, numbered from the lowest of each side; and what comes last.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::attention::{self, Core, Label};
use super::facts::{Facts, other};
use super::flow::{Flow, ValueId};
use super::products::Product;
use super::recurrent;
use super::sequences::Sequences;

/// The attention blocks of a model, numbered from the lowest of each side.
pub(super) struct Blocks {
    /// Of each product of an attention: side, number, whether it looks at the other sentence.
    of_product: BTreeMap<usize, (&'static str, usize, bool)>,
    /// How many blocks lie below a value.
    below: Vec<usize>,
    /// What names call a block, where some of its weights have names: `encoder.layer0`.
    names: BTreeMap<(&'static str, usize), String>,
}

impl Blocks {
    pub(super) fn of(flow: &Flow<'_>, facts: &Facts, cores: &[Core], sequences: &Sequences) -> Blocks {
        let by_context: HashMap<usize, &Core> = cores.iter().map(|c| (c.context, c)).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let (of_product, names) = Default::default();
        let mut blocks = Blocks { of_product, below: vec![0; flow.values.len()], names };
        for (n, node) in flow.nodes.iter().enumerate() {
            let ids = |v: Option<ValueId>| v.map(|v| facts.content[v] & sequences.ids);
            let depends = node.inputs.iter().flatten().fold(0, |all, i| all | facts.content[*i]);
            let side = sequences.side(depends);
            let same_side = |v: &&ValueId| sequences.side(facts.content[**v]) == side;
            let mut depth = node.inputs.iter().flatten().filter(same_side).map(|i| blocks.below[*i]).max().unwrap_or(0);
            if let Some(core) = by_context.get(&n) {
                let cross = core.query.is_some() && ids(core.query) != ids(core.value);
                let count = counts.entry(side).or_default();
                if !cross || *count == 0 {
                    *count += 1;
                }
                depth = *count;
                for product in core.products.keys() {
                    blocks.of_product.entry(*product).or_insert((side, depth, cross));
                }
            }
            node.outputs.iter().for_each(|o| blocks.below[*o] = depth);
        }
        blocks
    }

    pub(super) fn level(&self, value: ValueId) -> usize {
        self.below[value]
    }

    pub(super) fn attention(&self, product: usize, labels: &BTreeSet<Label>) -> String {
        let (side, number, cross) = self.of_product.get(&product).copied().unwrap_or(("", 1, false));
        let name = if cross { "cross_attention" } else { "attention" };
        format!("{}.{name}.{}", self.prefix(side, number), attention::words(labels))
    }

    pub(super) fn learn(&mut self, product: usize, prefix: &str) {
        if let Some((side, number, _)) = self.of_product.get(&product) {
            self.names.entry((side, *number)).or_insert_with(|| prefix.to_string());
        }
    }

    pub(super) fn prefix(&self, side: &'static str, number: usize) -> String {
        self.names.get(&(side, number)).cloned().unwrap_or_else(|| format!("{side}layer{number}"))
    }
}

/// The feed-forward blocks of a model: what goes down is added to what went past the block, what goes up leads there.
pub(super) struct FeedForward {
    /// Whether an operation is a product, and one that goes down.
    is_down: HashMap<usize, bool>,
}

impl FeedForward {
    pub(super) fn of(flow: &Flow<'_>, facts: &Facts, products: &[Product]) -> Self {
        FeedForward { is_down: products.iter().map(|p| (p.node, goes_down(flow, facts, p))).collect() }
    }

    pub(super) fn role(&self, flow: &Flow<'_>, product: &Product) -> Option<&'static str> {
        if self.is_down.get(&product.node) == Some(&true) {
            return Some("down");
        }
        let (mut open, mut seen, mut found) = (vec![product.out], BTreeSet::new(), false);
        while let Some(value) = open.pop() {
            for (n, _) in flow.values[value].consumers.iter().take(64) {
                match self.is_down.get(n) {
                    Some(true) => found = true,
                    None if seen.len() < 256 => {
                        open.extend(flow.nodes[*n].outputs.iter().filter(|o| seen.insert(**o)));
                    }
                    _ => return None,
                }
            }
        }
        found.then_some("up")
    }
}

/// Whether a product's result is added to other data.
pub(super) fn goes_down(flow: &Flow<'_>, facts: &Facts, product: &Product) -> bool {
    let mut value = product.out;
    for _ in 0..12 {
        let [(n, _)] = flow.values[value].consumers[..] else { return false };
        let node = &flow.nodes[n];
        match (node.op(), other(node, value)) {
            ("Add", Some(other)) if !facts.constant[other] && facts.content[other] != 0 => return true,
            ("SkipLayerNormalization" | "SkipSimplifiedLayerNormalization", _) => return true,
            ("Add" | "Mul" | "Cast" | "Dropout" | "Identity" | "Reshape" | "Transpose", _) => {}
            _ => return false,
        }
        let Some(next) = node.outputs.first() else { return false };
        value = *next;
    }
    false
}

/// Products after which there is no other on the way to an output.
pub(super) fn last_products(flow: &Flow<'_>, facts: &Facts, products: &[Product]) -> Vec<bool> {
    let mut at: HashMap<usize, usize> = products.iter().enumerate().map(|(i, p)| (p.node, i)).collect();
    at.retain(|_, i| !products[*i].is_conv || facts.reaches_output[products[*i].out]);
    // Whether a value leads to another product, a recurrent layer, or a norm.
    let mut leads = vec![false; flow.values.len()];
    let mut last = vec![false; products.len()];
    for (n, node) in flow.nodes.iter().enumerate().rev() {
        let after = node.outputs.iter().any(|o| leads[*o]);
        let is_norm = node.op().ends_with("Normalization") && !node.op().starts_with("Batch");
        let is_layer = at.contains_key(&n) || recurrent::gates(node.op()).is_some() || is_norm;
        if let Some(i) = at.get(&n) {
            last[*i] = !after && facts.reaches_output[products[*i].out];
        }
        if after || is_layer {
            node.inputs.iter().flatten().for_each(|i| leads[*i] = true);
        }
    }
    last
}

/// What precedes the attention in a class: `encoder.layer0`.
pub(super) fn block_prefix(class: &str) -> Option<&str> {
    let at = class.find(".cross_attention").or_else(|| class.find(".attention"))?;
    Some(&class[..at]).filter(|prefix| has_layer(prefix))
}

/// Whether a class names a numbered layer.
pub(super) fn has_layer(class: &str) -> bool {
    class
        .split('.')
        .any(|s| s.strip_prefix("layer").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
}
