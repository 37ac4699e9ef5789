//! ONNX models: wire-level reading and writing, the graph as roles.
//!
//! A file is parsed by a wire reader of our own ([`wire`]) into a [`model`] whose payloads stay in the file. Writing
//! ([`writer`]) splices: what does not change is copied as the bytes that it was, so nothing that we do not understand
//! is lost, and a run without changes gives an equal file.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use compress_core::Result;
use compress_core::format::{Format, OpenOptions, PackedLayout, Source, ValueCoding};

mod list;
pub mod model;
mod packed;
mod pair;
mod roles;
mod source;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod writer;

pub use source::OnnxSource;

/// The format ONNX.
#[derive(Clone, Copy, Debug, Default)]
pub struct Onnx;

impl Format for Onnx {
    fn name(&self) -> &'static str {
        "onnx"
    }

    fn recognises(&self, path: &Path) -> bool {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("onnx") => true,
            Some("safetensors" | "json" | "toml") => false,
            _ => path.is_file() && begins_like_a_model(path),
        }
    }

    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
        Ok(Box::new(OnnxSource::open(path, options)?))
    }

    fn stores(&self, layout: PackedLayout, values: ValueCoding) -> bool {
        let _ = (layout, values);
        true
    }
}

/// Exporters write the IR version first, then a field of the model: `08 <version> <tag>`.
fn begins_like_a_model(path: &Path) -> bool {
    let mut head = [0; 3];
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut head));
    let fields = [0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72];
    read.is_ok() && head[0] == 0x08 && (1..64).contains(&head[1]) && fields.contains(&head[2])
}
