//! Reads `ValueInfoProto`: names, element types and dimensions of values.

use std::ops::Range;

use compress_core::Result;

use super::parse::Parser;
use super::{DataType, Dim, ValueInfo};
use crate::wire::Value;

impl Parser<'_> {
    pub(super) fn value_info(&mut self, span: &Range<u64>, body: &Range<u64>) -> Result<ValueInfo> {
        let mut info = ValueInfo { name: String::new(), data_type: None, dims: None, span: span.clone() };
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Bytes(range)) => info.name = self.string(range)?,
                (2, Value::Bytes(b)) => {
                    if let Some(tensor) = self.inner(b, 1)? {
                        self.tensor_type(&tensor, &mut info)?;
                    }
                }
                (1 | 2, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        Ok(info)
    }

    fn tensor_type(&mut self, body: &Range<u64>, info: &mut ValueInfo) -> Result<()> {
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match &f.value {
                Value::Varint(v) if f.number == 1 => info.data_type = i32::try_from(*v).ok().map(DataType),
                Value::Bytes(b) if f.number == 2 => {
                    let mut dims = Vec::new();
                    self.cursor.seek(b.start);
                    while let Some(d) = self.cursor.field(b.end)? {
                        if let (1, Value::Bytes(dim)) = (d.number, &d.value) {
                            dims.push(self.dim(dim)?);
                        }
                        self.cursor.seek(d.span.end);
                    }
                    info.dims = Some(dims);
                }
                _ => {}
            }
            self.cursor.seek(f.span.end);
        }
        Ok(())
    }

    fn dim(&mut self, body: &Range<u64>) -> Result<Dim> {
        let mut dim = Dim::Unknown;
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Varint(v)) if *v <= i64::MAX as u64 => dim = Dim::Value(*v),
                (2, Value::Bytes(range)) => dim = Dim::Name(self.string(range)?),
                _ => {}
            }
        }
        Ok(dim)
    }

    /// The body of the last message field `number` of a message.
    fn inner(&mut self, body: &Range<u64>, number: u32) -> Result<Option<Range<u64>>> {
        let mut found = None;
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            if let (true, Value::Bytes(range)) = (f.number == number, f.value) {
                found = Some(range);
            }
        }
        Ok(found)
    }
}
