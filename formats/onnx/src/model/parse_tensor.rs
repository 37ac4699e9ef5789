//! Reads `TensorProto` and `SparseTensorProto` and checks that their data fit their shape.

use std::ops::Range;
use std::sync::Arc;

use compress_core::{Error, Result};

use super::dtype::DataType;
use super::parse::Parser;
use super::spans::MessageId;
use super::sparse::SparseRef;
use super::tensor::{External, Place, TensorRef, count_elements, field};
use super::typed::Typed;
use crate::wire::{Field, Value};

/// The most dimensions that a tensor may have.
const RANK: usize = 64;

/// A `TensorProto` as it stands, not yet checked.
#[derive(Default)]
struct Draft {
    name: String,
    data_type: i64,
    dims: Vec<u64>,
    raw: Option<(Range<u64>, Range<u64>)>,
    typed: Vec<Typed>,
    strings: u64,
    external: Vec<(String, String)>,
    external_fields: Vec<Range<u64>>,
    is_external: bool,
}

impl Parser<'_> {
    /// Reads a tensor whose field in `parent` and body are given.
    pub(super) fn tensor(&mut self, parent: MessageId, span: &Range<u64>, body: &Range<u64>) -> Result<TensorRef> {
        let message = self.spans.add(parent, span.clone(), body.clone());
        let mut draft = Draft::default();
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            self.tensor_field(&mut draft, f)?;
        }
        let name = draft.name.clone();
        let place = |e: Error| {
            let place = if name.is_empty() { "a tensor".into() } else { format!("tensor \"{name}\"") };
            Error::failed(format!("\"{}\": {place}: {e}", self.input.path().display()))
        };
        self.finish_tensor(draft, message, body).map_err(place)
    }

    fn tensor_field(&mut self, draft: &mut Draft, f: Field) -> Result<()> {
        match (f.number, &f.value) {
            (field::TENSOR_DIMS, value) => self.integers(value, |this, v| {
                draft.dims.push(this.dimension(v, f.span.start)?);
                if draft.dims.len() > RANK {
                    return Err(this.cursor.broken(f.span.start, format_args!("more than {RANK} dimensions")));
                }
                Ok(())
            })?,
            (field::TENSOR_TYPE, Value::Varint(v)) => draft.data_type = *v as i64,
            (3, _) => return Err(self.cursor.broken(f.span.start, "a tensor in segments (not supported)")),
            (4 | 5 | 7 | 10 | 11, value) => {
                let same = |t: &Typed| t.field == f.number;
                if !draft.typed.iter().any(same) {
                    draft.typed.push(Typed::new(&self.input, f.number));
                }
                if let Some(typed) = draft.typed.iter_mut().find(|t| same(t)) {
                    typed.add(&mut self.cursor, f.span, value)?;
                }
            }
            (6, Value::Bytes(_)) => draft.strings += 1,
            (field::TENSOR_NAME, Value::Bytes(range)) => draft.name = self.string(range)?,
            (field::TENSOR_RAW, Value::Bytes(range)) => {
                let earlier = draft.raw.replace((f.span.clone(), range.clone()));
                if earlier.is_some() {
                    return Err(self.cursor.broken(f.span.start, "a tensor with raw_data twice"));
                }
            }
            (field::TENSOR_EXTERNAL, Value::Bytes(range)) => {
                draft.external.push(self.entry(range)?);
                draft.external_fields.push(f.span);
                if draft.external.len() > 64 {
                    return Err(self.cursor.broken(range.start, "more than 64 keys of external data"));
                }
            }
            (field::TENSOR_LOCATION, Value::Varint(v)) => {
                draft.is_external = *v == 1;
                draft.external_fields.push(f.span);
            }
            (2 | 6 | 8 | 9 | 13 | 14, _) => return Err(self.wrong_type(&f)),
            _ => {}
        }
        Ok(())
    }

    fn finish_tensor(&self, draft: Draft, message: MessageId, body: &Range<u64>) -> Result<TensorRef> {
        let data_type = i32::try_from(draft.data_type).map(DataType).unwrap_or(DataType(i32::MAX));
        let Some(elements) = count_elements(&draft.dims) else {
            return Err(Error::failed(format!("the shape {:?} has too many elements", draft.dims)));
        };
        let expected = (u128::from(elements) * u128::from(data_type.bits())).div_ceil(8) as u64;
        let opaque = Place::Opaque { bytes: body.end - body.start };
        let typed: Vec<Typed> = draft.typed.into_iter().filter(|t| t.count > 0).collect();
        let raw = draft.raw.filter(|(_, body)| !body.is_empty());
        let kinds = usize::from(raw.is_some()) + typed.len() + usize::from(draft.strings > 0);
        let place = if data_type.0 == 0 {
            return Err(Error::failed("has no element type"));
        } else if !data_type.known() {
            opaque
        } else if data_type == DataType::STRING {
            if draft.strings != elements && !draft.is_external {
                return Err(Error::failed(format!("has {} strings for {elements} elements", draft.strings)));
            }
            opaque
        } else if draft.is_external {
            if kinds > 0 {
                return Err(Error::failed("has its data both here and in another file"));
            }
            self.external(draft.external, draft.external_fields, expected)?
        } else if kinds > 1 {
            return Err(Error::failed("has its data in more than one field"));
        } else if let Some((field, body)) = raw {
            fits(body.end - body.start, expected, &draft.dims, data_type)?;
            Place::Raw { input: self.input.clone(), field, body }
        } else if let Some(typed) = typed.into_iter().next() {
            if typed.field != data_type.typed_field() {
                return Err(Error::failed(format!("has its {} data in a field of another type", data_type.name())));
            }
            fits(typed.count * u64::from(data_type.entry_bytes()), expected, &draft.dims, data_type)?;
            Place::Typed(Arc::new(typed))
        } else if expected == 0 {
            Place::Empty
        } else {
            return Err(Error::failed(format!("has no data for its {elements} elements")));
        };
        Ok(TensorRef { name: draft.name, data_type, dims: draft.dims, elements, place, message })
    }

    fn external(&self, entries: Vec<(String, String)>, fields: Vec<Range<u64>>, expected: u64) -> Result<Place> {
        let get = |key: &str| entries.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let number =
            |key: &str| match get(key) {
                None => Ok(None),
                Some(text) => text.trim().parse::<u64>().map(Some).map_err(|_| {
                    Error::failed(format!("its external data have the {key} \"{text}\", which is no number"))
                }),
            };
        let Some(location) = get("location") else { return Err(Error::failed("its external data have no location")) };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(expected));
        if length != expected {
            return Err(Error::failed(format!("has {length} bytes of external data, its shape needs {expected}")));
        }
        let input = self.externals.get(location)?;
        let Some(end) = offset.checked_add(length).filter(|end| *end <= input.bytes()) else {
            return Err(Error::failed(format!(
                "its {length} bytes at {offset} reach beyond the {} bytes of \"{}\"",
                input.bytes(),
                input.path().display()
            )));
        };
        let ours = ["location", "offset", "length"];
        let other_keys = entries.iter().filter(|(k, _)| !ours.contains(&k.as_str())).cloned().collect();
        Ok(Place::External(Arc::new(External { input, range: offset..end, fields, other_keys })))
    }

    /// Reads a sparse tensor.
    pub(super) fn sparse(&mut self, parent: MessageId, span: &Range<u64>, body: &Range<u64>) -> Result<SparseRef> {
        let message = self.spans.add(parent, span.clone(), body.clone());
        let (mut values, mut indices, mut dims) = (None, None, Vec::new());
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            match (f.number, &f.value) {
                (1, Value::Bytes(inner)) => {
                    let back = self.cursor.position();
                    self.once(&values, &f)?;
                    values = Some(self.tensor(message, &f.span, inner)?);
                    self.cursor.seek(back);
                }
                (2, Value::Bytes(inner)) => {
                    let back = self.cursor.position();
                    self.once(&indices, &f)?;
                    indices = Some(self.tensor(message, &f.span, inner)?);
                    self.cursor.seek(back);
                }
                (3, value) => self.integers(value, |this, v| {
                    dims.push(this.dimension(v, f.span.start)?);
                    if dims.len() > RANK {
                        return Err(this.cursor.broken(f.span.start, format_args!("more than {RANK} dimensions")));
                    }
                    Ok(())
                })?,
                (1 | 2, _) => return Err(self.wrong_type(&f)),
                _ => {}
            }
        }
        let (Some(values), Some(indices)) = (values, indices) else {
            return Err(self.cursor.broken(span.start, "a sparse tensor without values or indices"));
        };
        SparseRef::new(values, indices, dims, message, self.max_expand)
            .map_err(|e| Error::failed(format!("\"{}\": {e}", self.input.path().display())))
    }
}

fn fits(found: u64, expected: u64, dims: &[u64], data_type: DataType) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let what = format!("has {found} bytes of data, its shape {dims:?} of {} needs {expected}", data_type.name());
    Err(Error::failed(what))
}
