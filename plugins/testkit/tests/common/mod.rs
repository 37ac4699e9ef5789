//! What tests share: building plugins, and methods of a registry as subjects of the suite.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use compress_core::registry::{self, MethodCard, Registered, Registry};
use compress_sdk::caller::Failure;
use compress_sdk::{Encoded, Evidence, Keep, Options, Part};
use compress_testkit::{Instance, Subject};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Compiles C into a library.
pub fn cc(source: &Path, include: &Path, library: &Path, more: &[&str]) {
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2", "-shared", "-fPIC"]).args(more);
    let said = cc.arg("-I").arg(include).arg("-o").arg(library).arg(source).arg("-lm").output().expect("cc runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

/// The header's folder.
pub fn include() -> PathBuf {
    root().join("plugins/sdk/include")
}

/// Where tests keep what cargo builds for them, so that the next run is quick.
pub fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(3).expect("tests lie in <target>/<profile>/deps").join("door")
}

/// `cargo` with these words in a folder.
pub fn cargo(folder: &Path, words: &[&str]) -> std::process::Output {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(words).current_dir(folder).env("CARGO_TARGET_DIR", target()).env("CARGO_NET_OFFLINE", "true");
    let said = cargo.output().expect("cargo runs");
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    said
}

/// The library that cargo made.
pub fn built(name: &str) -> PathBuf {
    target().join("release").join(format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

/// A library in a registry of its own.
pub fn load(path: &Path) -> Registry {
    let mut registry = Registry::new();
    registry.load_library(path).unwrap();
    registry
}

/// The sentence with which something is refused, and that it is the user's to mend.
pub fn refused<T>(result: compress_core::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(e) => {
            assert_eq!(e.status(), 2, "{e}");
            e.to_string()
        }
    }
}

/// A registered method as a subject of the suite.
pub struct Through<'a>(pub &'a Registered);

impl Subject for Through<'_> {
    fn card(&self) -> &MethodCard {
        self.0.card()
    }

    fn create(&self, options: &Options, seed: u64) -> Result<Box<dyn Instance>, Failure> {
        self.0.create(options, seed).map(|i| Box::new(State(i)) as Box<dyn Instance>).map_err(failure)
    }
}

struct State(Box<dyn registry::Instance>);

impl Instance for State {
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<(), Failure> {
        self.0.score(part, evidence, out).map_err(failure)
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded, Failure> {
        self.0.encode(part, keep, evidence).map_err(failure)
    }
}

fn failure(error: compress_core::Error) -> Failure {
    let text = error.to_string();
    if text.contains("panicked: ") { Failure::Panicked(text) } else { Failure::Failed(text) }
}

/// The scores of a matrix by a method with default options.
pub fn scores(method: &Registered, rows: usize, cols: usize, weights: &[f32]) -> compress_core::Result<Vec<f32>> {
    let mut out = vec![f32::NAN; weights.len()];
    let instance = method.create(&method.card().defaults(), 1)?;
    instance.score(&Part::whole("fc1.weight", rows, cols, weights), &Evidence::default(), &mut out)?;
    Ok(out)
}
