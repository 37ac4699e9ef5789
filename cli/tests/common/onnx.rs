//! ONNX files by hand, field by field (onnx.proto3), and a reader just good enough to look at what was written.

/// A protobuf message under construction.
#[derive(Clone, Debug, Default)]
pub struct Message(pub Vec<u8>);

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}

impl Message {
    pub fn new() -> Message {
        Message::default()
    }

    pub fn int(mut self, field: u64, value: i64) -> Message {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, value as u64);
        self
    }

    pub fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Message {
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, bytes.as_ref().len() as u64);
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub fn put(self, field: u64, message: &Message) -> Message {
        self.bytes(field, &message.0)
    }

    pub fn all(self, field: u64, messages: &[Message]) -> Message {
        messages.iter().fold(self, |m, x| m.put(field, x))
    }

    pub fn ints(self, field: u64, values: &[u64]) -> Message {
        values.iter().fold(self, |m, v| m.int(field, *v as i64))
    }
}

pub fn f32s(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect()
}

/// Dims, type and name.
pub fn head(name: &str, dims: &[u64], data_type: i64) -> Message {
    Message::new().ints(1, dims).int(2, data_type).bytes(8, name)
}

/// An f32 initialiser in raw_data.
pub fn raw(name: &str, dims: &[u64], values: &[f64]) -> Message {
    head(name, dims, 1).bytes(9, f32s(values))
}

/// An f32 initialiser in float_data.
pub fn typed(name: &str, dims: &[u64], values: &[f64]) -> Message {
    head(name, dims, 1).bytes(4, f32s(values))
}

/// An I64 initialiser.
pub fn i64s(name: &str, dims: &[u64], values: &[i64]) -> Message {
    head(name, dims, 7).bytes(9, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// An f32 initialiser in another file.
pub fn external(name: &str, dims: &[u64], location: &str, offset: u64, length: u64) -> Message {
    let entry = |k: &str, v: &str| Message::new().bytes(1, k).bytes(2, v);
    head(name, dims, 1)
        .put(13, &entry("location", location))
        .put(13, &entry("offset", &offset.to_string()))
        .put(13, &entry("length", &length.to_string()))
        .int(14, 1)
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::new(), |m, i| m.bytes(1, i));
    outputs.iter().fold(node, |m, o| m.bytes(2, o)).bytes(3, format!("/{}/{op}", outputs[0])).bytes(4, op)
}

/// An attribute: 5 = tensor (type 4), 6 = graph (type 5), 22 = sparse tensor (type 11).
pub fn attribute(name: &str, field: u64, kind: i64, value: &Message) -> Message {
    Message::new().bytes(1, name).put(field, value).int(20, kind)
}

/// A graph's input or output; 0 = any.
pub fn value(name: &str, data_type: i64, dims: &[i64]) -> Message {
    let dim = |d: &i64| if *d == 0 { Message::new().bytes(2, "n") } else { Message::new().int(1, *d) };
    let shape = dims.iter().fold(Message::new(), |m, d| m.put(1, &dim(d)));
    let tensor = Message::new().int(1, data_type).put(2, &shape);
    Message::new().bytes(1, name).put(2, &Message::new().put(1, &tensor))
}

#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Message>,
    pub tensors: Vec<Message>,
    pub sparse: Vec<Message>,
    pub inputs: Vec<Message>,
    pub outputs: Vec<Message>,
}

impl Graph {
    pub fn message(&self) -> Message {
        Message::new()
            .all(1, &self.nodes)
            .bytes(2, "g")
            .all(5, &self.tensors)
            .all(11, &self.inputs)
            .all(12, &self.outputs)
            .all(15, &self.sparse)
    }

    /// A model of opset 17.
    pub fn model(&self) -> Vec<u8> {
        let opset = Message::new().bytes(1, "").int(2, 17);
        Message::new().int(1, 8).bytes(2, "qa").put(7, &self.message()).put(8, &opset).0
    }
}

/// y = x·W with W [4, 6] as given.
pub fn matmul(w: Message) -> Graph {
    Graph {
        nodes: vec![node("MatMul", &["x", "W"], &["y"])],
        tensors: vec![w],
        inputs: vec![value("x", 1, &[0, 4])],
        outputs: vec![value("y", 1, &[0, 6])],
        ..Graph::default()
    }
}

/// The fields of a message: number and payload (varints as eight bytes).
pub fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let mut n = 0;
        for shift in (0..).step_by(7) {
            let b = bytes[0];
            *bytes = &bytes[1..];
            n |= u64::from(b & 127) << shift;
            if b < 128 {
                return n;
            }
        }
        unreachable!()
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes);
        let payload = match tag & 7 {
            0 => number(&mut bytes).to_le_bytes().to_vec(),
            wire => {
                let n = match wire {
                    1 => 8,
                    2 => number(&mut bytes) as usize,
                    5 => 4,
                    other => panic!("wire type {other}"),
                };
                let (payload, rest) = bytes.split_at(n);
                bytes = rest;
                payload.to_vec()
            }
        };
        all.push((tag >> 3, payload));
    }
    all
}

/// All payloads of one field.
pub fn get(bytes: &[u8], field: u64) -> Vec<Vec<u8>> {
    fields(bytes).into_iter().filter(|(f, _)| *f == field).map(|(_, p)| p).collect()
}

/// The external data of a tensor: key → value.
pub fn external_of(tensor: &[u8]) -> std::collections::BTreeMap<String, String> {
    let text = |b: &[u8], f| String::from_utf8(get(b, f).remove(0)).unwrap();
    get(tensor, 13).iter().map(|e| (text(e, 1), text(e, 2))).collect()
}

/// The initialisers of a model's graph.
pub fn initialisers(model: &[u8]) -> Vec<Vec<u8>> {
    get(&get(model, 7)[0], 5)
}

/// Copies a message and hands each payload of one field to `f`; all else stays byte for byte.
pub fn rewrite(bytes: &[u8], field: u64, f: &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    let number = |rest: &mut &[u8]| {
        let (mut n, mut shift) = (0u64, 0);
        loop {
            let b = rest[0];
            *rest = &rest[1..];
            n |= u64::from(b & 127) << shift;
            shift += 7;
            if b < 128 {
                return n;
            }
        }
    };
    while !rest.is_empty() {
        let start = rest;
        let tag = number(&mut rest);
        match tag & 7 {
            0 => {
                number(&mut rest);
            }
            1 => rest = &rest[8..],
            5 => rest = &rest[4..],
            _ => {
                let n = number(&mut rest) as usize;
                let (payload, after) = rest.split_at(n);
                rest = after;
                if tag >> 3 == field {
                    out = Message(out).bytes(field, f(payload)).0;
                    continue;
                }
            }
        }
        out.extend_from_slice(&start[..start.len() - rest.len()]);
    }
    out
}
