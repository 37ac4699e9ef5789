//! What is no weight matrix: biases, norms, initial states, masks, and what is left over.

use compress_core::class::Kind;
use compress_core::tensor::TensorId;

use super::claims::{Claims, whole};
use super::classes::Classes;
use super::facts::{Facts, other};
use super::flow::{Flow, FlowNode, ValueId};
use super::recurrent;
use crate::list::List;

/// Claims the tensors that no product, table or recurrent matrix has claimed.
pub(crate) fn claim(classes: &Classes<'_, '_>, flow: &Flow<'_>, facts: &Facts, list: &List, claims: &mut Claims) {
    let mut this = Vectors { classes, flow, facts, list, claims };
    for node in &flow.nodes {
        this.scales(node);
    }
    for (n, node) in flow.nodes.iter().enumerate() {
        // What makes a constant of constants is looked at where the result is used.
        let makes_constant = node.outputs.iter().any(|o| facts.constant[*o]);
        if !makes_constant {
            for (i, input) in node.inputs.iter().enumerate() {
                if let Some(value) = input.filter(|v| facts.constant[*v]) {
                    this.input(n, node, i, value);
                }
            }
        }
    }
    for output in &flow.outputs {
        if facts.constant[*output] {
            this.constant_output(*output);
        }
    }
}

struct Vectors<'a, 'm> {
    classes: &'a Classes<'a, 'm>,
    flow: &'a Flow<'m>,
    facts: &'a Facts,
    list: &'a List,
    claims: &'a mut Claims,
}

impl Vectors<'_, '_> {
    /// The tensors behind a value that nothing is known about.
    fn free(&self, value: ValueId) -> Vec<TensorId> {
        self.classes.leaves(value).into_iter().filter(|t| self.claims.is_free(*t)).collect()
    }

    /// What quantised operators read beside their weights, and what makes floats of integers.
    fn scales(&mut self, node: &FlowNode<'_>) {
        let op = node.op();
        let quantised =
            ["QLinear", "DynamicQuantize", "QAttention", "QGemm", "MatMulInteger", "MatMulNBits", "MatMulBnb4"];
        let quantised = quantised.iter().any(|q| op.starts_with(q)) || op == "GatherBlockQuantized";
        if quantised || op == "QuantizeLinear" || op == "DequantizeLinear" {
            let first = usize::from(!quantised);
            for value in node.inputs.iter().skip(first).flatten().filter(|v| self.facts.constant[**v]) {
                self.never(*value, "scale of a quantised weight");
            }
        }
    }

    fn input(&mut self, n: usize, node: &FlowNode<'_>, i: usize, value: ValueId) {
        let op = node.op();
        if recurrent::gates(op).is_some() {
            let class = self.classes.of_node(n).unwrap_or("recurrent").to_string();
            let reason = match i {
                3 => "bias",
                5 | 6 => "initial state",
                7 => "peephole",
                _ => return,
            };
            return self.vector(value, &class, reason);
        }
        let own = |this: &Self| this.own_class(n, node, value);
        match (op, i) {
            ("BatchNormalization", 3 | 4) => self.never(value, "running statistics"),
            (op, _) if op.ends_with("Normalization") => {
                let class = own(self);
                self.vector(value, &class, "norm");
            }
            ("PRelu", 1) => {
                let class = own(self);
                self.vector(value, &class, "slope");
            }
            ("Conv" | "FusedConv" | "NhwcConv" | "ConvTranspose" | "Gemm" | "FusedGemm" | "Attention", 2) => {
                let class = self.classes.of_node(n).map_or_else(|| own(self), str::to_string);
                self.vector(value, &class, "bias");
            }
            ("Where" | "Max" | "Min" | "Clip" | "Pow" | "Pad" | "Resize" | "Range" | "Upsample" | "CumSum", _) => {
                self.small_or_weight(n, node, value, "constant");
            }
            ("RotaryEmbedding", _) => self.never(value, "rotary table"),
            ("Add" | "Sub" | "BiasGelu" | "FastGelu" | "BiasAdd", _) => {
                if self.feeds_softmax(node) {
                    return self.never(value, "attention mask");
                }
                let made = other(node, value).and_then(|v| self.classes.made_by(v)).map(str::to_string);
                let class = made.unwrap_or_else(|| own(self));
                self.add(value, &class);
            }
            ("Mul" | "Div", _) => self.small_or_weight(n, node, value, "scale"),
            _ => self.small_or_weight(n, node, value, "vector"),
        }
    }

    /// Something of one dimension is `reason`; something larger is a weight of unknown use.
    fn small_or_weight(&mut self, n: usize, node: &FlowNode<'_>, value: ValueId, reason: &str) {
        for tensor in self.free(value) {
            let info = &self.list.infos[tensor];
            let class = self.classes.named(tensor).map_or_else(|| self.own_class(n, node, value), str::to_string);
            let table = ["cos_cache", "sin_cache", "cos_cached", "sin_cached", "inv_freq", "rotary"];
            if table.iter().any(|t| info.name.contains(t)) {
                self.claims.never(tensor, "rotary table");
            } else if is_small(&info.shape) {
                self.claims.vector(tensor, info, &class, "", reason);
            } else {
                self.claims.weight(tensor, whole(info, &class, Kind::Unknown));
            }
        }
    }

    /// A constant that is an output as it is: a table, of the class that its name tells, or of its own.
    fn constant_output(&mut self, value: ValueId) {
        for tensor in self.free(value) {
            let info = &self.list.infos[tensor];
            if is_small(&info.shape) {
                self.claims.never(tensor, "an output of the model");
            } else {
                let class = self.classes.named(tensor).unwrap_or(&info.name);
                self.claims.weight(tensor, whole(info, class, Kind::Unknown));
            }
        }
    }

    fn add(&mut self, value: ValueId, class: &str) {
        for tensor in self.free(value) {
            let info = &self.list.infos[tensor];
            if is_small(&info.shape) {
                self.claims.vector(tensor, info, class, "", "bias");
            } else {
                let class = self.classes.named(tensor).unwrap_or(class);
                self.claims.weight(tensor, whole(info, class, Kind::Unknown));
            }
        }
    }

    fn vector(&mut self, value: ValueId, class: &str, reason: &str) {
        for tensor in self.free(value) {
            self.claims.vector(tensor, &self.list.infos[tensor], class, "", reason);
        }
    }

    fn never(&mut self, value: ValueId, reason: &str) {
        for tensor in self.free(value) {
            self.claims.never(tensor, reason);
        }
    }

    /// A class from the names around: the tensor's, the node's, else the operator with the node's number.
    fn own_class(&self, n: usize, node: &FlowNode<'_>, value: ValueId) -> String {
        let tensor = self.classes.leaves(value).first().copied();
        let named = tensor.and_then(|t| self.classes.named(t)).map(str::to_string);
        named
            .or_else(|| super::naming::from_node(&node.node.name))
            .unwrap_or_else(|| format!("{}{n}", node.node.op_type.to_lowercase()))
    }

    /// Whether the result goes into a Softmax as it is: then what is added masks or biases an attention.
    fn feeds_softmax(&self, node: &FlowNode<'_>) -> bool {
        let result = node.outputs.first().map(|o| &self.flow.values[*o].consumers);
        let only_masks = node.inputs.iter().flatten().any(|v| !self.facts.constant[*v]);
        only_masks && result.is_some_and(|c| c.iter().any(|(n, _)| self.flow.nodes[*n].op() == "Softmax"))
    }
}

/// At most one dimension above 1.
fn is_small(shape: &[u64]) -> bool {
    shape.iter().filter(|d| **d > 1).count() <= 1
}
