//! ONNX element types: their numbers, names and how typed fields hold them.

use compress_core::tensor::Dtype;

/// The element type of a tensor, `TensorProto.DataType`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DataType(pub i32);

/// A row of the table: number, safetensors name, bits, typed field, bytes of one entry of the typed field.
struct Row(i32, &'static str, u32, u32, u32);

const FLOAT_DATA: u32 = 4;
const INT32_DATA: u32 = 5;
const STRING_DATA: u32 = 6;
const INT64_DATA: u32 = 7;
const DOUBLE_DATA: u32 = 10;
const UINT64_DATA: u32 = 11;

const ROWS: &[Row] = &[
    Row(1, "F32", 32, FLOAT_DATA, 4),
    Row(2, "U8", 8, INT32_DATA, 1),
    Row(3, "I8", 8, INT32_DATA, 1),
    Row(4, "U16", 16, INT32_DATA, 2),
    Row(5, "I16", 16, INT32_DATA, 2),
    Row(6, "I32", 32, INT32_DATA, 4),
    Row(7, "I64", 64, INT64_DATA, 8),
    Row(8, "STRING", 0, STRING_DATA, 0),
    Row(9, "BOOL", 8, INT32_DATA, 1),
    Row(10, "F16", 16, INT32_DATA, 2),
    Row(11, "F64", 64, DOUBLE_DATA, 8),
    Row(12, "U32", 32, UINT64_DATA, 4),
    Row(13, "U64", 64, UINT64_DATA, 8),
    Row(14, "C64", 64, FLOAT_DATA, 4),
    Row(15, "C128", 128, DOUBLE_DATA, 8),
    Row(16, "BF16", 16, INT32_DATA, 2),
    Row(17, "F8_E4M3", 8, INT32_DATA, 1),
    Row(18, "F8_E4M3FNUZ", 8, INT32_DATA, 1),
    Row(19, "F8_E5M2", 8, INT32_DATA, 1),
    Row(20, "F8_E5M2FNUZ", 8, INT32_DATA, 1),
    Row(21, "U4", 4, INT32_DATA, 1),
    Row(22, "I4", 4, INT32_DATA, 1),
    Row(23, "F4", 4, INT32_DATA, 1),
    Row(24, "F8_E8M0", 8, INT32_DATA, 1),
    Row(25, "U2", 2, INT32_DATA, 1),
    Row(26, "I2", 2, INT32_DATA, 1),
];

impl DataType {
    /// f32.
    pub const FLOAT: DataType = DataType(1);
    /// u8.
    pub const UINT8: DataType = DataType(2);
    /// i8.
    pub const INT8: DataType = DataType(3);
    /// i32.
    pub const INT32: DataType = DataType(6);
    /// i64.
    pub const INT64: DataType = DataType(7);
    /// Strings, of any length.
    pub const STRING: DataType = DataType(8);
    /// One byte a truth value.
    pub const BOOL: DataType = DataType(9);
    /// IEEE half.
    pub const FLOAT16: DataType = DataType(10);
    /// f64.
    pub const DOUBLE: DataType = DataType(11);
    /// bfloat16.
    pub const BFLOAT16: DataType = DataType(16);

    fn row(self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.0 == self.0)
    }

    /// Whether this is a type of our schema.
    pub fn known(self) -> bool {
        self.row().is_some()
    }

    /// The name, as safetensors spells it.
    pub fn name(self) -> String {
        self.row().map_or_else(|| format!("ONNX_TYPE_{}", self.0), |row| row.1.to_string())
    }

    /// Bits an element; 0 for strings and types that are newer than our schema.
    pub fn bits(self) -> u32 {
        self.row().map_or(0, |row| row.2)
    }

    /// The field of `TensorProto` that may hold elements of this type besides `raw_data`.
    pub(crate) fn typed_field(self) -> u32 {
        self.row().map_or(0, |row| row.3)
    }

    /// Dense bytes that one entry of the typed field stands for (complex numbers take two entries, two 4-bit numbers
    /// share one).
    pub(crate) fn entry_bytes(self) -> u32 {
        self.row().map_or(0, |row| row.4)
    }

    /// Whether entries of the typed field are sign-extended.
    pub(crate) fn signed(self) -> bool {
        matches!(self.0, 3 | 5 | 6 | 7)
    }

    /// f16, bf16, f32 or f64.
    pub fn is_float(self) -> bool {
        self.dtype().float_bytes().is_some()
    }

    /// The same in core's words.
    pub fn dtype(self) -> Dtype {
        match self.0 {
            1 => Dtype::F32,
            10 => Dtype::F16,
            11 => Dtype::F64,
            16 => Dtype::Bf16,
            _ => Dtype::Other(self.name(), self.bits()),
        }
    }

    /// From core's words; `None` where ONNX has no such type.
    pub fn of(dtype: &Dtype) -> Option<DataType> {
        ROWS.iter().find(|row| row.1 == dtype.name()).map(|row| DataType(row.0))
    }
}
