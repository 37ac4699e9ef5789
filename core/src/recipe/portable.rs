//! The recipe as it may travel within a packed model.

use std::path::Path;

use super::node::{self, Node, Value};
use crate::error::Result;

/// The canonical text of a recipe, without comments, paths cut to file names.
pub(super) fn text(text: &str, path: &Path) -> Result<String> {
    let mut root = Node { line: 1, value: Value::Table(node::parse(text, path)?) };
    root.each_text(&mut Vec::new(), &mut |keys, text| {
        if holds_path(keys, text) {
            *text = file_name(text).to_string();
        }
    });
    match &root.value {
        Value::Table(entries) => Ok(node::write(entries)),
        _ => Ok(String::new()),
    }
}

/// Whether a string at these keys is a path, or may be one.
fn holds_path(keys: &[&str], text: &str) -> bool {
    match keys {
        ["model" | "output" | "mask" | "from" | "evidence"] => true,
        ["data", "train" | "validation" | "test"] | ["data", "bleu", "vocabulary"] => true,
        ["data", "bleu", "references", ..] | ["plugins", "libraries" | "programs", ..] => true,
        [.., "command"] | [.., "distil", "teacher"] => true,
        [.., "options", _] => text.starts_with(['/', '~', '.']),
        _ => false,
    }
}

/// What stands after the last separator.
fn file_name(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
}
