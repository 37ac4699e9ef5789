//! The header of a safetensors file: checked on reading, written in one form.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::Entry;
use crate::files;
use crate::tensor::Dtype;

/// The longest header that the format's own library reads.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// An element type by its name. Bits of 0 = a type that is newer than this list.
pub fn dtype_named(name: &str) -> Dtype {
    let bits = match name {
        "F64" => return Dtype::F64,
        "F32" => return Dtype::F32,
        "F16" => return Dtype::F16,
        "BF16" => return Dtype::Bf16,
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" => 8,
        "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" => 16,
        "I32" | "U32" => 32,
        "I64" | "U64" | "C64" => 64,
        _ => 0,
    };
    Dtype::Other(name.to_string(), bits)
}

/// A name as errors show it: in quotes, control characters escaped, cut where it is absurdly long.
pub fn quoted(name: &str) -> String {
    let shown: String = name.chars().take(200).collect();
    let dots = if shown.len() < name.len() { "…" } else { "" };
    format!("\"{}{dots}\"", shown.escape_debug())
}

/// Reads the length field; the inner error is a sentence.
pub(super) fn length(file: &File, bytes: u64) -> std::io::Result<Result<u64, String>> {
    if bytes < 8 {
        return Ok(Err(format!("no safetensors file: {bytes} bytes are too few for its header")));
    }
    let mut field = [0; 8];
    files::read_exact_at(file, &mut field, 0)?;
    let length = u64::from_le_bytes(field);
    Ok(if length > MAX_HEADER_BYTES {
        Err(format!("no safetensors file: a header of {length} bytes (at most {MAX_HEADER_BYTES})"))
    } else if length > bytes - 8 {
        Err(format!("the header has {length} bytes, but the file ends after {}: truncated?", bytes - 8))
    } else {
        Ok(length)
    })
}

/// Pairs in the file's order.
type Metadata = Vec<(String, String)>;

/// Parses and checks a header before `payload` bytes of tensors; entries come sorted by position. Errors are sentences.
pub(super) fn parse(text: &[u8], payload: u64) -> Result<(Metadata, Vec<Entry>), String> {
    if text.first() != Some(&b'{') {
        return Err("the header is no JSON object".into());
    }
    let raw: RawHeader = serde_json::from_slice(text).map_err(|e| {
        let text = e.to_string();
        format!("the header is not valid: {}", text.split(" at line ").next().unwrap_or(&text))
    })?;
    let mut entries = Vec::with_capacity(raw.tensors.len());
    let mut seen = HashSet::with_capacity(raw.tensors.len());
    for (name, _) in &raw.tensors {
        if !seen.insert(name.as_str()) {
            return Err(format!("there are two tensors named {}", quoted(name)));
        }
    }
    drop(seen);
    for (name, raw) in raw.tensors {
        entries.push(entry(name, raw, payload)?);
    }
    entries.sort_by_key(|e| (e.start, e.end)); // stable: empty tensors at one place stay in the header's order
    contiguous(&entries, payload)?;
    Ok((raw.metadata, entries))
}

fn entry(name: String, raw: RawEntry, payload: u64) -> Result<Entry, String> {
    let place = |text: String| format!("tensor {}: {text}", quoted(&name));
    let [start, end] = raw.data_offsets;
    if start > end {
        return Err(place(format!("its data end at {end}, before they begin at {start}")));
    }
    if end > payload {
        return Err(place(format!("its data end at byte {end}, but the file has only {payload}: truncated?")));
    }
    let bytes = end - start;
    let mut dtype = dtype_named(&raw.dtype);
    let elements = match dtype.bits() {
        0 => {
            let elements = product(&raw.shape).ok_or_else(|| place(overflow(&raw.shape)))?;
            // An unknown type passes through; where the size of its elements shows, it is kept.
            let bits = u128::from(bytes) * 8;
            if elements > 0 && bits % u128::from(elements) == 0 {
                dtype = Dtype::Other(raw.dtype, u32::try_from(bits / u128::from(elements)).unwrap_or(0));
            }
            elements
        }
        _ => {
            let (elements, need) = measure(&dtype, &raw.shape).map_err(place)?;
            if need != bytes {
                let (dtype, shape) = (dtype.name(), &raw.shape);
                return Err(place(format!("{bytes} bytes in the file, but {dtype} {shape:?} takes {need}")));
            }
            elements
        }
    };
    Ok(Entry { name, dtype, shape: raw.shape, elements, start, end })
}

