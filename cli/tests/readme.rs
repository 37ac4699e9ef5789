//! The README's table of methods is what the methods say of themselves. Run with COMPRESS_UPDATE_README=1 to write it.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use common::{Folder, repository};
use serde_json::Value;

mod common;

const BEGIN: &str = "<!-- methods: from their CARDs, held by cli/tests/readme.rs -->\n";
const END: &str = "<!-- end of methods -->\n";

#[test]
fn the_table_of_methods_comes_from_the_cards() {
    let ran = Folder::new().compress(["methods", "--json"]).ok();
    let methods: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    assert!(!methods.is_empty());
    let mut table = "| method | what it does | kind | paper |\n|---|---|---|---|\n".to_string();
    for method in &methods {
        let text = |key: &str| method[key].as_str().unwrap().replace('\n', " ").replace('|', "\\|");
        let row = ["meaning", "kind", "citation"].map(text).join(" | ");
        writeln!(table, "| [`{0}`](plugins/{0}) | {row} |", text("name")).unwrap();
        assert!(repository("plugins").join(text("name")).is_dir(), "{} has no folder of its name", text("name"));
    }
    let path = repository("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has the table's beginning");
    let (found, after) = rest.split_once(END).expect("the README has the table's end");
    if std::env::var_os("COMPRESS_UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(found == table, "README.md lags behind; COMPRESS_UPDATE_README=1 writes:\n{table}");
}
