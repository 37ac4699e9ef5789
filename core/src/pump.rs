//! Pulls a producer's blocks on all threads and writes each where it belongs, in bounded memory.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::files;
use crate::format::{BLOCK_BYTES, Blocks};
use crate::progress::Watch;

/// Threads that hold a block at once: 32 MiB in all.
const MAX_WORKERS: u64 = 32;
/// The disk is set to work each time this many bytes more are written.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Writes all of `blocks` into `out` (named `path` in errors) from byte `at`. Of several errors the one at the lowest
/// offset is returned, whatever the number of threads. A producer that counts its own work is pumped with
/// [`Watch::silent`].
pub fn pump(blocks: &dyn Blocks, out: &File, path: &Path, at: u64, watch: &Watch<'_>) -> Result<()> {
    pump_by(BLOCK_BYTES, blocks, out, path, at, watch)
}

/// [`pump`] in blocks of another length than [`BLOCK_BYTES`], for producers that allow it.
pub fn pump_by(
    block_bytes: usize,
    blocks: &dyn Blocks,
    out: &File,
    path: &Path,
    at: u64,
    watch: &Watch<'_>,
) -> Result<()> {
    let (total, block) = (blocks.bytes(), block_bytes as u64);
    let count = total.div_ceil(block);
    let job = Job { blocks, out, path, at, total, block, watch };
    let workers = count.min(rayon::current_num_threads() as u64).min(MAX_WORKERS);
    if workers <= 1 {
        return with_buffer(total.min(block) as usize, |buffer| (0..count).try_for_each(|i| job.block(i, buffer)));
    }
    let next = AtomicU64::new(0);
    let failed_at = AtomicU64::new(u64::MAX);
    let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    rayon::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|_| {
                with_buffer(total.min(block) as usize, |buffer| {
                    loop {
                        // Blocks are taken in order: those before a failed one are finished, those after it not begun.
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= count || i > failed_at.load(Ordering::Acquire) {
                            return;
                        }
                        if let Err(e) = job.block(i, buffer) {
                            failed_at.fetch_min(i, Ordering::AcqRel);
                            let mut failure = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                            if failure.as_ref().is_none_or(|(first, _)| i < *first) {
                                *failure = Some((i, e));
                            }
                        }
                    }
                });
            });
        }
    });
    match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Lends a buffer of this thread, kept for the next call. Loans may be nested: a producer may run other blocks of the
/// pool on this thread meanwhile.
pub(crate) fn with_buffer<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local!(static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) });
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    let result = work(&mut buffer[..bytes]);
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}

struct Job<'a> {
    blocks: &'a dyn Blocks,
    out: &'a File,
    path: &'a Path,
    at: u64,
    total: u64,
    block: u64,
    watch: &'a Watch<'a>,
}

impl Job<'_> {
    fn block(&self, i: u64, buffer: &mut [u8]) -> Result<()> {
        let offset = i * self.block;
        let n = (self.total - offset).min(self.block) as usize;
        self.blocks.fill(offset, &mut buffer[..n])?;
        files::write_all_at(self.out, &buffer[..n], self.at + offset).map_err(|e| Error::io("write", self.path, &e))?;
        self.watch.tick(n as u64)?;
        // The group before this one: all of it is written by now, or nearly.
        let group = (WRITEBACK_BYTES / self.block).max(1);
        if i >= 2 * group - 1 && (i + 1).is_multiple_of(group) {
            files::start_writeback(self.out, self.at + (i + 1 - 2 * group) * self.block, group * self.block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::progress::{Progress, Unit};

    struct Count(AtomicU64);

    impl Progress for Count {
        fn begin(&self, _: &str, _: u64, _: Unit) {}
        fn advance(&self, units: u64) {
            self.0.fetch_add(units, Ordering::Relaxed);
        }
        fn end(&self) {}
    }

    /// Byte i is a hash of i; fails at the given blocks.
    struct Pattern(u64, Vec<u64>);

    fn byte(i: u64) -> u8 {
        (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }

    impl Blocks for Pattern {
        fn bytes(&self) -> u64 {
            self.0
        }
        fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
            if self.1.contains(&(offset / BLOCK_BYTES as u64)) {
                return Err(Error::failed(format!("block {}", offset / BLOCK_BYTES as u64)));
            }
            out.iter_mut().enumerate().for_each(|(i, o)| *o = byte(offset + i as u64));
            Ok(())
        }
    }

    fn threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(work)
    }

    #[test]
    fn every_size_arrives_whole_with_any_number_of_threads() {
        let block = BLOCK_BYTES as u64;
        for bytes in [0, 1, block - 1, block, block + 1, 19 * block + 5] {
            for n in [1, 3, 8] {
                let temp = tempfile::NamedTempFile::new().unwrap();
                let count = Count(AtomicU64::new(0));
                let watch = Watch { progress: &count, ..Watch::silent() };
                threads(n, || pump(&Pattern(bytes, vec![]), temp.as_file(), temp.path(), 3, &watch)).unwrap();
                let got = std::fs::read(temp.path()).unwrap();
                assert!(got.iter().skip(3).enumerate().all(|(i, b)| *b == byte(i as u64)));
                assert_eq!(got.len() as u64, if bytes == 0 { 0 } else { bytes + 3 });
                assert_eq!(count.0.into_inner(), bytes);
            }
        }
    }

    #[test]
    fn the_first_error_wins_and_cancelling_stops() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        for n in [1, 2, 8] {
            for _ in 0..20 {
                let bad = Pattern(20 * BLOCK_BYTES as u64, vec![17, 3, 4, 5]);
                let e = threads(n, || pump(&bad, temp.as_file(), temp.path(), 0, &Watch::silent())).unwrap_err();
                assert_eq!(e.to_string(), "block 3");
            }
            let watch = Watch { cancelled: &AtomicBool::new(true), ..Watch::silent() };
            let e = threads(n, || pump(&Pattern(1, vec![]), temp.as_file(), temp.path(), 0, &watch)).unwrap_err();
            assert!(matches!(e, Error::Interrupted));
        }
    }
}
