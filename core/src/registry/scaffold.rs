//! `compress plugin new NAME`: a crate outside any workspace that builds offline, passes the conformance suite and is
//! found by a recipe of its own. The SDK goes along as source, so that it builds wherever the crate is taken.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Files of the SDK and of the suite, as they were when this program was built.
const VENDORED: &[(&str, &str)] = {
    macro_rules! files {
        ($($folder:literal / $crate_:literal: $($file:literal)*;)*) => {
            &[$($((
                concat!("vendor/", $crate_, "/", $file),
                include_str!(concat!("../../../plugins/", $folder, "/", $file)),
            )),*),*]
        };
    }
    files! {
        "sdk"/"compress-sdk":
            "include/compress.h" "src/abi.rs" "src/bitmap.rs" "src/caller.rs" "src/caller/arena.rs"
            "src/caller/card.rs" "src/card.rs" "src/contract.rs" "src/easy.rs" "src/encoding.rs" "src/error.rs"
            "src/evidence.rs" "src/export.rs" "src/hash.rs" "src/host.rs" "src/lib.rs" "src/method.rs" "src/options.rs" "src/part.rs";
        "testkit"/"compress-testkit":
            "src/encodings.rs" "src/inputs.rs" "src/lib.rs" "src/options.rs" "src/scores.rs";
    }
};

/// The crate's own files; `NAME`, `CRATE`, `LIBRARY` and `VERSION` in them are filled in.
const TEMPLATES: &[(&str, &str)] = &[
    (".gitignore", "/target\n"),
    ("Cargo.toml", include_str!("scaffold/Cargo.toml.txt")),
    ("README.md", include_str!("scaffold/README.md.txt")),
    ("pipeline.toml", include_str!("scaffold/pipeline.toml.txt")),
    ("src/lib.rs", include_str!("scaffold/lib.rs.txt")),
    ("tests/conformance.rs", include_str!("scaffold/conformance.rs.txt")),
    ("vendor/compress-sdk/Cargo.toml", include_str!("scaffold/sdk.toml.txt")),
    ("vendor/compress-testkit/Cargo.toml", include_str!("scaffold/testkit.toml.txt")),
];

/// Words that cannot name a crate.
const TAKEN: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "compress-sdk",
    "compress-testkit",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// Writes the crate of a new method into `folder`/`name` and says what to do with it.
pub fn new_plugin(name: &str, folder: &Path) -> Result<String> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.bytes().all(letters) {
        return Err(Error::usage(format!(
            "\"{name}\" cannot be a method's name; use lower case letters, digits and hyphens, a letter first"
        )));
    }
    if TAKEN.contains(&name) {
        return Err(Error::usage(format!("\"{name}\" cannot be a method's name: a crate cannot be called so")));
    }
    let home = folder.join(name);
    fs::create_dir(&home).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::usage(format!("\"{}\" exists already; take another name or remove it", home.display()))
        }
        _ => Error::io("create the folder", &home, &e),
    })?;
    let crate_name = name.replace('-', "_");
    let library = format!("{}{crate_name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    for (path, text) in TEMPLATES.iter().chain(VENDORED) {
        let filled = if path.starts_with("vendor/") && !path.ends_with(".toml") {
            (*text).to_string()
        } else {
            text.replace("{NAME}", name)
                .replace("{CRATE}", &crate_name)
                .replace("{LIBRARY}", &library)
                .replace("{VERSION}", env!("CARGO_PKG_VERSION"))
        };
        write(&home.join(path), filled.as_bytes())?;
    }
    write(&home.join("model.safetensors"), &model())?;
    let shown = home.strip_prefix(".").unwrap_or(&home).display();
    Ok(format!(
        "{shown}/ holds the new method; it is src/lib.rs. Next:\n\n    cd {shown}\n    cargo test                 # the \
         conformance suite\n    cargo build --release      # makes target/release/{library}\n    compress \
         pipeline.toml     # prunes model.safetensors with it\n"
    ))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, &e))?;
    }
    fs::write(path, bytes).map_err(|e| Error::io("write", path, &e))
}

/// A model of two small layers, always the same, for the recipe to run on.
fn model() -> Vec<u8> {
    let header = r#"{"fc1.weight":{"dtype":"F32","shape":[64,32],"data_offsets":[0,8192]},"fc2.weight":{"dtype":"F32","shape":[10,64],"data_offsets":[8192,10752]}}"#;
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let mut state = 1u32;
    for _ in 0..(64 * 32 + 10 * 64) {
        // A linear congruential generator and the sum of its halves: small numbers, most of them near zero.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let centred = |bits: u32| (bits & 0xffff) as f32 / 65536.0 - 0.5;
        bytes.extend((0.2 * (centred(state >> 16) + centred(state))).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_sdk_and_the_suite_goes_along() {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
        for (folder, name) in [("sdk", "compress-sdk"), ("testkit", "compress-testkit")] {
            let mut open = vec![plugins.join(folder).join("src")];
            while let Some(path) = open.pop() {
                if path.is_dir() {
                    open.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
                    continue;
                }
                let inside = path.strip_prefix(plugins.join(folder)).unwrap().display().to_string();
                let wanted = format!("vendor/{name}/{inside}");
                assert!(VENDORED.iter().any(|(p, _)| *p == wanted), "{wanted} is not in VENDORED");
            }
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        for (name, part) in [
            ("Mine", "\"Mine\" cannot be a method's name; use lower case letters"),
            ("", "cannot be a method's name"),
            ("../evil", "cannot be a method's name"),
            ("match", "a crate cannot be called so"),
        ] {
            let error = new_plugin(name, folder.path()).unwrap_err();
            assert!(error.status() == 2 && error.to_string().contains(part), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        new_plugin("mine", folder.path()).unwrap();
        let error = new_plugin("mine", folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("exists already; take another name or remove it"), "{error}");
    }
}
