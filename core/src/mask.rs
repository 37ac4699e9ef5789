//! Mask files: one bit a weight, 1 = kept.
//!
//! A safetensors file with, for each tensor that has a mask, a U8 tensor [ceil(n / 8)] under the tensor's own name: bit i
//! (lowest first) is the element with flat index i as stored; `__metadata__["shape:<name>"]` is the tensor's shape,
//! `"[1,1024,256]"`. Tensors that are absent are all kept. A BOOL tensor of the full shape is read as well. In numpy:
//! `unpackbits(t, bitorder="little")[:n].reshape(shape)`. Masks are read and written in pieces, never held in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, did_you_mean};
use crate::format::Blocks;
use crate::progress::Watch;
use crate::pump::pump_by;
use crate::stfile::{Entry, Spec, StFile, StWriter, quoted};
use crate::tensor::{Dtype, TensorInfo};

mod algebra;

pub use algebra::{Algebra, Combined, Overlap, TensorOverlap, combine, overlap};

/// Bytes of bits that are made or read at once: half a million weights.
const PIECE_BYTES: usize = 1 << 16;

/// What comes before a tensor's name in the metadata.
const SHAPE: &str = "shape:";

/// An open mask file.
#[derive(Debug)]
pub struct MaskFile {
    file: StFile,
    masks: Vec<Mask>,
    by_name: HashMap<String, usize>,
}

/// A tensor's mask.
#[derive(Debug)]
struct Mask {
    entry: usize,
    shape: Vec<u64>,
    elements: u64,
    /// A byte a weight, not a bit.
    bytes: bool,
}

impl MaskFile {
    /// Opens a file and checks types, shapes and lengths.
    pub fn open(path: &Path) -> Result<MaskFile> {
        let file = StFile::open(path)?;
        let shapes: HashMap<&str, &str> =
            file.metadata().iter().filter_map(|(k, v)| Some((k.strip_prefix(SHAPE)?, v.as_str()))).collect();
        let mut masks = Vec::with_capacity(file.entries().len());
        for (entry, e) in file.entries().iter().enumerate() {
            let mask = Mask::new(entry, e, shapes.get(e.name.as_str()).copied());
            masks.push(mask.map_err(|text| Error::failed(text).at(file.place(&e.name)))?);
        }
        let by_name = file.entries().iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        Ok(MaskFile { file, masks, by_name })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Names and shapes of the tensors that have a mask, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.masks.iter().map(|m| (self.file.entries()[m.entry].name.as_str(), &m.shape[..]))
    }

