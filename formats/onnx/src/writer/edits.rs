//! Which stretches of a file are replaced, and what that does to the lengths of the messages around them.

use std::cmp::Reverse;
use std::ops::Range;

use compress_core::{Error, Result};

use crate::model::{MessageId, Spans};
use crate::wire::{Cursor, Input, push_varint};

/// A stretch of the output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Bytes of the input.
    Source(Range<u64>),
    /// Bytes that were written to the scratch file.
    Scratch(Range<u64>),
    /// Bytes in memory.
    Bytes(Vec<u8>),
}

impl Segment {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match self {
            Segment::Source(range) | Segment::Scratch(range) => range.end - range.start,
            Segment::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// A stretch of a message's body and what stands in its place.
#[derive(Clone, Debug)]
struct Edit {
    message: MessageId,
    range: Range<u64>,
    with: Vec<Segment>,
}

/// Replacements, in the order in which they were asked for.
#[derive(Clone, Default, Debug)]
pub struct Edits {
    list: Vec<Edit>,
}

impl Edits {
    /// Replaces a stretch of the body of `message`, which lies in no message inside of it that is edited too. An empty
    /// stretch inserts; several insertions at one place keep their order and come before a replacement that begins there.
    pub(crate) fn replace(&mut self, message: MessageId, range: Range<u64>, with: Vec<Segment>) {
        self.list.push(Edit { message, range, with });
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The output as a sequence of segments, adjoining ones of the input joined.
    pub(crate) fn layout(&self, input: &Input, spans: &Spans) -> Result<Vec<Segment>> {
        let mut all = self.list.clone();
        all.extend(self.new_lengths(input, spans)?);
        // Where two messages end, what goes into the inner one comes first; it has the higher number.
        all.sort_by_key(|edit| (edit.range.start, !edit.range.is_empty(), Reverse(edit.message)));
        let (mut out, mut at) = (Vec::new(), 0);
        for edit in all {
            if edit.range.start < at {
                return Err(Error::failed("two changes of the model overlap (a mistake of this program)"));
            }
            push(&mut out, Segment::Source(at..edit.range.start));
            edit.with.into_iter().for_each(|segment| push(&mut out, segment));
            at = edit.range.end;
        }
        push(&mut out, Segment::Source(at..spans.get(0).body.end));
        Ok(out)
    }

    /// The length prefixes that change.
    fn new_lengths(&self, input: &Input, spans: &Spans) -> Result<Vec<Edit>> {
        let mut growth = vec![0i128; spans.len()];
        for edit in &self.list {
            let with: u64 = edit.with.iter().map(Segment::bytes).sum();
            growth[edit.message] += i128::from(with) - i128::from(edit.range.end - edit.range.start);
        }
        let mut edits = Vec::new();
        // A message comes after the one around it: from the back, all inside of it is known.
        for id in (1..spans.len()).rev() {
            let span = spans.get(id);
            let Some(parent) = span.parent.filter(|_| growth[id] != 0) else { continue };
            let old = span.body.end - span.body.start;
            let new = u64::try_from(i128::from(old) + growth[id])
                .map_err(|_| Error::failed("a message shrinks below nothing (a mistake of this program)"))?;
            let mut cursor = Cursor::new(input, span.field.start);
            cursor.varint(span.body.start)?; // the tag
            let prefix = cursor.position()..span.body.start;
            let mut bytes = Vec::new();
            push_varint(&mut bytes, new);
            growth[parent] += growth[id] + bytes.len() as i128 - i128::from(prefix.end - prefix.start);
            edits.push(Edit { message: parent, range: prefix, with: vec![Segment::Bytes(bytes)] });
        }
        Ok(edits)
    }
}

/// Appends a segment; joins it with the last one where it continues that.
fn push(out: &mut Vec<Segment>, segment: Segment) {
    if segment.bytes() == 0 {
        return;
    }
    match (out.last_mut(), segment) {
        (Some(Segment::Source(last)), Segment::Source(next)) if last.end == next.start => last.end = next.end,
        (Some(Segment::Scratch(last)), Segment::Scratch(next)) if last.end == next.start => last.end = next.end,
        (Some(Segment::Bytes(last)), Segment::Bytes(next)) => last.extend(next),
        (_, segment) => out.push(segment),
    }
}
