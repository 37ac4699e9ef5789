//! Hashes of model files, for reports, and checksums of blocks.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::progress::Watch;
use crate::report::{hex, sha256_of_files};

/// A checksum of a block, to tell whether it is read again as it was meant.
pub fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// SHA-256 of one file, or of the lines `<sha256>  <name>\n` of several, sorted by name; `None` of no file.
pub fn model_sha256<'a>(files: impl Iterator<Item = (&'a str, &'a Path)>, watch: Watch<'_>) -> Result<Option<String>> {
    let hashes: Vec<(String, String)> =
        files.map(|(name, path)| Ok((name.to_string(), file_sha256(path, watch)?))).collect::<Result<_>>()?;
    Ok(sha256_of_files(&hashes))
}

/// SHA-256 of a file.
pub fn file_sha256(path: &Path, watch: Watch<'_>) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        watch.check()?;
        match file.read(&mut buffer).map_err(|e| Error::io("read", path, &e))? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}
