//! Packed tensors in a safetensors file: `docs/packed-safetensors.md`.

use std::collections::HashMap;
use std::sync::Arc;

use compress_core::encode::outline::{Outline, PackedLayout, PieceOutline, ROLES, TermOutline, ValueCoding};
use compress_core::encode::{Decoder, ReadAt};
use compress_core::stfile::{Entry, StFile, dtype_named, quoted};
use compress_core::tensor::Dtype;
use compress_core::{Error, Result};
use serde_json::{Map, Value, json};

use crate::pairs::At;

/// Metadata key of the format's version.
pub const VERSION_KEY: &str = "compress.packed";
/// The version.
pub const VERSION: &str = "1";
/// Metadata key of the recipe.
pub const RECIPE_KEY: &str = "compress.recipe";
/// What the metadata keys of packed tensors begin with; the tensor's name follows.
pub const TENSOR_KEY: &str = "compress.packed:";
/// Pieces are padded with zeros to multiples of this many bytes.
const ALIGN: u64 = 8;

/// A tensor that is stored in pieces.
pub struct Stored {
    /// Its entries, in the order of the outline's pieces; of legacy tensors the values first.
    pub entries: Vec<At>,
    /// The type that it decodes to.
    pub dtype: Dtype,
    /// The shape that it decodes to.
    pub shape: Vec<u64>,
    /// What it is made of; `None` for the legacy formats, which are written as dense tensors.
    pub outline: Option<Outline>,
    /// What reads it, where it has an outline.
    pub decoder: Option<Arc<Decoder>>,
    /// Its dense bytes.
    pub reader: Box<dyn ReadAt>,
}

/// A piece within a file.
pub struct FilePiece {
    /// The file.
    pub file: Arc<StFile>,
    /// Its entry.
    pub entry: Entry,
}

impl ReadAt for FilePiece {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(&self.entry, offset, out)
    }
}

struct Unpacked(Arc<Decoder>);

impl ReadAt for Unpacked {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, out)
    }
}

/// Name of a piece in the file.
pub fn piece_name(tensor: &str, term: usize, role: &str) -> String {
    format!("{tensor}.packed.{term}.{role}")
}

/// The entry of a piece: one dimension, padded; its position is yet to be set.
pub fn piece_entry(tensor: &str, term: usize, piece: &PieceOutline) -> Entry {
    let width = u64::from(piece.dtype.bits() / 8).max(1);
    let bytes = (piece.elements() * width).next_multiple_of(ALIGN);
    let elements = bytes / width;
    let name = piece_name(tensor, term, piece.role);
    Entry { name, dtype: piece.dtype.clone(), shape: vec![elements], elements, start: 0, end: bytes }
}

/// The entries of all pieces of a tensor.
pub fn entries(tensor: &str, outline: &Outline) -> Vec<Entry> {
    let of =
        |(t, term): (usize, &TermOutline)| term.pieces.iter().map(|p| piece_entry(tensor, t, p)).collect::<Vec<_>>();
    outline.terms.iter().enumerate().flat_map(of).collect()
}

/// The metadata of a packed tensor.
pub fn metadata(tensor: &str, outline: &Outline) -> (String, String) {
    let terms: Vec<Value> = outline
        .terms
        .iter()
        .map(|t| {
            let pieces: Map<String, Value> = t.pieces.iter().map(|p| (p.role.to_string(), json!(p.shape))).collect();
            json!({ "layout": t.layout.name(), "values": t.values.to_string(), "pieces": pieces })
        })
        .collect();
    let text = json!({ "dtype": outline.dtype.name(), "shape": outline.shape, "terms": terms }).to_string();
    (format!("{TENSOR_KEY}{tensor}"), text)
}

/// A file's metadata without what this format puts there.
pub fn foreign_metadata(file: &StFile) -> Vec<(String, String)> {
    let ours = |key: &str| key == VERSION_KEY || key == RECIPE_KEY || key.starts_with(TENSOR_KEY);
    file.metadata().iter().filter(|(k, _)| !ours(k)).cloned().collect()
}

