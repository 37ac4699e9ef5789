//! Class names from the names of tensors and nodes, where they say something.

/// What exporters call values that have no name: these words, and digits.
const ANONYMOUS: &[&str] = &[
    "",
    "val",
    "t",
    "tmp",
    "v",
    "p",
    "b",
    "w",
    "x",
    "const",
    "constant",
    "constantoutput",
    "initializer",
    "init",
    "param",
    "tensor",
    "node",
    "matmul",
    "gemm",
    "conv",
    "linear",
    "lstm",
    "gru",
    "rnn",
    "gather",
    "add",
    "mul",
    "transpose",
    "reshape",
    "einsum",
    "identity",
    "variable",
    "value",
    "unnamed",
    "fused",
    "folded",
    "weight",
    "kernel",
    "bias",
];

/// Endings that say that it is the weight, not what it is the weight of.
const ENDINGS: &[&str] = &[
    "/MatMul/ReadVariableOp",
    "/ReadVariableOp",
    ":0",
    "_orig",
    "_v",
    "_g",
    "weight",
    "kernel",
    "weights",
    "bias",
    "W",
    "B",
];

/// Whether a name tells something about what it names.
fn tells(name: &str) -> bool {
    if name.contains("::") || name.contains("Constant_output") {
        return false;
    }
    let bare: String = name.chars().filter(|c| c.is_ascii_alphabetic()).collect::<String>().to_lowercase();
    !ANONYMOUS.contains(&bare.as_str())
}

/// A class name from a tensor's name: `encoder.fc1.weight` is `encoder.fc1`.
pub(crate) fn from_tensor(name: &str) -> Option<String> {
    let mut path = name.trim_matches(|c| c == '/' || c == '.');
    loop {
        let shorter =
            ENDINGS.iter().find_map(|end| path.strip_suffix(end)).map(|p| p.trim_end_matches(['.', '/', '_']));
        match shorter.filter(|p| !p.is_empty()) {
            Some(p) => path = p,
            None => break,
        }
    }
    let class = path.replace('/', ".");
    tells(&class).then_some(class)
}

/// A class name from a node's name: `/encoder/fc1/MatMul_2` is `encoder.fc1`.
pub(crate) fn from_node(name: &str) -> Option<String> {
    let (path, _) = name.trim_start_matches('/').rsplit_once('/')?;
    let class = path.replace('/', ".");
    tells(&class).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tensors() {
        for (name, class) in [
            ("encoder.fc1.weight", Some("encoder.fc1")),
            ("fc1.weight_orig", Some("fc1")),
            ("model/dense_1/kernel:0", Some("model.dense_1")),
            ("model/dense_1/MatMul/ReadVariableOp:0", Some("model.dense_1")),
            ("position", Some("position")),
            ("onnx::MatMul_439", None),
            ("val_274", None),
            ("123", None),
            ("/encoder/Constant_output_0", None),
            ("weight", None),
        ] {
            assert_eq!(from_tensor(name).as_deref(), class, "{name}");
        }
    }

    #[test]
    fn names_of_nodes() {
        for (name, class) in
            [("/encoder/fc1/MatMul_2", Some("encoder.fc1")), ("/MatMul_1", None), ("node_linear_3", None), ("", None)]
        {
            assert_eq!(from_node(name).as_deref(), class, "{name}");
        }
    }
}
