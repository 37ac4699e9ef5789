//! Walks the fields of a protobuf message without holding its payloads.

use std::ops::Range;

use compress_core::Result;

use super::Input;

/// Bytes that are read ahead. Small, since most jumps go over payloads.
const WINDOW: usize = 16 << 10;

/// One field as it stands on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// The field's number, 1 to 2^29 - 1.
    pub number: u32,
    /// Where it lies in the file, its tag included.
    pub span: Range<u64>,
    /// What it holds.
    pub value: Value,
}

/// The value of a field, by wire type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: where the payload (a string, bytes, a message, packed numbers) lies in the file.
    Bytes(Range<u64>),
    /// Wire type 5.
    Fixed32(u32),
}

/// A position in a file and a small window of bytes read ahead.
#[derive(Debug)]
pub struct Cursor<'a> {
    input: &'a Input,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Cursor<'a> {
    /// A cursor at byte `at`.
    pub fn new(input: &'a Input, at: u64) -> Self {
        Cursor { input, at, window: Vec::new(), window_at: 0 }
    }

    /// The file.
    pub fn input(&self) -> &'a Input {
        self.input
    }

    /// Where the cursor stands.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Moves without reading.
    pub fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// The next field of the message that ends at `end`, and moves behind it; `None` at its end.
    pub fn field(&mut self, end: u64) -> Result<Option<Field>> {
        let start = self.at;
        if start >= end {
            return Ok(None);
        }
        let tag = self.varint(end)?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        let Some(number) = number else { return Err(self.broken(start, "a field number out of range")) };
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(end)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take(end)?)),
            2 => {
                let bytes = self.varint(end)?;
                let from = self.at;
                if bytes > end - from {
                    return Err(self.broken(start, format_args!("a field of {bytes} bytes reaches beyond its end")));
                }
                self.at = from + bytes;
                Value::Bytes(from..from + bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(end)?)),
            other => return Err(self.broken(start, format_args!("wire type {other}"))),
        };
        Ok(Some(Field { number, span: start..self.at, value }))
    }

    /// A varint that lies before `end`, and moves behind it.
    pub fn varint(&mut self, end: u64) -> Result<u64> {
        let start = self.at;
        let mut value = 0u64;
        for i in 0..10 {
            let byte = self.byte(end)?;
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.broken(start, "a number of more than 64 bits"))
    }

    /// `N` bytes that lie before `end`, and moves behind them.
    pub fn take<const N: usize>(&mut self, end: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        for byte in &mut out {
            *byte = self.byte(end)?;
        }
        Ok(out)
    }

    /// The bytes of a range, if there are no more than `limit`.
    pub fn bytes(&mut self, range: &Range<u64>, limit: u64, what: &str) -> Result<Vec<u8>> {
        let bytes = range.end - range.start;
        if bytes > limit {
            return Err(self.broken(range.start, format_args!("{what} of {bytes} bytes (the limit is {limit})")));
        }
        let mut out = vec![0; bytes as usize];
        let ahead = range.start.checked_sub(self.window_at).map(|skip| skip as usize);
        match ahead.and_then(|skip| self.window.get(skip..skip.checked_add(out.len())?)) {
            Some(window) => out.copy_from_slice(window),
            None => self.input.read_exact_at(&mut out, range.start)?,
        }
        Ok(out)
    }

    /// An error at a position.
    pub fn broken(&self, at: u64, what: impl std::fmt::Display) -> compress_core::Error {
        self.input.broken(format_args!("{what} at byte {at}"))
    }

    fn byte(&mut self, end: u64) -> Result<u8> {
        if self.at >= end {
            return Err(self.broken(self.at, "the data end in the middle of a field"));
        }
        let inside = self.at >= self.window_at && self.at - self.window_at < self.window.len() as u64;
        if !inside {
            let bytes = (self.input.bytes() - self.at.min(self.input.bytes())).min(WINDOW as u64) as usize;
            if bytes == 0 {
                return Err(self.broken(self.at, "the data end in the middle of a field"));
            }
            self.window.resize(bytes, 0);
            self.window_at = self.at;
            if let Err(e) = self.input.read_exact_at(&mut self.window, self.at) {
                self.window.clear();
                return Err(e);
            }
        }
        let byte = self.window[(self.at - self.window_at) as usize];
        self.at += 1;
        Ok(byte)
    }
}
