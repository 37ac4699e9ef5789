//! `compress plugin new`: what it writes builds outside the workspace, passes the suite and is found by its recipe.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use common::{Through, cargo, load, scores};
use compress_core::registry::scaffold::new_plugin;
use compress_testkit::conformance_of;

mod common;

#[test]
fn a_new_plugin_builds_passes_the_suite_and_is_found_by_its_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let said = new_plugin("first-try", folder.path()).unwrap();
    assert!(said.contains("cargo test") && said.contains("cargo build --release"), "{said}");
    let home = folder.path().join("first-try");

    let target = home.join("target");
    let words = ["build", "--quiet", "--release", "--target-dir", target.to_str().unwrap()];
    let start = Instant::now();
    cargo(&home, &words);
    assert!(start.elapsed().as_secs() < 60, "an author's first build takes {:?}", start.elapsed());
    println!("an author's first build takes {:.1} s", start.elapsed().as_secs_f64());
    cargo(&home, &["test", "--quiet", "--target-dir", target.to_str().unwrap()]);

    let recipe: toml::Table = std::fs::read_to_string(home.join("pipeline.toml")).unwrap().parse().unwrap();
    let library = home.join(recipe["plugins"]["libraries"][0].as_str().unwrap());
    let registry = load(&library);
    let method = registry.get(recipe["stage"][0]["method"].as_str().unwrap()).unwrap();
    conformance_of(&Through(method));
    assert_eq!(scores(method, 1, 2, &[1.0, -2.0]).unwrap(), [1.0, 2.0]);

    // A panic inside a library comes back with its text, the method and the tensor.
    let source = home.join("src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    let text = text.replace("|w| w.abs()", "|w| if w < 9.0 { w.abs() } else { panic!(\"no weight is {w}\") }");
    std::fs::write(&source, text.replace("\"first-try\"", "\"second-try\"")).unwrap();
    let again = home.join("again");
    cargo(&home, &["build", "--quiet", "--release", "--target-dir", again.to_str().unwrap()]);
    let library = again.join("release").join(library.file_name().unwrap()).canonicalize().unwrap();
    let registry = load(&library);
    let error = scores(registry.get("second-try").unwrap(), 1, 2, &[1.0, 10.0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "\"fc1.weight\": method \"second-try\" of \"{}\" panicked: no weight is 10 (src/lib.rs:10); this is a mistake \
             in the method, tell its author",
            library.display()
        )
    );
}
