//! The operators that rebuild a weight from its pieces.

use compress_core::encode::{Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding, hash};
use compress_core::{Error, Result};

use super::forms::{Factors, Kind};
use crate::model::{Attribute, DataType, Node};
use crate::wire::Message;

/// An operator of a chain. It has one output and at most one attribute, an integer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Op {
    pub(crate) op: &'static str,
    pub(crate) inputs: Vec<String>,
    pub(crate) output: String,
    pub(crate) attribute: Option<(&'static str, i64)>,
}

impl Op {
    /// Whether a node of a file is this operator.
    pub(crate) fn is(&self, node: &Node) -> bool {
        let attribute = match (self.attribute, node.attributes.as_slice()) {
            (None, []) => true,
            (Some((name, value)), [(n, Attribute::Int(v))]) => n == name && *v == value,
            _ => false,
        };
        let outputs = node.outputs.len() == 1 && node.outputs[0] == self.output;
        node.is_standard() && node.op_type == self.op && node.inputs == self.inputs && outputs && attribute
    }

    /// As a `NodeProto`.
    pub(crate) fn message(&self) -> Message {
        let node = self.inputs.iter().fold(Message::new(), |m, i| m.bytes(1, i)).bytes(2, &self.output);
        let node = node.bytes(4, self.op);
        match self.attribute {
            Some((name, value)) => node.message(5, Message::new().bytes(1, name).int(3, value).int(20, 2)),
            None => node,
        }
    }
}

/// A small initialiser that belongs to a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) dims: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// A chain: its last operator makes the weight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    pub(crate) ops: Vec<Op>,
    pub(crate) constants: Vec<Constant>,
}

/// The name of a piece.
pub(crate) fn piece_name(prefix: &str, term: usize, role: &str) -> String {
    format!("{prefix}/{term}.{role}")
}

/// The chain of an outline; its values and constants are named `prefix/…`, what it makes `name`.
pub(crate) fn build(prefix: &str, name: &str, outline: &Outline) -> Result<Chain> {
    let elements: u64 = outline.shape.iter().product();
    let Some(data_type) = DataType::of(&outline.dtype).filter(|t| t.is_float()) else {
        return Err(Error::failed(format!("{} cannot be packed", outline.dtype.name())));
    };
    if elements == 0 || elements >= 1 << 31 {
        return Err(Error::failed(format!("a packed ONNX tensor has 1 … 2³¹ − 1 elements, not {elements}")));
    }
    let mut builder = Builder::new(prefix, data_type, elements);
    let shape = outline.shape.iter().flat_map(|d| (*d as i64).to_le_bytes()).collect();
    builder.constants.push(Constant {
        name: builder.shape.clone(),
        data_type: DataType::INT64,
        dims: vec![outline.shape.len() as u64],
        bytes: shape,
    });
    let mut sum = None;
    for (i, term) in outline.terms.iter().enumerate() {
        let mut value = builder.term(i, term)?;
        if outline.terms.len() > 1 {
            value = builder.cast(value, DataType::FLOAT);
        }
        sum = Some(match sum {
            None => value,
            Some(sum) => builder.op("Add", &[&sum, &value], None).of(DataType::FLOAT),
        });
    }
    let Some(sum) = sum else { return Err(Error::failed("a packed tensor without terms")) };
    builder.cast(sum, data_type);
    let Builder { mut ops, constants, .. } = builder;
    if let Some(last) = ops.last_mut() {
        last.output = name.into();
    }
    Ok(Chain { ops, constants })
}

/// What makes the factors of a factored weight ready for the nodes that multiply with them.
pub(crate) fn factors(prefix: &str, outline: &Outline, kind: Kind) -> Result<Factors> {
    let elements = outline.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).unwrap_or(0);
    let [term] = outline.terms.as_slice() else { return Err(Error::failed("factors of a sum")) };
    let mut builder = Builder::new(prefix, DataType::FLOAT, elements);
    let rank = piece(term, "v")?.shape.first().copied().unwrap_or(0);
    let (mut u, mut v) = builder.factors(0, term)?;
    match (kind, outline.shape.as_slice()) {
        (Kind::Product, [_, _]) => {}
        (Kind::Conv, [out, inner @ ..]) if inner.len() >= 2 => {
            let ones = inner[1..].iter().map(|_| &1);
            u = builder.named(u, "u_shape", [out, &rank].into_iter().chain(ones));
            v = builder.named(v, "v_shape", [&rank].into_iter().chain(inner));
        }
        (Kind::Recurrent, [directions, gates, _]) => {
            u = builder.named(u, "u_shape", [directions, gates, &rank]);
            v = builder.op("Transpose", &[&v], None);
        }
        (_, shape) => return Err(Error::failed(format!("a weight of shape {shape:?}"))),
    }
    let Builder { ops, constants, .. } = builder;
    Ok(Factors { kind, chain: Chain { ops, constants }, u: u.name, v: v.name })
}

