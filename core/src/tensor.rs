//! Tensors as files store them.

/// Index of a tensor in its model: the file order, which also breaks ties between equal scores.
pub type TensorId = usize;

/// Element types of both formats, under the names that safetensors gives them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dtype {
    /// IEEE 754 double.
    F64,
    /// IEEE 754 single.
    F32,
    /// IEEE 754 half.
    F16,
    /// bfloat16.
    Bf16,
    /// Anything else, by its name (`"I64"`, `"BOOL"`, `"F8_E4M3"`, …) and bits an element (0 = unknown, as of strings).
    Other(String, u32),
}

impl Dtype {
    /// The name, as safetensors spells it.
    pub fn name(&self) -> &str {
        match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::Other(name, _) => name,
        }
    }

    /// Bits an element.
    pub fn bits(&self) -> u32 {
        match self {
            Dtype::F64 => 64,
            Dtype::F32 => 32,
            Dtype::F16 | Dtype::Bf16 => 16,
            Dtype::Other(_, bits) => *bits,
        }
    }

    /// Bytes an element of the floating-point types that can be pruned; `None` for the others.
    pub fn float_bytes(&self) -> Option<usize> {
        match self {
            Dtype::F64 => Some(8),
            Dtype::F32 => Some(4),
            Dtype::F16 | Dtype::Bf16 => Some(2),
            Dtype::Other(..) => None,
        }
    }
}

/// A tensor of a model.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name; in ONNX that of the initialiser, `<node>/<branch>/<name>` within a sub-graph, a Constant node's output.
    pub name: String,
    /// Its shape as stored.
    pub shape: Vec<u64>,
    /// Its element type.
    pub dtype: Dtype,
    /// Number of elements: the product of the shape, checked against overflow and against the file by the reader.
    pub elements: u64,
    /// Bytes that it takes in the file (of a packed tensor: all of its pieces).
    pub stored_bytes: u64,
    /// Index into [`crate::format::Source::files`] of the file that holds its data.
    pub file: usize,
    /// Set where the format knows that this is not a weight to prune, and says why: `"shape constant"`.
    pub not_a_weight: Option<String>,
}

impl TensorInfo {
    /// Bytes of the dense tensor: `elements` times the element's bytes (rounded up for sub-byte types).
    pub fn dense_bytes(&self) -> u64 {
        (u128::from(self.elements) * u128::from(self.dtype.bits())).div_ceil(8) as u64
    }
}