/// Elements and bytes of a shape, checked against overflow and against half bytes.
pub(super) fn measure(dtype: &Dtype, shape: &[u64]) -> Result<(u64, u64), String> {
    let elements = product(shape).ok_or_else(|| overflow(shape))?;
    let bits = u128::from(elements) * u128::from(dtype.bits());
    if dtype.bits() == 0 {
        return Err(format!("the size of {} is not known", dtype.name()));
    }
    if bits % 8 != 0 {
        return Err(format!("{elements} elements of {} bits are no whole number of bytes", dtype.bits()));
    }
    Ok((elements, u64::try_from(bits / 8).map_err(|_| overflow(shape))?))
}

fn product(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d))
}

fn overflow(shape: &[u64]) -> String {
    let shown: Vec<String> = shape.iter().take(8).map(u64::to_string).collect();
    let dots = if shape.len() > 8 { ", …" } else { "" };
    format!("the shape [{}{dots}] is too large", shown.join(", "))
}

/// Entries in order of position must tile the payload.
fn contiguous(entries: &[Entry], payload: u64) -> Result<(), String> {
    let mut end = 0;
    for (i, e) in entries.iter().enumerate() {
        if e.start < end {
            let before = quoted(&entries[i - 1].name);
            return Err(format!("tensor {}: its data overlap those of {before}", quoted(&e.name)));
        }
        if e.start > end {
            return Err(format!("tensor {}: {} bytes before it belong to no tensor", quoted(&e.name), e.start - end));
        }
        end = e.end;
    }
    match payload - end {
        0 => Ok(()),
        n => Err(format!("{n} bytes at the end of the file belong to no tensor")),
    }
}

struct RawHeader {
    metadata: Metadata,
    tensors: Vec<(String, RawEntry)>,
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

// Maps of serde would silently keep one of two equal names, so the pairs are collected as they come.
impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: Vec::new(), tensors: Vec::new() };
                let mut had_metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    let place = |e: A::Error| A::Error::custom(format!("tensor {}: {e}", quoted(&name)));
                    if name != "__metadata__" {
                        let entry = map.next_value().map_err(place)?;
                        header.tensors.push((name, entry));
                    } else if std::mem::replace(&mut had_metadata, true) {
                        return Err(A::Error::custom("\"__metadata__\" stands twice"));
                    } else {
                        header.metadata = map.next_value::<Option<Strings>>()?.map(|s| s.0).unwrap_or_default();
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Pairs of strings, each key once.
struct Strings(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        let _: IgnoredAny = map.next_value()?;
                        return Err(A::Error::custom(format!("the metadata has {} twice", quoted(&key))));
                    }
                    let place = |e: A::Error| A::Error::custom(format!("metadata {}: {e}", quoted(&key)));
                    let value = map.next_value().map_err(place)?;
                    pairs.push((key, value));
                }
                Ok(Strings(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Length field and header of these tensors, padded with spaces so that the data begin at a multiple of 8.
pub fn encode_header(metadata: &[(String, String)], entries: &[Entry]) -> Vec<u8> {
    let string = |s: &str| serde_json::Value::from(s).to_string();
    let mut items = Vec::with_capacity(entries.len() + 1);
    if !metadata.is_empty() {
        let pairs: Vec<String> = metadata.iter().map(|(k, v)| format!("{}:{}", string(k), string(v))).collect();
        items.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    items.extend(entries.iter().map(|e| {
        let shape: Vec<String> = e.shape.iter().map(u64::to_string).collect();
        let (name, dtype) = (string(&e.name), string(e.dtype.name()));
        let (shape, start, end) = (shape.join(","), e.start, e.end);
        format!("{name}:{{\"dtype\":{dtype},\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}")
    }));
    let mut text = format!("{{{}}}", items.join(","));
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests;
