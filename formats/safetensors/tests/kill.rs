//! Killed at any moment, there is the old output or the new one, whole.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{file, open, read, rewrite, tree};
use compress_core::files::clean_stale;

const ELEMENTS: u64 = 100_000;

fn bytes(generation: u8) -> Vec<u8> {
    vec![generation; ELEMENTS as usize]
}

/// Not a test by itself: writes one generation after the other until it is killed.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child() {
    let Some(root) = std::env::var_os("COMPRESS_KILL_TEST").map(PathBuf::from) else { return };
    for generation in (0..=255).cycle() {
        for (input, output) in [("folder", "out"), ("one.safetensors", "out.safetensors")] {
            let output = root.join(output);
            clean_stale(&output).unwrap();
            let new = ["a", "b", "c"].map(|name| (name, bytes(generation)));
            rewrite(&root.join(input), &output, &new).unwrap();
        }
    }
}

fn generation(path: &Path) -> u8 {
    let source = open(path).unwrap();
    let first = read(&*source, "a");
    for name in ["a", "b", "c"] {
        assert!(read(&*source, name) == bytes(first[0]), "{} is torn at {name}", path.display());
    }
    first[0]
}

#[test]
fn a_killed_run_leaves_the_old_output_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let input = root.join("folder");
    std::fs::create_dir(&input).unwrap();
    let tensor = |name: &'static str| (name, "U8", &[ELEMENTS][..], bytes(0));
    file(&root.join("one.safetensors"), &[tensor("a"), tensor("b"), tensor("c")]);
    file(&input.join("1.safetensors"), &[tensor("a"), tensor("b")]);
    file(&input.join("2.safetensors"), &[tensor("c")]);
    let map = r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#;
    std::fs::write(input.join("model.safetensors.index.json"), map).unwrap();
    let outputs = ["out", "out.safetensors"].map(|n| root.join(n));
    for (i, output) in [("folder", &outputs[0]), ("one.safetensors", &outputs[1])] {
        rewrite(&root.join(i), output, &[]).unwrap();
    }
    let before = tree(root).len();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..400_u64 {
        // Forty rounds, and more on a busy machine where no child came far enough yet.
        if round >= 40 && seen.len() > 1 {
            break;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env("COMPRESS_KILL_TEST", root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros((5_000 + round * 7919 % 60_000) * (1 + round / 40)));
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        for output in &outputs {
            seen.insert(generation(output));
            clean_stale(output).unwrap();
            generation(output);
        }
        assert_eq!(tree(root).len(), before, "something is left after round {round}");
    }
    assert!(seen.len() > 1, "no run came far enough to show anything: {seen:?}");
}
