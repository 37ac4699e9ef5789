//! What the standard library lacks or spells differently on each system. The only `unsafe` of core's file handling.

use std::fs::File;
use std::io;
use std::path::Path;

/// Fills `out` from byte `at`; an end of the file before that is [`io::ErrorKind::UnexpectedEof`].
pub fn read_exact_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, out, at);
    #[cfg(windows)]
    {
        let (mut out, mut at) = (out, at);
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => (out, at) = (&mut out[n..], at + n as u64),
            }
        }
        Ok(())
    }
}

/// Writes all of `data` at byte `at`, from any thread.
pub fn write_all_at(file: &File, data: &[u8], at: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, data, at);
    #[cfg(windows)]
    {
        let (mut data, mut at) = (data, at);
        while !data.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(file, data, at)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => (data, at) = (&data[n..], at + n as u64),
            }
        }
        Ok(())
    }
}

/// Sets a new file's length and reserves its blocks, so that a full disk is met before the work.
pub fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    reserve(file, bytes)
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let Ok(len) = libc::off_t::try_from(bytes) else { return Err(io::ErrorKind::FileTooLarge.into()) };
    if len == 0 {
        return Ok(());
    }
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    // Not posix_fallocate: where the file system cannot reserve, that writes a byte into every block.
    let status = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) };
    match if status == 0 { None } else { io::Error::last_os_error().raw_os_error() } {
        None | Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINTR | libc::EINVAL | libc::ENODEV) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

/// Starts writing a range to disk without waiting for it, so that the sync at the end is short. A hint only.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn start_writeback(file: &File, at: u64, bytes: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(at), Ok(bytes)) = (at.try_into(), bytes.try_into()) else { return };
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), at, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Starts writing a range to disk without waiting for it: nothing on this system.
#[cfg(not(target_os = "linux"))]
pub fn start_writeback(_: &File, _: u64, _: u64) {}

/// Copies `bytes` bytes between positions of two files, inside the kernel where it can (some file systems then share the
/// blocks). A source that ends before is [`io::ErrorKind::UnexpectedEof`].
pub fn copy_range(from: &File, from_at: u64, to: &File, to_at: u64, bytes: u64) -> io::Result<()> {
    let done = copy_in_kernel(from, from_at, to, to_at, bytes)?;
    let mut buffer = vec![0; (bytes - done).min(1 << 20) as usize];
    let mut at = done;
    while at < bytes {
        let n = (bytes - at).min(buffer.len() as u64) as usize;
        read_exact_at(from, &mut buffer[..n], from_at + at)?;
        write_all_at(to, &buffer[..n], to_at + at)?;
        at += n as u64;
    }
    Ok(())
}

/// How much it could copy: anything from nothing to all.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn copy_in_kernel(from: &File, from_at: u64, to: &File, to_at: u64, bytes: u64) -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let mut done = 0;
    while done < bytes {
        let (Ok(mut source), Ok(mut target)) =
            (libc::off64_t::try_from(from_at + done), libc::off64_t::try_from(to_at + done))
        else {
            return Ok(done);
        };
        let want = (bytes - done).min(1 << 30) as usize;
        // SAFETY: both descriptors are open for as long as the files are borrowed; the offsets are locals that the call
        // may update.
        let n = unsafe {
            libc::copy_file_range(from.as_raw_fd(), &raw mut source, to.as_raw_fd(), &raw mut target, want, 0)
        };
        match n {
            1.. => done += n as u64,
            // The end of the source, or a file system that cannot and says so by 0: reading tells which.
            0 => break,
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => return Err(e),
                _ => break,
            },
        }
    }
    Ok(done)
}

#[cfg(not(target_os = "linux"))]
fn copy_in_kernel(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<u64> {
    Ok(0)
}

/// Exchanges two names in one step; `false` where the system or file system cannot.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let name = |p: &Path| std::ffi::CString::new(p.as_os_str().as_bytes());
    let (a, b) = (name(a)?, name(b)?);
    // SAFETY: both names end in a zero byte and outlive the call.
    let status =
        unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) };
    if status == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) => Ok(false),
        e => Err(e),
    }
}

/// Exchanges two names in one step: this system cannot.
#[cfg(not(target_os = "linux"))]
pub fn exchange(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Whether two paths name one file.
pub fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |p: &Path| std::fs::metadata(p).map(|m| (m.dev(), m.ino())).ok();
        id(a).is_some_and(|i| Some(i) == id(b))
    }
    #[cfg(not(unix))]
    {
        a.canonicalize().is_ok_and(|p| b.canonicalize().is_ok_and(|q| p == q))
    }
}

/// Whether an open file is still what its name means.
pub fn still_named(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (Ok(a), Ok(b)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Syncs a folder's entries.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return match File::open(folder)?.sync_all() {
        // Some file systems cannot sync a folder; then there is nothing to be done about it.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    };
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_copied_exactly_and_an_early_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(dir.path().join("a"), &data).unwrap();
        let a = File::open(dir.path().join("a")).unwrap();
        for (from, to, bytes) in [(0, 0, 0), (1, 7, 1), (5, 0, 2_999_995), (1000, 4096, 1_500_000)] {
            let b =
                File::options().create(true).truncate(true).read(true).write(true).open(dir.path().join("b")).unwrap();
            preallocate(&b, to + bytes).unwrap();
            copy_range(&a, from, &b, to, bytes).unwrap();
            let got = std::fs::read(dir.path().join("b")).unwrap();
            assert_eq!(got.len() as u64, to + bytes);
            assert!(got[to as usize..] == data[from as usize..(from + bytes) as usize]);
            start_writeback(&b, 0, to + bytes);
        }
        let b = File::create(dir.path().join("c")).unwrap();
        let e = copy_range(&a, 10, &b, 0, 3_000_000).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
    }
}
