//! The file of external data: where each tensor goes in it, and the name that its content gives it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use compress_core::Result;
use compress_core::files::TempFile;
use compress_core::format::{BLOCK_BYTES, Blocks};
use compress_core::progress::Watch;
use compress_core::pump::pump;
use sha2::{Digest, Sha256};

/// The largest alignment that is kept or given: readers map whole pages, and some systems have pages of 64 KiB.
const MAX_ALIGNMENT: u64 = 64 << 10;
/// From this size on, a tensor that comes from elsewhere begins on a page of 4 KiB.
const PAGE_FROM: u64 = 1 << 20;

/// A file of external data on its way out.
pub(crate) struct DataFile {
    /// `None` where only places are counted.
    temp: Option<TempFile>,
    end: u64,
    /// By offset: bytes, and a hash of each block.
    written: BTreeMap<u64, (u64, Vec<u64>)>,
}

impl DataFile {
    pub(crate) fn create(output: &Path, dry: bool) -> Result<Self> {
        let temp = if dry { None } else { Some(TempFile::create(output)?) };
        Ok(DataFile { temp, end: 0, written: BTreeMap::new() })
    }

    /// Reserves the next place for `bytes` bytes. `like` is the offset that they had in the input's file, whose
    /// alignment is kept.
    pub(crate) fn reserve(&mut self, bytes: u64, like: Option<u64>) -> u64 {
        let alignment = match like {
            Some(offset) if offset > 0 => (1 << offset.trailing_zeros().min(63)).min(MAX_ALIGNMENT),
            _ if bytes >= PAGE_FROM => 4096,
            _ => 64,
        };
        let at = self.end.next_multiple_of(alignment);
        self.end = at + bytes;
        at
    }

    /// Whether nothing has a place in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Writes a payload at its place.
    pub(crate) fn write(&mut self, at: u64, blocks: &dyn Blocks) -> Result<()> {
        let Some(temp) = &self.temp else { return Ok(()) };
        let count = blocks.bytes().div_ceil(BLOCK_BYTES as u64) as usize;
        let hashing = Hashing { inner: blocks, hashes: Mutex::new(vec![0; count]) };
        pump(&hashing, temp.file(), temp.path(), at, &Watch::silent())?;
        let hashes = hashing.hashes.into_inner().unwrap_or_else(|e| e.into_inner());
        self.written.insert(at, (blocks.bytes(), hashes));
        Ok(())
    }

    /// Syncs the file; it (`None` in a dry run), its length, and 16 digits that depend on its content alone.
    pub(crate) fn finish(self) -> Result<(Option<TempFile>, u64, String)> {
        if let Some(temp) = &self.temp {
            let io = |e| compress_core::Error::io("write", temp.path(), &e);
            temp.file().set_len(self.end).map_err(io)?;
            temp.sync()?;
        }
        let mut digest = Sha256::new();
        for (at, (bytes, hashes)) in &self.written {
            digest.update(at.to_le_bytes());
            digest.update(bytes.to_le_bytes());
            hashes.iter().for_each(|h| digest.update(h.to_le_bytes()));
        }
        let name = digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok((self.temp, self.end, name))
    }
}

/// Passes blocks on and remembers a hash of each.
struct Hashing<'a> {
    inner: &'a dyn Blocks,
    hashes: Mutex<Vec<u64>>,
}

impl Blocks for Hashing<'_> {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.inner.fill(offset, out)?;
        let hash = hash(out);
        self.hashes.lock().unwrap_or_else(|e| e.into_inner())[offset as usize / BLOCK_BYTES] = hash;
        Ok(())
    }
}

/// A quick hash: four lanes of multiply and fold. It only has to tell files apart that one program wrote.
fn hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |h: u64, w: u64| {
        let wide = u128::from(h ^ w) * u128::from(K | 1);
        (wide as u64) ^ (wide >> 64) as u64 ^ h.rotate_left(23)
    };
    let mut lanes = [1, 2, 3, 4].map(|i: u64| i.wrapping_mul(K) ^ bytes.len() as u64);
    let (chunks, rest) = bytes.as_chunks::<32>();
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let tail = rest.iter().fold(K, |h, b| mix(h, u64::from(*b)));
    lanes.into_iter().fold(tail, mix)
}
