//! Small models for the tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use compress_core::format::{Blocks, Content, CreateOptions, Format, OpenOptions, Source};
use compress_core::{Error, Result};
use compress_safetensors::Safetensors;

/// A file of a header and data.
pub fn raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    std::fs::write(path, bytes).unwrap();
}

/// A file of tensors (name, dtype, shape, data).
pub fn file(path: &Path, tensors: &[(&str, &str, &[u64], Vec<u8>)]) {
    let (mut items, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        items.push(format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":{offsets:?}}}"));
        data.extend_from_slice(bytes);
    }
    raw(path, &format!("{{{}}}", items.join(", ")), &data);
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    Safetensors.open(path, &OpenOptions::default())
}

pub fn read(source: &dyn Source, name: &str) -> Vec<u8> {
    let id = source.tensors().iter().position(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
    let mut out = vec![0; source.tensors()[id].dense_bytes() as usize];
    source.read_at(id, 0, &mut out).unwrap();
    out
}

/// Bytes in memory as a producer.
pub struct Bytes(pub Vec<u8>);

impl Blocks for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0[offset as usize..offset as usize + out.len()]);
        Ok(())
    }
}

/// Writes a model like `input` with some tensors' bytes replaced.
pub fn rewrite(input: &Path, output: &Path, new: &[(&str, Vec<u8>)]) -> Result<()> {
    let source = open(input)?;
    let mut sink = source.create(output, &CreateOptions { force: true, ..Default::default() })?;
    for (id, info) in source.tensors().iter().enumerate() {
        if let Some((_, bytes)) = new.iter().find(|(name, _)| *name == info.name) {
            sink.put(id, Content::Dense(&Bytes(bytes.clone())))?;
        }
    }
    let staged = sink.finish()?;
    let again = staged.reopen()?;
    if again.tensors().len() != source.tensors().len() {
        return Err(Error::failed("tensors were lost"));
    }
    let bytes: u64 = staged.files().iter().map(|f| f.bytes).sum();
    assert_eq!(bytes, again.files().iter().map(|f| f.bytes).sum::<u64>());
    staged.commit()
}

/// All files below a folder, sorted, with their bytes.
pub fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(
                tree(&path).into_iter().map(|(p, b)| (path.file_name().map(PathBuf::from).unwrap().join(p), b)),
            );
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            found.push((path.file_name().map(PathBuf::from).unwrap(), bytes));
        }
    }
    found.sort();
    found
}