/// A value of the chain.
#[derive(Clone, Debug)]
struct Value {
    name: String,
    data_type: DataType,
}

impl Value {
    fn of(self, data_type: DataType) -> Value {
        Value { data_type, ..self }
    }
}

impl AsRef<str> for Value {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

struct Builder<'a> {
    prefix: &'a str,
    /// The weight's.
    data_type: DataType,
    elements: u64,
    /// Name of the constant that is the weight's shape.
    shape: String,
    ops: Vec<Op>,
    constants: Vec<Constant>,
}

impl<'a> Builder<'a> {
    fn new(prefix: &'a str, data_type: DataType, elements: u64) -> Builder<'a> {
        let shape = format!("{prefix}/{}", data_type.name());
        Builder { prefix, data_type, elements, shape, ops: Vec::new(), constants: Vec::new() }
    }

    /// Appends an operator; its output is said to have the type of its first input.
    fn op(&mut self, op: &'static str, inputs: &[&dyn AsRef<str>], attribute: Option<(&'static str, i64)>) -> Value {
        let output = format!("{}/{}", self.prefix, self.ops.len());
        let inputs = inputs.iter().map(|i| (**i).as_ref().to_string()).collect();
        self.ops.push(Op { op, inputs, output: output.clone(), attribute });
        Value { name: output, data_type: DataType::INT32 }
    }

    fn constant(&mut self, data_type: DataType, dims: &[u64], bytes: Vec<u8>) -> String {
        let same = |c: &&Constant| c.data_type == data_type && c.dims == dims && c.bytes == bytes;
        let unnamed = |c: &&Constant| c.name.strip_prefix(self.prefix).is_some_and(|n| n.starts_with("/k"));
        if let Some(constant) = self.constants.iter().filter(unnamed).find(same) {
            return constant.name.clone();
        }
        let name = format!("{}/k{}", self.prefix, self.constants.iter().filter(unnamed).count());
        self.constants.push(Constant { name: name.clone(), data_type, dims: dims.to_vec(), bytes });
        name
    }

    fn ints(&mut self, values: &[i32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(DataType::INT32, &[values.len() as u64], bytes)
    }

    fn longs(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(DataType::INT64, &[values.len() as u64], bytes)
    }

    /// A scalar.
    fn long(&mut self, value: i64) -> String {
        self.scalar(DataType::INT64, value)
    }

    /// A scalar of int32 or int64.
    fn scalar(&mut self, data_type: DataType, value: i64) -> String {
        let bytes = data_type.bits() as usize / 8;
        self.constant(data_type, &[], value.to_le_bytes()[..bytes].into())
    }

    fn zero(&mut self, data_type: DataType) -> String {
        self.constant(data_type, &[1], vec![0; data_type.bits() as usize / 8])
    }

    fn cast(&mut self, value: Value, to: DataType) -> Value {
        if value.data_type == to {
            return value;
        }
        let float16 = |t| matches!(t, DataType::FLOAT16 | DataType::BFLOAT16);
        // From one half to the other, or to f64, as the definition has it: through f32.
        let value = if float16(value.data_type) && to != DataType::FLOAT && to.is_float() {
            self.cast(value, DataType::FLOAT)
        } else {
            value
        };
        self.op("Cast", &[&value], Some(("to", i64::from(to.0)))).of(to)
    }

    fn reshape(&mut self, value: Value, to: &str) -> Value {
        self.op("Reshape", &[&value, &to], None).of(value.data_type)
    }

    /// To the weight's shape.
    fn shape(&mut self, value: Value) -> Value {
        let shape = self.shape.clone();
        self.reshape(value, &shape)
    }

    /// To a shape that is a constant of that name.
    fn named<'d>(&mut self, value: Value, name: &str, dims: impl IntoIterator<Item = &'d u64>) -> Value {
        let dims: Vec<i64> = dims.into_iter().map(|d| *d as i64).collect();
        let name = format!("{}/{name}", self.prefix);
        self.constants.push(Constant {
            name: name.clone(),
            data_type: DataType::INT64,
            dims: vec![dims.len() as u64],
            bytes: dims.iter().flat_map(|d| d.to_le_bytes()).collect(),
        });
        self.reshape(value, &name)
    }

