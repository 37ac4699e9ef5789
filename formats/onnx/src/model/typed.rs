//! Elements in typed fields (`float_data`, `int32_data`, …): packed or one by one, fixed width or varints, read as the
//! dense little-endian layout that `raw_data` has.

use std::ops::Range;
use std::sync::Arc;

use compress_core::Result;

use super::dtype::DataType;
use crate::wire::{Cursor, Input, Value};

/// Entries between two remembered positions, where entries have no fixed width.
const STRIDE: u64 = 4096;

/// A stretch of entries that follow each other in the file.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The field or fields, tags included.
    pub(crate) span: Range<u64>,
    /// The entries: without the tag for a packed run, with a tag each for others.
    pub(crate) body: Range<u64>,
    /// Whether entries stand without tags.
    pub(crate) packed: bool,
    first: u64,
    count: u64,
    /// File positions of every [`STRIDE`]-th entry; empty for packed entries of fixed width.
    marks: Vec<u64>,
}

/// The entries of one typed field of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    input: Arc<Input>,
    /// Number of the field.
    pub(crate) field: u32,
    pub(crate) runs: Vec<Run>,
    /// Number of entries.
    pub(crate) count: u64,
}

/// Bytes of an entry on the wire; `None` for varints.
fn wire_width(field: u32) -> Option<u64> {
    match field {
        4 => Some(4),
        10 => Some(8),
        _ => None,
    }
}

impl Typed {
    pub(crate) fn new(input: &Arc<Input>, field: u32) -> Self {
        Typed { input: input.clone(), field, runs: Vec::new(), count: 0 }
    }

    /// Adds a field as the parser met it. The cursor comes back to where it was.
    pub(crate) fn add(&mut self, cursor: &mut Cursor<'_>, span: Range<u64>, value: &Value) -> Result<()> {
        let fits = |width| wire_width(self.field) == width;
        match value {
            Value::Bytes(body) => return self.add_packed(cursor, span, body.clone()),
            Value::Varint(_) if fits(None) => {}
            Value::Fixed32(_) if fits(Some(4)) => {}
            Value::Fixed64(_) if fits(Some(8)) => {}
            _ => return Err(cursor.broken(span.start, "numbers of the wrong wire type")),
        }
        let first = self.count;
        self.count += 1;
        match self.runs.last_mut().filter(|run| !run.packed && run.span.end == span.start) {
            Some(run) => {
                if run.count % STRIDE == 0 {
                    run.marks.push(span.start);
                }
                run.count += 1;
                run.span.end = span.end;
                run.body.end = span.end;
            }
            None => {
                let marks = vec![span.start];
                self.runs.push(Run { body: span.clone(), span, packed: false, first, count: 1, marks });
            }
        }
        Ok(())
    }

    fn add_packed(&mut self, cursor: &mut Cursor<'_>, span: Range<u64>, body: Range<u64>) -> Result<()> {
        let bytes = body.end - body.start;
        let (count, marks) = match wire_width(self.field) {
            Some(width) if !bytes.is_multiple_of(width) => {
                return Err(cursor.broken(span.start, "packed numbers with a broken one at the end"));
            }
            Some(width) => (bytes / width, Vec::new()),
            None => {
                let (back, mut count, mut marks) = (cursor.position(), 0, Vec::new());
                cursor.seek(body.start);
                while cursor.position() < body.end {
                    if count % STRIDE == 0 {
                        marks.push(cursor.position());
                    }
                    cursor.varint(body.end)?;
                    count += 1;
                }
                cursor.seek(back);
                (count, marks)
            }
        };
        self.runs.push(Run { span, body, packed: true, first: self.count, count, marks });
        self.count += count;
        Ok(())
    }

    /// Where the dense bytes lie as they are, if they do: one packed run of fixed width.
    pub(crate) fn plain(&self) -> Option<Range<u64>> {
        match self.runs.as_slice() {
            [run] if run.packed && wire_width(self.field).is_some() => Some(run.body.clone()),
            _ => None,
        }
    }

    /// Reads dense bytes from `offset`.
    pub(crate) fn read_at(&self, data_type: DataType, offset: u64, out: &mut [u8]) -> Result<()> {
        if let Some(body) = self.plain() {
            return self.input.read_exact_at(out, body.start + offset);
        }
        let width = u64::from(data_type.entry_bytes());
        let (mut entry, mut skip, mut filled) = (offset / width, (offset % width) as usize, 0);
        while filled < out.len() {
            let at = self.runs.partition_point(|run| run.first + run.count <= entry);
            let Some(run) = self.runs.get(at) else { return Err(self.input.broken("a tensor ends too early")) };
            let mut entries = Entries::seek(&self.input, self.field, run, entry)?;
            while entry < run.first + run.count && filled < out.len() {
                let bytes = entries.next()?.to_le_bytes();
                let part = &bytes[skip..width as usize];
                let take = part.len().min(out.len() - filled);
                out[filled..filled + take].copy_from_slice(&part[..take]);
                (filled, skip, entry) = (filled + take, 0, entry + 1);
            }
        }
        Ok(())
    }
}

/// Walks the entries of a run.
struct Entries<'a> {
    cursor: Cursor<'a>,
    run: &'a Run,
    width: Option<u64>,
}

impl<'a> Entries<'a> {
    fn seek(input: &'a Input, field: u32, run: &'a Run, entry: u64) -> Result<Self> {
        let (inside, width) = (entry - run.first, wire_width(field));
        let (at, skip) = match (run.packed, width) {
            (true, Some(width)) => (run.body.start + inside * width, 0),
            _ => (run.marks[(inside / STRIDE) as usize], inside % STRIDE),
        };
        let mut entries = Entries { cursor: Cursor::new(input, at), run, width };
        for _ in 0..skip {
            entries.next()?;
        }
        Ok(entries)
    }

    fn next(&mut self) -> Result<u64> {
        let end = self.run.body.end;
        if !self.run.packed {
            self.cursor.varint(end)?; // the tag
        }
        match self.width {
            Some(4) => Ok(u64::from(u32::from_le_bytes(self.cursor.take(end)?))),
            Some(_) => Ok(u64::from_le_bytes(self.cursor.take(end)?)),
            None => self.cursor.varint(end),
        }
    }
}

/// Appends dense bytes as entries of a packed typed field. `dense` holds whole entries.
pub(crate) fn encode_entries(data_type: DataType, dense: &[u8], out: &mut Vec<u8>) {
    if wire_width(data_type.typed_field()).is_some() {
        out.extend(dense);
        return;
    }
    for entry in dense.chunks(data_type.entry_bytes().max(1) as usize) {
        let mut wide = [0; 8];
        wide[..entry.len()].copy_from_slice(entry);
        let negative = data_type.signed() && entry.last().is_some_and(|b| b & 0x80 != 0);
        if negative {
            wide[entry.len()..].fill(0xff);
        }
        crate::wire::push_varint(out, u64::from_le_bytes(wide));
    }
}
