//! What all tests of the binary share: a folder of their own, the run, what it printed, the independent readers.
#![allow(dead_code)] // each test crate uses its part
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

pub mod onnx;
pub mod st;

/// The repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` where a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Ran { code: o.status.code(), out: text(&o.stdout), err: text(&o.stderr) }
    }
}

impl Ran {
    /// It did what was asked, without a word on stderr but warnings.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(self.err.lines().all(|l| l.starts_with("warning: ")), "{}", self.err);
        self
    }

    /// It was refused: nothing on stdout, one line on stderr that has all these words, never a panic.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        let sentence = self.err.strip_prefix("error: ").unwrap_or_else(|| panic!("no error: {self:?}"));
        assert_eq!(sentence.trim_end().lines().count(), 1, "not one sentence: {self:?}");
        assert!(!sentence.contains("panicked") && !sentence.contains("os error"), "{sentence}");
        for word in words {
            assert!(sentence.contains(word), "\"{word}\" is missing in: {sentence}");
        }
        self
    }
}

/// A folder that goes with the test.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temp folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A command that starts in this folder.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_compress"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// `compress` with these arguments, in this folder.
    pub fn compress<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ran {
        self.command(args).output().expect("the binary starts").into()
    }

    /// Writes `p.toml` and runs it with more arguments.
    pub fn recipe(&self, text: &str, args: &[&str]) -> Ran {
        self.write("p.toml", text);
        self.compress(["p.toml"].iter().chain(args))
    }

    /// Every file, folder and link with what it holds.
    pub fn listing(&self) -> BTreeMap<String, String> {
        fn walk(root: &Path, at: &Path, all: &mut BTreeMap<String, String>) {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_dir() {
                    all.insert(name, "folder".into());
                    walk(root, &path, all);
                } else if kind.is_symlink() {
                    all.insert(name, format!("-> {}", std::fs::read_link(&path).unwrap().display()));
                } else if kind.is_file() {
                    all.insert(name, sha256(&std::fs::read(&path).unwrap()));
                } else {
                    all.insert(name, "special".into());
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(self.0.path(), self.0.path(), &mut all);
        all
    }

    /// The names directly in it.
    pub fn names(&self) -> Vec<String> {
        names(self.0.path())
    }
}

/// The names directly in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

/// As lower-case digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Small seeded numbers (SplitMix64), the same everywhere.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From −1 to 1.
    pub fn float(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// `n` floats, never 0.
    pub fn floats(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.float() + 1e-9).collect()
    }
}

/// The Python that has the independent readers; `None`, said once, where it cannot be had.
pub fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let prepared = Command::new(repository("tests/python/prepare.sh")).output().ok()?;
        let path = String::from_utf8(prepared.stdout).ok()?.trim().to_string();
        (!path.is_empty()).then(|| path.into())
    });
    if found.is_none() {
        eprintln!("SKIPPED: the independent readers (Python) cannot be had here");
    }
    found.as_deref()
}

/// Lets the independent readers judge: each job is the command line of tests/python/check_model.py. `None` where they
/// cannot be had, else what each printed.
#[track_caller]
pub fn judge(jobs: &[Vec<String>]) -> Option<Vec<String>> {
    let python = python()?;
    let mut child = Command::new(python)
        .arg(repository("cli/tests/common/judge.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    let jobs = serde_json::to_vec(jobs).unwrap();
    child.stdin.take().unwrap().write_all(&jobs).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(serde_json::from_slice(&done.stdout).expect("a list of texts"))
}

/// The words of a job for [`judge`].
#[macro_export]
macro_rules! job {
    ($($word:expr),* $(,)?) => { vec![$(std::path::Path::new(&$word).display().to_string()),*] };
}