    fn first(&mut self, value: Value, count: u64) -> Value {
        let (zero, end) = (self.longs(&[0]), self.longs(&[count as i64]));
        self.op("Slice", &[&value, &zero, &end], None).of(value.data_type)
    }

    /// The first columns of a matrix.
    fn columns(&mut self, value: Value, count: u64) -> Value {
        let (zero, one, end) = (self.longs(&[0]), self.longs(&[1]), self.longs(&[count as i64]));
        self.op("Slice", &[&value, &zero, &end, &one], None).of(value.data_type)
    }

    /// Fields of `bits` bits of a stream of bytes, as int32 of one dimension. Their number: [`fields`].
    fn unpack(&mut self, stream: &str, bytes: u64, bits: u8) -> Value {
        if bits == 8 {
            return self.op("Cast", &[&stream], Some(("to", i64::from(DataType::INT32.0))));
        }
        if 8 % bits != 0 {
            let used = fields(bytes, bits) * u64::from(bits);
            let mut value = self.unpack(stream, bytes, 1);
            if used != bytes * 8 {
                value = self.first(value, used);
            }
            return self.join(value, bits);
        }
        let column = self.longs(&[-1, 1]);
        let value = self.op("Reshape", &[&stream, &column], None);
        let value = self.op("Cast", &[&value], Some(("to", i64::from(DataType::INT32.0))));
        let powers: Vec<i32> = (0..8).step_by(usize::from(bits)).map(|b| 1 << b).collect();
        let (powers, base, flat) = (self.ints(&powers), self.ints(&[1 << bits]), self.longs(&[-1]));
        let value = self.op("Div", &[&value, &powers], None);
        let value = self.op("Mod", &[&value, &base], None);
        self.reshape(value, &flat)
    }

    /// Numbers of `bits` bits from single bits.
    fn join(&mut self, value: Value, bits: u8) -> Value {
        let (rows, flat) = (self.longs(&[-1, i64::from(bits)]), self.longs(&[-1]));
        let value = self.reshape(value, &rows);
        let powers = (0..bits).flat_map(|b| (1i32 << b).to_le_bytes()).collect();
        let powers = self.constant(DataType::INT32, &[u64::from(bits), 1], powers);
        let value = self.op("MatMul", &[&value, &powers], None);
        self.reshape(value, &flat)
    }

    /// Fields of a matrix whose rows begin with a byte each: [rows, columns].
    fn unpack_rows(&mut self, stream: &str, array: &PieceOutline, columns: u64, bits: u8) -> Result<Value> {
        let [rows, width] = array.shape.as_slice() else {
            return Err(Error::failed(format!("packed indices of a factor of shape {:?}", array.shape)));
        };
        let whole = 8 % bits == 0;
        let value = self.unpack(stream, array.elements(), if whole { bits } else { 1 });
        let (have, want) = if whole {
            (fields(*width, bits), columns)
        } else {
            (width.saturating_mul(8), columns.saturating_mul(u64::from(bits)))
        };
        let shape = self.longs(&[*rows as i64, have as i64]);
        let mut value = self.reshape(value, &shape);
        if have != want {
            value = self.columns(value, want);
        }
        if whole {
            return Ok(value);
        }
        let value = self.join(value, bits);
        let shape = self.longs(&[*rows as i64, columns as i64]);
        Ok(self.reshape(value, &shape))
    }

    /// The values of an array; those of int8 are not yet scaled.
    fn values(&mut self, i: usize, term: &TermOutline, role: &str, count: Count) -> Result<Value> {
        let array = piece(term, role)?;
        let name = piece_name(self.prefix, i, role);
        let bits = match term.values {
            ValueCoding::Plain => return Ok(Value { name, data_type: self.data_type }),
            ValueCoding::F16 => return Ok(Value { name, data_type: DataType::FLOAT16 }),
            ValueCoding::Bf16 => return Ok(Value { name, data_type: DataType::BFLOAT16 }),
            ValueCoding::Int8 => return Ok(Value { name, data_type: DataType::INT8 }),
            ValueCoding::Codebook(bits) => bits,
        };
        if !(1..=8).contains(&bits) {
            return Err(Error::failed(format!("a codebook of {bits} bits")));
        }
        let indices = match count {
            Count::Columns(columns) => self.unpack_rows(&name, array, columns, bits)?,
            Count::Open => self.unpack(&name, array.elements(), bits),
            Count::Known(count) => {
                let value = self.unpack(&name, array.elements(), bits);
                if fields(array.elements(), bits) == count { value } else { self.first(value, count) }
            }
            Count::Value(count) => {
                let (value, zero) = (self.unpack(&name, array.elements(), bits), self.longs(&[0]));
                self.op("Slice", &[&value, &zero, &count], None)
            }
        };
        let book = piece_name(self.prefix, i, &companion(role, "codebook"));
        Ok(self.op("Gather", &[&book, &indices], None).of(self.data_type))
    }