    /// Whether a tensor has a mask; if not, it is all kept.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The shape that a tensor's mask is for.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        Some(&self.masks[*self.by_name.get(name)?].shape)
    }

    /// Every mask must belong to a tensor of the model, and have its shape.
    pub fn check_against(&self, tensors: &[TensorInfo]) -> Result<()> {
        let known: HashMap<&str, &TensorInfo> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        for (name, shape) in self.tensors() {
            let wrong = |text: String| Err(Error::failed(text).at(self.file.place(name)));
            match known.get(name) {
                None => {
                    let hint = did_you_mean(name, tensors.iter().map(|t| t.name.as_str()));
                    return wrong(format!("the model has no tensor of this name{hint}"));
                }
                Some(t) if t.shape != shape => {
                    return wrong(format!("the mask is for the shape {shape:?}, the model's tensor has {:?}", t.shape));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Fills `out` with a tensor's packed bits from bit `first`, a multiple of 8. Bits beyond the tensor are 0. A tensor
    /// without a mask is all ones as far as `out` goes.
    pub fn read_bits(&self, name: &str, first: u64, out: &mut [u8]) -> Result<()> {
        debug_assert!(first.is_multiple_of(8));
        let Some(mask) = self.by_name.get(name).map(|i| &self.masks[*i]) else {
            out.fill(0xff);
            return Ok(());
        };
        let entry = &self.file.entries()[mask.entry];
        let bits = mask.elements.saturating_sub(first).min(out.len() as u64 * 8);
        let (held, beyond) = out.split_at_mut(bits.div_ceil(8) as usize);
        beyond.fill(0);
        if mask.bytes {
            let mut piece = vec![0; PIECE_BYTES.min(bits as usize)];
            let mut at = first;
            for held in held.chunks_mut(PIECE_BYTES / 8) {
                let count = (held.len() as u64 * 8).min(mask.elements - at) as usize;
                self.file.read_at(entry, at, &mut piece[..count])?;
                for (byte, run) in held.iter_mut().zip(piece[..count].chunks(8)) {
                    *byte = run.iter().enumerate().fold(0, |bits, (i, b)| bits | u8::from(*b != 0) << i);
                }
                at += count as u64;
            }
        } else {
            self.file.read_at(entry, first / 8, held)?;
            if let Some(last) = held.last_mut().filter(|_| bits % 8 != 0) {
                *last &= (1 << (bits % 8)) - 1; // stray bits beyond the tensor
            }
        }
        Ok(())
    }
}

impl Mask {
    fn new(entry: usize, e: &Entry, shape: Option<&str>) -> std::result::Result<Mask, String> {
        let bytes = match &e.dtype {
            Dtype::Other(n, _) if n == "BOOL" => true,
            Dtype::Other(n, _) if n == "U8" => false,
            other => return Err(format!("a mask is U8 (bits) or BOOL (of the full shape), not {}", other.name())),
        };
        let shape: Vec<u64> = match (shape, bytes) {
            (Some(text), _) => serde_json::from_str(text)
                .map_err(|_| format!("its shape in the metadata is {}, not a list like \"[2,3]\"", quoted(text)))?,
            (None, true) => e.shape.clone(),
            (None, false) => return Err(format!("the metadata lack its shape, \"{SHAPE}{}\"", e.name)),
        };
        let elements = shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d));
        let elements = elements.ok_or_else(|| format!("the shape {shape:?} is too large"))?;
        if bytes && e.shape != shape {
            return Err(format!("a BOOL mask of shape {:?} for a tensor of shape {shape:?}", e.shape));
        }
        if !bytes && e.bytes() != elements.div_ceil(8) {
            let need = elements.div_ceil(8);
            return Err(format!("{} bytes of bits, but the shape {shape:?} takes {need}", e.bytes()));
        }
        Ok(Mask { entry, shape, elements, bytes })
    }
}

/// Writes a mask file. Nothing stands under its name before [`MaskWriter::commit`].
#[derive(Debug)]
pub struct MaskWriter {
    writer: StWriter,
    output: PathBuf,
}

/// Makes a run of packed bits from a bit on, a multiple of 8; from any thread.
pub type BitsFn<'a> = dyn Fn(u64, &mut [u8]) -> Result<()> + Sync + 'a;

impl MaskWriter {
    /// Reserves the space of the masks of these tensors (name, shape). Masks that are not written prune everything.
    pub fn create(output: &Path, tensors: &[(String, Vec<u64>)]) -> Result<MaskWriter> {
        let u8 = Dtype::Other("U8".into(), 8);
        let mut specs = Vec::with_capacity(tensors.len());
        let mut metadata = Vec::with_capacity(tensors.len());
        for (name, shape) in tensors {
            let elements = shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d));
            let elements =
                elements.ok_or_else(|| Error::failed(format!("{}: the shape is too large", quoted(name))))?;
            specs.push(Spec { name: name.clone(), dtype: u8.clone(), shape: vec![elements.div_ceil(8)] });
            let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
            metadata.push((format!("{SHAPE}{name}"), format!("[{}]", dims.join(","))));
        }
        Ok(MaskWriter { writer: StWriter::create(output, &specs, &metadata)?, output: output.to_path_buf() })
    }

    /// Fills the mask of tensor `index` on all threads.
    pub fn write(&self, index: usize, bits: &BitsFn<'_>) -> Result<()> {
        struct Bits<'a>(u64, &'a BitsFn<'a>);
        impl Blocks for Bits<'_> {
            fn bytes(&self) -> u64 {
                self.0
            }
            fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
                (self.1)(offset * 8, out)
            }
        }
        let (temp, at) = (self.writer.temp(), self.writer.position(index));
        let bits = Bits(self.writer.entries()[index].bytes(), bits);
        pump_by(PIECE_BYTES, &bits, temp.file(), temp.path(), at, &Watch::silent())
    }

    /// Waits until the file is on disk.
    pub fn sync(&self) -> Result<()> {
        self.writer.temp().sync()
    }

    /// Puts the file under its name; call [`MaskWriter::sync`] before.
    pub fn commit(self) -> Result<()> {
        self.writer.into_temp().persist(&self.output)
    }
}

#[cfg(test)]
mod tests;
