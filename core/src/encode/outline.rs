//! What a packed tensor is made of, known before a byte of it is written.

use std::fmt;

use crate::tensor::Dtype;

/// Where the values of a packed term lie; see [`crate::encode`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PackedLayout {
    /// All of them.
    Dense,
    /// A bit mask and the kept values.
    Mask,
    /// Gaps between kept positions, a byte each, and the kept values.
    Deltas,
    /// Gaps between kept positions in Golomb–Rice code, and the kept values.
    Rice,
    /// U·V.
    Factored,
    /// Shared by hash.
    Hashed,
}

impl PackedLayout {
    /// All of them.
    pub const ALL: [PackedLayout; 6] = [
        PackedLayout::Dense,
        PackedLayout::Mask,
        PackedLayout::Deltas,
        PackedLayout::Factored,
        PackedLayout::Hashed,
        PackedLayout::Rice,
    ];

    /// The name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            PackedLayout::Dense => "dense",
            PackedLayout::Mask => "mask",
            PackedLayout::Deltas => "deltas",
            PackedLayout::Rice => "rice",
            PackedLayout::Factored => "factored",
            PackedLayout::Hashed => "hashed",
        }
    }

    /// Whether its values are the tensor's own at their places, so that another coding can take theirs.
    pub const fn is_placed(self) -> bool {
        !matches!(self, PackedLayout::Factored | PackedLayout::Hashed)
    }

    /// The layout of a name.
    pub fn named(name: &str) -> Option<PackedLayout> {
        PackedLayout::ALL.into_iter().find(|l| l.name() == name)
    }
}

/// How values are coded; see [`crate::encode`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ValueCoding {
    /// As the tensor's type.
    Plain,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// Symmetric int8 with a scale a row or column.
    Int8,
    /// A codebook of 2^bits values, bits = 1 to 8.
    Codebook(u8),
}

impl ValueCoding {
    /// Bits of one coded value of a tensor of a type.
    pub fn bits(self, dtype: &Dtype) -> u64 {
        match self {
            ValueCoding::Plain => u64::from(dtype.bits()),
            ValueCoding::F16 | ValueCoding::Bf16 => 16,
            ValueCoding::Int8 => 8,
            ValueCoding::Codebook(bits) => u64::from(bits),
        }
    }

    /// The coding of a name.
    pub fn named(name: &str) -> Option<ValueCoding> {
        let bits = |text: &str| text.parse::<u8>().ok().filter(|b| (1..=8).contains(b) && text.len() == 1);
        match name {
            "plain" => Some(ValueCoding::Plain),
            "f16" => Some(ValueCoding::F16),
            "bf16" => Some(ValueCoding::Bf16),
            "int8" => Some(ValueCoding::Int8),
            _ => name.strip_prefix("codebook:").and_then(bits).map(ValueCoding::Codebook),
        }
    }
}

impl fmt::Display for ValueCoding {
    /// The name in files and reports: `plain`, `int8`, `codebook:4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueCoding::Plain => f.write_str("plain"),
            ValueCoding::F16 => f.write_str("f16"),
            ValueCoding::Bf16 => f.write_str("bf16"),
            ValueCoding::Int8 => f.write_str("int8"),
            ValueCoding::Codebook(bits) => write!(f, "codebook:{bits}"),
        }
    }
}

/// A packed tensor without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// The type that it decodes to.
    pub dtype: Dtype,
    /// The shape that it decodes to.
    pub shape: Vec<u64>,
    /// The terms.
    pub terms: Vec<TermOutline>,
}

/// A term without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TermOutline {
    /// Where the values lie.
    pub layout: PackedLayout,
    /// How they are coded.
    pub values: ValueCoding,
    /// The arrays.
    pub pieces: Vec<PieceOutline>,
}

/// An array of a term without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PieceOutline {
    /// Which one.
    pub role: &'static str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
}

/// All roles of pieces.
pub const ROLES: [&str; 14] = [
    "values",
    "scale",
    "codebook",
    "mask",
    "deltas",
    "unary",
    "rest",
    "hash",
    "u",
    "u_scale",
    "u_codebook",
    "v",
    "v_scale",
    "v_codebook",
];

impl PieceOutline {
    /// A piece.
    pub fn new(role: &'static str, dtype: Dtype, shape: Vec<u64>) -> PieceOutline {
        PieceOutline { role, dtype, shape }
    }

    /// Its number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.elements() * u64::from(self.dtype.bits()) / 8
    }
}

impl Outline {
    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.terms.iter().flat_map(|t| &t.pieces).map(PieceOutline::bytes).sum()
    }

    /// Rows, columns and rank of a tensor that is one product of factors.
    pub fn product(&self) -> Option<[u64; 3]> {
        let [term] = self.terms.as_slice() else { return None };
        if term.layout != PackedLayout::Factored {
            return None;
        }
        let side = |role| term.pieces.iter().find(|p| p.role == role)?.shape.first().copied();
        let (rows, rank) = (side("u")?, side("v")?);
        let elements = self.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        Some([rows, elements.checked_div(rows)?, rank])
    }

    /// In a word, for reports: `mask × int8`, `factored × plain + mask × plain`.
    pub fn describe(&self) -> String {
        let terms: Vec<String> = self.terms.iter().map(|t| format!("{} × {}", t.layout.name(), t.values)).collect();
        terms.join(" + ")
    }
}

/// Element type of masks, gaps and packed indices.
pub fn u8_type() -> Dtype {
    Dtype::Other("U8".into(), 8)
}

/// Element type of int8 values.
pub fn i8_type() -> Dtype {
    Dtype::Other("I8".into(), 8)
}

/// Element type of the hash's coefficients.
pub fn i64_type() -> Dtype {
    Dtype::Other("I64".into(), 64)
}
