//! Durable, atomic output: temp files that hold a lock, folders that are swapped in, leftovers of killed runs.
//!
//! Nothing ever changes under a final name but by one rename. A temp file or folder lies beside the name it is for, as
//! `.<name>.<token>.compress-tmp`, and is locked for as long as its run lives; [`clean_stale`] removes those whose lock
//! can be taken.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

mod folder;
mod os;
mod temp;

pub use folder::TempDir;
pub use os::{copy_range, preallocate, read_exact_at, start_writeback, write_all_at};
pub use temp::{TempFile, clean_stale};

/// Opens a file for positioned reads.
pub fn open(path: &Path) -> Result<File> {
    let io = |e: std::io::Error| Error::io("read", path, &e);
    // Asked before it is opened: opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(io)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() { "a folder" } else { "no ordinary file" };
        return Err(Error::failed(format!("cannot read \"{}\": it is {what}", path.display())));
    }
    File::open(path).map_err(io)
}

/// Whether two paths name one existing file or folder: through links of either kind.
pub fn same_file(a: &Path, b: &Path) -> bool {
    os::same_file(a, b)
}

/// Refuses an output that is one of the inputs under any name (symbolic or hard link), or a folder that holds one.
pub fn refuse_if_input<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let folder = output.canonicalize().ok().filter(|p| p.is_dir());
    for input in inputs {
        if same_file(output, input) {
            return Err(Error::usage(format!(
                "the output \"{}\" is the input \"{}\": give the output a name of its own",
                output.display(),
                input.display()
            )));
        }
        let holds = |p: &Path| folder.as_ref().is_some_and(|f| p.starts_with(f));
        // Both the name and what it points to: replacing the folder would remove either.
        let by_name = absolute_parent(input).is_some_and(|p| holds(&p));
        if by_name || input.canonicalize().is_ok_and(|p| holds(&p)) {
            return Err(Error::usage(format!(
                "the output folder \"{}\" holds the input \"{}\": give the output a name of its own",
                output.display(),
                input.display()
            )));
        }
    }
    Ok(())
}

/// Syncs a folder's entries to disk, so that a rename in it lasts.
pub fn sync_folder(folder: &Path) -> Result<()> {
    os::sync_folder(folder).map_err(|e| Error::io("sync the folder", folder, &e))
}

/// The folder that a path lies in; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn absolute_parent(path: &Path) -> Option<PathBuf> {
    folder_of(path).canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_never_an_input_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let p = |n: &str| dir.path().join(n);
        std::fs::create_dir(p("m")).unwrap();
        std::fs::write(p("m/in"), b"x").unwrap();
        std::fs::write(p("other"), b"x").unwrap();
        std::fs::hard_link(p("m/in"), p("hard")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(p("m/in"), p("soft")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(p("m"), p("msoft")).unwrap();
        for (output, refused) in [
            ("m/in", true),
            ("m/../m/in", true),
            ("hard", true),
            ("soft", true),
            ("msoft/in", true),
            ("m", true),
            ("msoft", true),
            (".", true),
            ("other", false),
            ("new", false),
            ("m/new", false),
            ("none/new", false),
        ] {
            let got = refuse_if_input(&p(output), [p("m/in").as_path()]);
            assert_eq!(got.is_err(), refused, "{output}: {got:?}");
        }
    }
}
