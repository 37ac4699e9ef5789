//! Builds single fields and small messages. Large ones are never built: the writer splices them.

/// Appends a varint.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that a varint takes.
pub fn varint_len(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

/// A small message under construction.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Message::default()
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds an integer.
    #[must_use]
    pub fn int(mut self, number: u32, value: i64) -> Self {
        push_varint(&mut self.bytes, u64::from(number) << 3);
        push_varint(&mut self.bytes, value as u64);
        self
    }

    /// Adds an f32.
    #[must_use]
    pub fn float(mut self, number: u32, value: f32) -> Self {
        push_varint(&mut self.bytes, u64::from(number) << 3 | 5);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Adds an f64.
    #[must_use]
    pub fn double(mut self, number: u32, value: f64) -> Self {
        push_varint(&mut self.bytes, u64::from(number) << 3 | 1);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Adds a string, bytes or packed numbers.
    #[must_use]
    pub fn bytes(mut self, number: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self = self.header(number, value.len() as u64);
        self.bytes.extend(value);
        self
    }

    /// Adds a message.
    #[must_use]
    pub fn message(self, number: u32, value: Message) -> Self {
        self.bytes(number, value.bytes)
    }

    /// Adds integers, packed.
    #[must_use]
    pub fn packed(self, number: u32, values: impl IntoIterator<Item = i64>) -> Self {
        let mut body = Vec::new();
        for value in values {
            push_varint(&mut body, value as u64);
        }
        self.bytes(number, body)
    }

    /// Adds the tag and length of a payload of `bytes` bytes that the caller writes behind this message.
    #[must_use]
    pub fn header(mut self, number: u32, bytes: u64) -> Self {
        push_varint(&mut self.bytes, u64::from(number) << 3 | 2);
        push_varint(&mut self.bytes, bytes);
        self
    }
}