    /// Scales int8 values.
    fn scaled(&mut self, i: usize, term: &TermOutline, role: &str, value: Value) -> Value {
        if term.values != ValueCoding::Int8 {
            return value;
        }
        let scale = piece_name(self.prefix, i, &companion(role, "scale"));
        let value = self.cast(value, DataType::FLOAT);
        self.op("Mul", &[&value, &scale], None).of(DataType::FLOAT)
    }

    /// A term, in the weight's shape.
    fn term(&mut self, i: usize, term: &TermOutline) -> Result<Value> {
        let flat = match term.layout {
            PackedLayout::Factored => return self.factored(i, term),
            PackedLayout::Hashed => return self.hashed(i, term),
            PackedLayout::Dense => self.values(i, term, "values", Count::Known(self.elements))?,
            PackedLayout::Mask => {
                let mask = piece(term, "mask")?.elements();
                let bits = self.unpack(&piece_name(self.prefix, i, "mask"), mask, 1);
                let bits = if mask * 8 == self.elements { bits } else { self.first(bits, self.elements) };
                let axis = self.long(0);
                let ranks = self.op("CumSum", &[&bits, &axis], None);
                let ranks = self.op("Mul", &[&ranks, &bits], None);
                let values = self.values(i, term, "values", Count::Open)?;
                self.taken(values, &ranks)
            }
            PackedLayout::Deltas => {
                let count = piece(term, "deltas")?.elements();
                let gaps = piece_name(self.prefix, i, "deltas");
                let gaps = self.op("Cast", &[&gaps], Some(("to", i64::from(DataType::INT32.0))));
                let (axis, one) = (self.long(0), self.ints(&[1]));
                let places = self.op("CumSum", &[&gaps, &axis], None);
                let places = self.op("Sub", &[&places, &one], None);
                let values = self.values(i, term, "values", Count::Known(count))?;
                self.scatter(self.elements, &places, values)
            }
            PackedLayout::Rice => self.rice(i, term)?,
        };
        let value = self.shape(flat);
        Ok(self.scaled(i, term, "values", value))
    }

    /// Values at places of an array of `size` elements, zeros elsewhere.
    fn scatter(&mut self, size: u64, places: &Value, values: Value) -> Value {
        let data_type = values.data_type;
        let all = self.longs(&[size as i64]);
        // ONNX Runtime expands no bf16.
        let narrow = data_type == DataType::BFLOAT16;
        let zero = self.zero(if narrow { DataType::FLOAT } else { data_type });
        let zeros = self.op("Expand", &[&zero, &all], None);
        let zeros = zeros.of(if narrow { DataType::FLOAT } else { data_type });
        let zeros = self.cast(zeros, data_type);
        self.op("ScatterElements", &[&zeros, places, &values], None).of(data_type)
    }

    /// Values, a zero before them, by the numbers in an array.
    fn taken(&mut self, values: Value, numbers: &Value) -> Value {
        let data_type = values.data_type;
        let zero = self.zero(data_type);
        let values = self.op("Concat", &[&zero, &values], Some(("axis", 0)));
        self.op("Gather", &[&values, numbers], None).of(data_type)
    }

