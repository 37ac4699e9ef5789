//! LSTM, GRU and RNN: which block of which tensor is which gate.

use compress_core::class::{Kind, PartSpec};
use compress_core::tensor::TensorId;

use super::flow::{FlowNode, ValueId};
use super::trace::Tracer;

/// The gates of an operator in ONNX's order; none for other operators.
pub(crate) fn gates(op: &str) -> Option<&'static [&'static str]> {
    match op {
        "LSTM" => Some(&["input", "output", "forget", "cell"]),
        "GRU" => Some(&["update", "reset", "new"]),
        "RNN" => Some(&["hidden"]),
        _ => None,
    }
}

/// The gates of the input matrix W (`recurrent = false`) or the recurrent matrix R, each as a part of a tensor of the
/// file; `None` where they cannot be traced to contiguous blocks.
pub(crate) fn parts(
    tracer: &Tracer<'_, '_>,
    node: &FlowNode<'_>,
    value: ValueId,
    recurrent: bool,
    class: &str,
) -> Option<Vec<(TensorId, PartSpec)>> {
    let gates = gates(node.op())?;
    let shape = tracer.shape(value)?;
    let [directions, stacked, cols] = shape[..] else { return None };
    let rows = stacked / gates.len() as u64;
    if rows == 0 || cols == 0 || rows * gates.len() as u64 != stacked || directions > 2 {
        return None;
    }
    let only_reverse = node.node.string("direction") == Some("reverse");
    let (kind, side) = if recurrent { (Kind::Recurrent, "recurrent") } else { (Kind::RecurrentInput, "below") };
    let mut parts = Vec::new();
    for direction in 0..directions {
        for (g, gate) in gates.iter().enumerate() {
            let first = g as u64 * rows;
            let block = tracer.block(value, rows, cols, |r, c| vec![direction, first + r, c])?;
            let reverse = if direction == 1 || only_reverse { "/reverse" } else { "" };
            let (offset, order) = (block.offset, block.order);
            let below = format!("{gate}/{side}{reverse}");
            let spec = PartSpec { class: class.to_string(), below, offset, rows, cols, order, kind, groups: 1 };
            parts.push((block.tensor, spec));
        }
    }
    Some(parts)
}
