//! safetensors files and sharded folders, read and written as streams.
//!
//! A model is one `*.safetensors` file, or a folder of shards with an index (`model.safetensors.index.json`), named by the
//! folder or by its index. The output takes the same form. Only headers are held in memory; tensors are read and
//! written at their positions. PyTorch's pairs `X_orig`, `X_mask` (`torch.nn.utils.prune`) are one pruned tensor `X`.

use std::path::Path;

use compress_core::Result;
use compress_core::format::{Format, OpenOptions, PackedLayout, Source, ValueCoding};

mod folder;
mod index;
mod legacy;
mod model;
mod packed;
mod pairs;
mod shard;
mod sink;
mod staged;

/// The format, for core's registry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Safetensors;

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn recognises(&self, path: &Path) -> bool {
        if path.is_dir() {
            return folder::looks_like_model(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(index::SUFFIX) || begins_like_one(path)
    }

    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
        Ok(Box::new(model::Model::open(path, options.max_expand)?))
    }

    fn stores(&self, _: PackedLayout, _: ValueCoding) -> bool {
        true
    }
}

/// A plausible length, and an object after it.
fn begins_like_one(path: &Path) -> bool {
    let Ok(file) = compress_core::files::open(path) else { return false };
    let mut start = [0; 9];
    if compress_core::files::read_exact_at(&file, &mut start, 0).is_err() {
        return false;
    }
    let (length, text) = start.split_at(8);
    let length = length.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    length <= compress_core::stfile::MAX_HEADER_BYTES && text == b"{"
}
