//! Holds the layout of the workspace: who may import whom.
//!
//! ```text
//! plugins/<method> -> plugins/sdk <- core <- formats/*, engine <- cli
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates of the workspace that each crate may import; methods are found by their folder.
fn allowed(name: &str, folder: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "compress-sdk" => &[],
        "compress-testkit" => &["compress-sdk"],
        "compress-core" => &["compress-sdk"],
        "compress-safetensors" | "compress-onnx" | "compress-page" => &["compress-core"],
        "compress-engine" => &["compress-core", "compress-sdk", "compress-onnx"],
        "compress-cli" => return None,
        _ if folder.starts_with("plugins/") => &["compress-sdk"],
        _ => &[],
    })
}

/// What must never be reached from core, not even through others.
const FOREIGN_TO_CORE: [&str; 6] = ["clap", "indicatif", "gemm", "faer", "prost", "safetensors"];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// Normal dependencies by package name, of all packages that cargo knows.
fn imports(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut imports = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        let normal = list(&package["dependencies"]).iter().filter(|d| d["kind"].is_null());
        imports.insert(text(&package["name"]).to_string(), normal.map(|d| text(&d["name"]).to_string()).collect());
    }
    imports
}

#[test]
fn crates_import_only_what_the_layout_allows() {
    let metadata = metadata();
    let root = text(&metadata["workspace_root"]).to_string() + "/";
    let imports = imports(&metadata);
    let members: BTreeMap<&str, String> = list(&metadata["packages"])
        .iter()
        .filter(|p| p["source"].is_null())
        .map(|p| (text(&p["name"]), text(&p["manifest_path"]).replacen(&root, "", 1)))
        .collect();
    assert!(members.len() >= 8, "{members:?}");
    for (name, folder) in &members {
        let Some(allowed) = allowed(name, folder) else { continue };
        for import in imports[*name].iter().filter(|i| members.contains_key(i.as_str())) {
            assert!(allowed.contains(&import.as_str()), "{name} ({folder}) must not import {import}");
        }
    }
}

#[test]
fn core_knows_no_command_line_and_no_tensor_library() {
    let imports = imports(&metadata());
    let mut reached = BTreeSet::new();
    let mut open = vec!["compress-core".to_string()];
    while let Some(name) = open.pop() {
        if reached.insert(name.clone()) {
            open.extend(imports.get(&name).into_iter().flatten().cloned());
        }
    }
    for foreign in FOREIGN_TO_CORE {
        assert!(!reached.contains(foreign), "core reaches {foreign}");
    }
}
