//! OPERATORS.md is what the code says: run with `COMPRESS_WRITE=1` to write it anew.

use std::fmt::Write;
use std::path::Path;

use compress_engine::ops::{Gradient, supported};

#[test]
fn the_list_of_operators_is_up_to_date() {
    let mut text = String::from(
        "# Operators that the engine runs\n\nGenerated from the code by `COMPRESS_WRITE=1 cargo test -p compress-engine --test all operators`. \
         Every one of them passes the ONNX\nproject's node tests (`tests/all/node_tests.rs`), and those with a gradient agree with finite \
         differences (`tests/all/gradients.rs`).\n\n| operator | gradient |\n|---|---|\n",
    );
    for (name, gradient) in supported() {
        let word = match gradient {
            Gradient::Yes => "yes",
            Gradient::Zero => "zero, or no floats",
            Gradient::Missing => "no",
        };
        writeln!(text, "| {name} | {word} |").expect("writing to a string");
    }
    text.push_str(
        "\n`If` is resolved when the program is planned: its condition must be constant. `BatchNormalization` and `Dropout` run as in\n\
         inference. Sequences, strings, sparse initialisers and `Loop` / `Scan` are refused by name before anything runs.\n",
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("OPERATORS.md");
    if std::env::var_os("COMPRESS_WRITE").is_some() {
        std::fs::write(&path, &text).expect("OPERATORS.md can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "OPERATORS.md is not up to date: run this test with COMPRESS_WRITE=1");
}