/// The packed tensors of a shard, each with its name.
pub fn find(shard: usize, file: &Arc<StFile>, max_expand: u64) -> Result<Vec<(String, Stored)>> {
    let place = |e: Error| e.at(format_args!("\"{}\"", file.path().display()));
    let mut found = Vec::new();
    let version = file.metadata().iter().find(|(k, _)| k == VERSION_KEY).map(|(_, v)| v.as_str());
    let places: HashMap<&str, usize> =
        file.entries().iter().enumerate().filter(|_| version.is_some()).map(|(i, e)| (e.name.as_str(), i)).collect();
    for (key, text) in file.metadata() {
        let Some(name) = key.strip_prefix(TENSOR_KEY) else { continue };
        if version != Some(VERSION) {
            let text = format!("packed tensors of version {version:?}; this program knows version {VERSION}");
            return Err(place(Error::failed(text)));
        }
        let named = |e: Error| place(e.at(format_args!("tensor {}", quoted(name))));
        found.push((name.to_string(), open((shard, file, &places), name, text, max_expand).map_err(named)?));
    }
    Ok(found)
}

fn open(
    (shard, file, index): (usize, &Arc<StFile>, &HashMap<&str, usize>),
    name: &str,
    text: &str,
    max_expand: u64,
) -> Result<Stored> {
    if file.entry(name).is_some() {
        return Err(Error::failed("it is there both packed and plain"));
    }
    let description: Description = serde_json::from_str(text)
        .map_err(|e| Error::failed(format!("its description is not valid: {}", first_words(&e.to_string()))))?;
    let outline = description.outline(file, name)?;
    let mut places = Vec::new();
    let mut data = Vec::new();
    for (t, term) in outline.terms.iter().enumerate() {
        let mut pieces: Vec<Box<dyn ReadAt>> = Vec::new();
        for piece in &term.pieces {
            let wanted = piece_entry(name, t, piece);
            let at = *index.get(wanted.name.as_str()).ok_or_else(|| missing(&wanted.name))?;
            let entry = &file.entries()[at];
            if entry.shape != wanted.shape {
                let (found, want) = (&entry.shape, &wanted.shape);
                let text = format!("its piece {} has the shape {found:?}, not {want:?}", quoted(&entry.name));
                return Err(Error::failed(text));
            }
            places.push((shard, at));
            pieces.push(Box::new(FilePiece { file: file.clone(), entry: entry.clone() }));
        }
        data.push(pieces);
    }
    let decoder = Arc::new(Decoder::new(outline.clone(), data, max_expand)?);
    let reader = Box::new(Unpacked(decoder.clone()));
    let (dtype, shape) = (outline.dtype.clone(), outline.shape.clone());
    Ok(Stored { entries: places, dtype, shape, outline: Some(outline), decoder: Some(decoder), reader })
}

fn missing(piece: &str) -> Error {
    Error::failed(format!("its piece {} is missing", quoted(piece)))
}

fn first_words(text: &str) -> &str {
    text.split(" at line ").next().unwrap_or(text)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    dtype: String,
    shape: Vec<u64>,
    terms: Vec<TermDescription>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TermDescription {
    layout: String,
    values: String,
    pieces: Map<String, Value>,
}

impl Description {
    fn outline(self, file: &StFile, name: &str) -> Result<Outline> {
        let mut terms = Vec::new();
        for (t, term) in self.terms.into_iter().enumerate() {
            let unknown = |what: &str, word: &str| Error::failed(format!("its {what} {} is not known", quoted(word)));
            let layout = PackedLayout::named(&term.layout).ok_or_else(|| unknown("layout", &term.layout))?;
            let values = ValueCoding::named(&term.values).ok_or_else(|| unknown("coding of values", &term.values))?;
            let mut pieces = Vec::new();
            for (role, shape) in term.pieces {
                let known = ROLES.into_iter().find(|r| *r == role).ok_or_else(|| unknown("piece", &role))?;
                let shape: Vec<u64> = serde_json::from_value(shape)
                    .map_err(|_| Error::failed(format!("the shape of its piece \"{known}\" is none")))?;
                if shape.iter().try_fold(64u64, |n, d| n.checked_mul(*d)).is_none_or(|n| n > 1 << 62) {
                    return Err(Error::failed(format!("the shape {shape:?} of its piece \"{known}\" is too large")));
                }
                let full = piece_name(name, t, known);
                let dtype = file.entry(&full).ok_or_else(|| missing(&full))?.dtype.clone();
                pieces.push(PieceOutline { role: known, dtype, shape });
            }
            terms.push(TermOutline { layout, values, pieces });
        }
        Ok(Outline { dtype: dtype_named(&self.dtype), shape: self.shape, terms })
    }
}
