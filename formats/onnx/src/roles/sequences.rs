//! The sentences that a model reads, the tables that look them up, and the recurrent layers that they go through.

use super::facts::{FLOATS, Facts, Inputs};
use super::flow::{Flow, ValueId};
use super::products::Product;
use super::recurrent;

/// A table that ids select rows of.
pub(super) struct Table {
    pub(super) node: usize,
    pub(super) table: ValueId,
    /// Inputs that say which rows.
    pub(super) ids: Inputs,
    /// Inputs on which the choice depends in any way.
    pub(super) any: Inputs,
}

/// A recurrent layer.
pub(super) struct Layer {
    pub(super) node: usize,
    pub(super) class: String,
}

/// The sequences of a model.
pub(super) struct Sequences {
    /// All inputs that select rows of tables.
    pub(super) ids: Inputs,
    /// The source sentence's, in a translation model.
    pub(super) source: Option<Inputs>,
}

impl Sequences {
    /// `source.`, `target.`, or nothing where the model does not translate.
    pub(super) fn side(&self, depends_on: Inputs) -> &'static str {
        match self.source {
            Some(source) if depends_on & self.ids == source => "source.",
            Some(_) => "target.",
            None => "",
        }
    }
}

/// Gathers of rows by data.
pub(super) fn tables(flow: &Flow<'_>, facts: &Facts) -> Vec<Table> {
    let mut tables = Vec::new();
    for (n, node) in flow.nodes.iter().enumerate() {
        let pairs: &[(usize, usize)] = match node.op() {
            "Gather" if node.node.int("axis").unwrap_or(0) == 0 => &[(0, 1)],
            "EmbedLayerNormalization" => &[(2, 0), (3, 0), (4, 1)],
            _ => continue,
        };
        for (table, ids) in pairs {
            let (Some(table), Some(ids)) = (node.input(*table), node.input(*ids)) else { continue };
            let runtime = !facts.constant[ids] && flow.values[ids].tensor.is_none() && facts.any[ids] != 0;
            if facts.constant[table] && runtime {
                tables.push(Table { node: n, table, ids: facts.content[ids] & !FLOATS, any: facts.any[ids] });
            }
        }
    }
    tables
}

/// Which inputs are sentences. A model translates if what depends on one of them alone goes through a layer before it
/// meets another: in BERT the segment ids are added to the tokens at once.
pub(super) fn sequences(flow: &Flow<'_>, facts: &Facts, tables: &[Table], products: &[Product]) -> Sequences {
    let ids = tables.iter().fold(0, |all, t| all | t.ids);
    let mut uses: Vec<Inputs> = products.iter().map(|p| facts.content[p.data] & ids).collect();
    for node in &flow.nodes {
        if recurrent::gates(node.op()).is_some() {
            uses.push(node.inputs.iter().flatten().fold(0, |all, i| all | facts.content[*i]) & ids);
        }
    }
    let alone = (0..62).map(|i| 1 << i).find(|bit| ids & bit != 0 && uses.contains(bit));
    let source = alone.filter(|bit| uses.iter().any(|u| *u != 0 && u != bit));
    Sequences { ids, source }
}

/// Recurrent layers, numbered from the lowest of each side.
pub(super) fn recurrent_layers(flow: &Flow<'_>, facts: &Facts, sequences: &Sequences) -> Vec<Layer> {
    let sides = ["source.", "target.", ""];
    // How many layers of each side lie below a value.
    let mut below = vec![[0usize; 3]; flow.values.len()];
    let mut layers = Vec::new();
    for (n, node) in flow.nodes.iter().enumerate() {
        let mut depth = [0; 3];
        for input in node.inputs.iter().flatten() {
            (0..3).for_each(|s| depth[s] = depth[s].max(below[*input][s]));
        }
        let weighted = [1, 2].iter().any(|i| node.input(*i).is_some_and(|v| facts.constant[v]));
        if recurrent::gates(node.op()).is_some() && weighted {
            let side = sequences.side(node.inputs.iter().flatten().fold(0, |all, i| all | facts.content[*i]));
            let s = sides.iter().position(|x| *x == side).unwrap_or(2);
            // Only what it reads step by step is below it; its first state may come from anywhere.
            let number = node.input(0).map_or(0, |x| below[x][s]) + 1;
            depth[s] = depth[s].max(number);
            layers.push(Layer { node: n, class: format!("{side}layer{number}") });
        }
        node.outputs.iter().for_each(|o| below[*o] = depth);
    }
    layers
}
