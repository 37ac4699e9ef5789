//! What the fuzz targets do with their bytes. The seeds are replayed through the same functions by an ordinary test
//! (`cli/tests/fuzz_seeds.rs`): nothing may panic, hang, or ask for more memory than the bytes justify.

use std::path::{Path, PathBuf};

use compress_core::class::resolve::ClassMap;
use compress_core::format::{CreateOptions, Format, OpenOptions};
use compress_core::mask::MaskFile;
use compress_core::model::Model;
use compress_core::recipe::Recipe;

/// Bytes as a .onnx file: opened, classified, read, and written again.
pub fn onnx(data: &[u8]) {
    model(&compress_onnx::Onnx, "model.onnx", data);
}

/// Bytes as a .safetensors file: opened, classified, read, and written again.
pub fn safetensors(data: &[u8]) {
    model(&compress_safetensors::Safetensors, "model.safetensors", data);
}

/// Bytes as a recipe.
pub fn recipe(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Recipe::parse(text, Path::new("pipeline.toml"));
    }
}

/// Bytes as a mask file.
pub fn mask(data: &[u8]) {
    let path = scratch("fuzz.masks.safetensors");
    std::fs::write(&path, data).expect("the scratch folder is writable");
    let Ok(masks) = MaskFile::open(&path) else { return };
    let names: Vec<String> = masks.tensors().map(|(name, _)| name.to_string()).collect();
    for name in names {
        let _ = masks.read_bits(&name, 0, &mut [0; 64]);
    }
}

fn model(format: &dyn Format, name: &str, data: &[u8]) {
    let path = scratch(name);
    std::fs::write(&path, data).expect("the scratch folder is writable");
    let Ok(model) = Model::open(&[format], &[path], &OpenOptions::default()) else { return };
    let _ = ClassMap::resolve(model.tensors(), model.roles(), &[], true);
    let mut buffer = vec![0; 4096];
    for (id, info) in model.tensors().iter().enumerate() {
        let bytes = info.dense_bytes();
        for offset in [0, bytes / 2, bytes.saturating_sub(4096)] {
            let len = (bytes - offset).min(4096) as usize;
            let _ = model.read_at(id, offset, &mut buffer[..len]);
        }
    }
    let output = scratch(&format!("out-{name}"));
    if let Ok(sink) = model.sources()[0].create(&output, &CreateOptions { force: true, ..CreateOptions::default() })
        && let Ok(staged) = sink.finish()
    {
        let again = staged.reopen().expect("what was written without a change opens again");
        assert_eq!(again.tensors().len(), model.tensors().len());
    }
}

/// A file of this process in memory.
fn scratch(name: &str) -> PathBuf {
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let folder = base.join(format!("compress-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&folder).expect("the scratch folder can be made");
    folder.join(name)
}
