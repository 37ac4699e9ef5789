//! What the tests of the engine share: where models lie, the Python of the independent readers, tensors of a case.

use std::path::{Path, PathBuf};
use std::process::Command;

use compress_core::stfile::{Entry, StFile};
use compress_engine::import::value;
use compress_engine::real::Real;
use compress_engine::value::Value;

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The translation model beside the repository; `None`, said once, where it is not.
pub fn nmt() -> Option<PathBuf> {
    let folder = repository("../shared/nmt");
    if !folder.exists() {
        eprintln!("SKIPPED: no folder {}", folder.display());
        return None;
    }
    Some(folder)
}

/// The Python that has the independent readers; `None`, said, where it cannot be had.
pub fn python() -> Option<PathBuf> {
    let prepared = Command::new("bash").arg(repository("tests/python/prepare.sh")).output().ok()?;
    let path = String::from_utf8(prepared.stdout).ok()?.trim().to_string();
    if path.is_empty() {
        eprintln!("SKIPPED: the independent readers (Python) cannot be had here");
        return None;
    }
    Some(path.into())
}

/// Tensors by name.
pub type Tensors<R> = Vec<(String, Value<R>)>;

/// A tensor of a file.
pub fn read<R: Real>(file: &StFile, e: &Entry) -> Value<R> {
    let mut bytes = vec![0; e.bytes() as usize];
    file.read_at(e, 0, &mut bytes).unwrap();
    value::<R>(&e.dtype, &bytes, e.shape.iter().map(|d| *d as usize).collect()).unwrap()
}

/// The tensors of a file whose names begin with `kind:`, without that.
pub fn tensors<R: Real>(file: &StFile, kind: &str) -> Tensors<R> {
    let named = file.entries().iter().filter_map(|e| Some((e.name.strip_prefix(kind)?.strip_prefix(':')?, e)));
    named.map(|(name, e)| (name.to_string(), read(file, e))).collect()
}

/// ‖a − b‖ / ‖b‖.
pub fn distance(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>) -> f64 {
    let (d, n) = a.into_iter().zip(b).fold((0.0, 0.0), |(d, n), (a, b)| (d + (a - b) * (a - b), n + b * b));
    (d / n).sqrt()
}