    /// A flat weight of which a Rice code says where its values are. ONNX Runtime folds nothing whose shape hangs on
    /// values (NonZero, Compress), so every bit j of the unary part is put somewhere: at (j + 1)·2^l − 1 less the rests of
    /// the ones up to j. For a one that is its place; zeros before it lie 2^l apart between the place before and its own,
    /// each where a zero is; those of the last byte that belong to no gap may lie beyond the end, which is cut off. No
    /// sum of rests exceeds the last place that bits could have without them.
    fn rice(&mut self, i: usize, term: &TermOutline) -> Result<Value> {
        let (unary, rest) = (piece(term, "unary")?.elements(), piece(term, "rest")?);
        let (&[_, l @ 1..=8], true) = (rest.shape.as_slice(), unary < 1 << 28) else {
            return Err(Error::failed(format!("a Rice code of {unary} bytes with rests of shape {:?}", rest.shape)));
        };
        let (axis, step) = (self.long(0), 1i64 << l);
        let end = step * (unary as i64 * 8 + 1) - 1;
        let wide = if end > i64::from(i32::MAX) { DataType::INT64 } else { DataType::INT32 };
        let ones = self.unpack(&piece_name(self.prefix, i, "unary"), unary, 1);
        let ranks = self.op("CumSum", &[&ones, &axis], None);
        let rests = self.unpack(&piece_name(self.prefix, i, "rest"), rest.elements(), l as u8);
        let rests = self.cast(rests, wide);
        let rests = self.op("CumSum", &[&rests, &axis], None).of(wide);
        let rests = self.taken(rests, &ranks);
        let [first, end, step] = [step - 1, end, step].map(|k| self.scalar(wide, k));
        let places = self.op("Range", &[&first, &end, &step], None);
        let places = self.op("Sub", &[&places, &rests], None).of(wide);
        let ranks = self.op("Mul", &[&ranks, &ones], None);
        let values = self.values(i, term, "values", Count::Open)?;
        let values = self.taken(values, &ranks);
        let beyond = 7 << l;
        let all = self.scatter(self.elements + beyond, &places, values);
        Ok(self.first(all, self.elements))
    }

    /// U and V.
    fn factors(&mut self, i: usize, term: &TermOutline) -> Result<(Value, Value)> {
        let side = |role: &str| -> Result<u64> { Ok(piece(term, role)?.shape.first().copied().unwrap_or(0)) };
        let (rows, rank) = (side("u")?, side("v")?);
        let columns = self.elements.checked_div(rows).unwrap_or(0);
        let mut factor = |role: &str, columns: u64| -> Result<Value> {
            let value = self.values(i, term, role, Count::Columns(columns))?;
            let value = self.scaled(i, term, role, value);
            Ok(self.cast(value, DataType::FLOAT))
        };
        Ok((factor("u", rank)?, factor("v", columns)?))
    }

    fn factored(&mut self, i: usize, term: &TermOutline) -> Result<Value> {
        let (u, v) = self.factors(i, term)?;
        let product = self.op("MatMul", &[&u, &v], None).of(DataType::FLOAT);
        Ok(self.shape(product))
    }

    fn hashed(&mut self, i: usize, term: &TermOutline) -> Result<Value> {
        let hash = piece_name(self.prefix, i, "hash");
        let (zero, one, end) = (self.long(0), self.long(1), self.long(self.elements as i64));
        let x = self.op("Range", &[&zero, &end, &one], None);
        let prime = self.longs(&[hash::PRIME]);
        let coefficient = |this: &mut Self, k: i64| {
            let k = this.longs(&[k]);
            this.op("Gather", &[&hash, &k], None)
        };
        let mut t = coefficient(self, 0);
        for k in 1..4 {
            let c = coefficient(self, k);
            t = self.op("Mul", &[&t, &x], None);
            t = self.op("Add", &[&t, &c], None);
            t = self.op("Mod", &[&t, &prime], None);
        }
        let buckets = coefficient(self, 4);
        let signed = self.op("Add", &[&buckets, &buckets], None);
        let u = self.op("Mod", &[&t, &signed], None);
        let values = self.values(i, term, "values", Count::Value(buckets.name))?;
        let values = self.scaled(i, term, "values", values);
        let values = self.cast(values, DataType::FLOAT);
        let minus = self.op("Neg", &[&values], None);
        let both = self.op("Concat", &[&values, &minus], Some(("axis", 0)));
        let value = self.op("Gather", &[&both, &u], None).of(DataType::FLOAT);
        Ok(self.shape(value))
    }
}

/// How many values packed indices stand for.
enum Count {
    /// At least so many as are used.
    Open,
    /// So many.
    Known(u64),
    /// As many as a value of the chain says.
    Value(String),
    /// A matrix of rows with so many columns.
    Columns(u64),
}

/// How many whole fields of `bits` bits some bytes hold.
fn fields(bytes: u64, bits: u8) -> u64 {
    bytes.saturating_mul(8) / u64::from(bits.max(1))
}

/// The companion of an array: `scale` of `values`, `u_scale` of `u`.
pub(crate) fn companion(role: &str, what: &str) -> String {
    if role == "values" { what.into() } else { format!("{role}_{what}") }
}

/// A piece that must be there.
pub(crate) fn piece<'a>(term: &'a TermOutline, role: &str) -> Result<&'a PieceOutline> {
    let found = term.pieces.iter().find(|p| p.role == role);
    found.ok_or_else(|| Error::failed(format!("a packed tensor of layout {} without \"{role}\"", term.layout.name())))
}
