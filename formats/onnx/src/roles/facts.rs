//! What a forward and a backward pass over the data flow tell about each value.

use super::flow::{Flow, FlowNode, ValueId};
use crate::list::List;
use crate::model::DataType;

/// A set of the model's inputs: bit i = integer input i, [`FLOATS`] = any other input.
pub(crate) type Inputs = u64;

/// The bit of all inputs that are not integers.
pub(crate) const FLOATS: Inputs = 1 << 63;

/// Facts about each value.
pub(crate) struct Facts {
    /// Inputs whose content it depends on.
    pub(crate) content: Vec<Inputs>,
    /// Inputs that it depends on in any way, their shapes included.
    pub(crate) any: Vec<Inputs>,
    /// Made of tensors of the file, some of them floats, and at most of shapes of inputs: the same for all content.
    pub(crate) constant: Vec<bool>,
    /// It leads to an output of the model.
    pub(crate) reaches_output: Vec<bool>,
}

impl Facts {
    pub(crate) fn of(flow: &Flow<'_>, list: &List) -> Facts {
        let n = flow.values.len();
        let mut facts =
            Facts { content: vec![0; n], any: vec![0; n], constant: vec![false; n], reaches_output: vec![false; n] };
        // `fixed`: does not change with the content of inputs.
        let mut fixed = vec![false; n];
        for (value, v) in flow.values.iter().enumerate() {
            if let Some(tensor) = v.tensor {
                fixed[value] = true;
                facts.constant[value] = list.infos[tensor].dtype.float_bytes().is_some();
            }
        }
        let mut next = 0;
        for (value, data_type) in &flow.inputs {
            let integer = matches!(data_type, None | Some(DataType::INT64 | DataType::INT32));
            let bit = if integer && next < 62 { 1 << next } else { FLOATS };
            next += u32::from(integer && next < 62);
            (facts.content[*value], facts.any[*value]) = (bit, bit);
        }
        for node in &flow.nodes {
            facts.forward(node, &mut fixed);
        }
        for output in &flow.outputs {
            facts.reaches_output[*output] = true;
        }
        for node in flow.nodes.iter().rev() {
            if node.outputs.iter().any(|o| facts.reaches_output[*o]) {
                for input in node.inputs.iter().flatten() {
                    facts.reaches_output[*input] = true;
                }
            }
        }
        facts
    }

    fn forward(&mut self, node: &FlowNode<'_>, fixed: &mut [bool]) {
        let inputs = || node.inputs.iter().flatten();
        let join = |facts: &[Inputs]| inputs().fold(0, |all, i| all | facts[*i]);
        let shape_only = matches!(node.op(), "Shape" | "Size");
        let content = if shape_only { 0 } else { join(&self.content) };
        let any = join(&self.any);
        let random = node.op().starts_with("Random") || node.op() == "Multinomial" || node.op() == "Bernoulli";
        // The shapes of inputs may say which part of a weight is taken: that is the same weight.
        let is_fixed = shape_only || (!random && inputs().all(|i| fixed[*i]));
        let constant = is_fixed && !shape_only && inputs().any(|i| self.constant[*i]);
        for output in &node.outputs {
            (self.content[*output], self.any[*output]) = (content, any);
            fixed[*output] = fixed[*output] || is_fixed;
            self.constant[*output] |= constant;
        }
    }
}

/// The other operand of an operation of two, if `value` is one of them.
pub(crate) fn other(node: &FlowNode<'_>, value: ValueId) -> Option<ValueId> {
    match (node.input(0), node.input(1)) {
        (Some(a), b) if a == value => b,
        (a, Some(b)) if b == value => a,
        _ => None,
    }
}
