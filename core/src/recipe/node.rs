//! A TOML document as a tree in written order, every key and value with its line.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// A value with its line.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Flag(bool),
    Date(toml::value::Datetime),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key with its line and value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub line: usize,
    pub node: Node,
}

/// Reads a document. `path` names it in errors: `pipeline.toml:3:9: …`.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<Entry>> {
    let lines = Lines::of(text, path);
    let document = DeTable::parse(text).map_err(|e| {
        let (line, column) = lines.position(text, e.span().map_or(text.len(), |span| span.start));
        let sentence = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::usage(format!("{}:{line}:{column}: this is not TOML: {sentence}", path.display()))
    })?;
    lines.table(document.get_ref())
}

/// The lines of a file.
struct Lines<'a> {
    path: &'a Path,
    /// Byte offsets at which they begin.
    begins: Vec<usize>,
}

impl Lines<'_> {
    fn of<'a>(text: &str, path: &'a Path) -> Lines<'a> {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Lines { path, begins: std::iter::once(0).chain(ends.map(|(i, _)| i + 1)).collect() }
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.begins.partition_point(|begin| *begin <= offset)
    }

    /// Line and column in characters, from 1.
    fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let begin = self.begins[line - 1];
        let column = text.char_indices().skip_while(|(i, _)| *i < begin).take_while(|(i, _)| *i < offset).count() + 1;
        (line, column)
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Vec<Entry>> {
        let mut entries = table
            .iter()
            .map(|(key, value)| {
                let begin = key.span().start;
                let line = self.line(begin);
                Ok((
                    begin,
                    Entry {
                        key: key.get_ref().to_string(),
                        line,
                        node: self.node(value.get_ref(), line, value.span().start)?,
                    },
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        entries.sort_by_key(|(begin, _)| *begin);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    fn node(&self, value: &DeValue<'_>, key_line: usize, begin: usize) -> Result<Node> {
        let line = self.line(begin).max(key_line);
        let number = |kind: &str, text: &str| {
            Error::usage(format!("{}:{line}: the {kind} {text} is out of range", self.path.display()))
        };
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(n) => Value::Integer(
                i128::from_str_radix(n.as_str(), n.radix()).map_err(|_| number("integer", &n.to_string()))?,
            ),
            DeValue::Float(x) => {
                let float: f64 = x.as_str().parse().map_err(|_| number("float", x.as_str()))?;
                if float.is_infinite() && !x.as_str().contains("inf") {
                    return Err(number("float", x.as_str()));
                }
                Value::Float(float)
            }
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(date) => Value::Date(*date),
            DeValue::Array(list) => Value::List(
                list.iter().map(|v| self.node(v.get_ref(), key_line, v.span().start)).collect::<Result<_>>()?,
            ),
            DeValue::Table(table) => Value::Table(self.table(table)?),
        };
        Ok(Node { line, value })
    }
}

impl Node {
    /// What it is, for errors: `the string "four"`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Text(text) if text.chars().count() > 40 => {
                format!("the string \"{}…\"", text.chars().take(40).collect::<String>())
            }
            Value::Text(text) => format!("the string \"{text}\""),
            Value::Integer(n) => format!("the integer {n}"),
            Value::Float(x) => format!("the float {x:?}"),
            Value::Flag(flag) => flag.to_string(),
            Value::Date(date) => format!("the date {date}"),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
        }
    }

    /// As a value of the toml crate; `None` where an integer is too large for TOML.
    pub fn to_toml(&self) -> Option<toml::Value> {
        Some(match &self.value {
            Value::Text(text) => toml::Value::String(text.clone()),
            Value::Integer(n) => toml::Value::Integer(i64::try_from(*n).ok()?),
            Value::Float(x) => toml::Value::Float(*x),
            Value::Flag(flag) => toml::Value::Boolean(*flag),
            Value::Date(date) => toml::Value::Datetime(*date),
            Value::List(list) => toml::Value::Array(list.iter().map(Node::to_toml).collect::<Option<_>>()?),
            Value::Table(entries) => toml::Value::Table(
                entries.iter().map(|e| Some((e.key.clone(), e.node.to_toml()?))).collect::<Option<_>>()?,
            ),
        })
    }

    /// Calls `change` on every string below, with the keys that lead to it (list positions have no key).
    pub fn each_text<'a>(&'a mut self, keys: &mut Vec<&'a str>, change: &mut impl FnMut(&[&str], &mut String)) {
        match &mut self.value {
            Value::Text(text) => change(keys, text),
            Value::List(list) => list.iter_mut().for_each(|node| node.each_text(keys, change)),
            Value::Table(entries) => {
                for entry in entries {
                    keys.push(&entry.key);
                    entry.node.each_text(keys, change);
                    keys.pop();
                }
            }
            _ => {}
        }
    }
}

/// The document in one canonical form: values first, then tables, without comments.
pub(super) fn write(entries: &[Entry]) -> String {
    let mut out = String::new();
    let is_section = |node: &Node| match &node.value {
        Value::Table(_) => true,
        Value::List(list) => !list.is_empty() && list.iter().all(|n| matches!(n.value, Value::Table(_))),
        _ => false,
    };
    for entry in entries.iter().filter(|e| !is_section(&e.node)) {
        write_entry(&mut out, entry);
    }
    for entry in entries.iter().filter(|e| is_section(&e.node)) {
        let mut section = |open: &str, close: &str, node: &Node| {
            out.push_str(&format!("\n{open}{}{close}\n", key(&entry.key)));
            if let Value::Table(entries) = &node.value {
                entries.iter().for_each(|e| write_entry(&mut out, e));
            }
        };
        match &entry.node.value {
            Value::List(list) => list.iter().for_each(|node| section("[[", "]]", node)),
            _ => section("[", "]", &entry.node),
        }
    }
    out
}

fn write_entry(out: &mut String, entry: &Entry) {
    out.push_str(&format!("{} = {}\n", key(&entry.key), inline(&entry.node)));
}

pub(super) fn inline(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => quoted(text),
        Value::Integer(n) => n.to_string(),
        Value::Float(x) => toml::Value::Float(*x).to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Date(date) => date.to_string(),
        Value::List(list) => format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Table(entries) if entries.is_empty() => "{}".into(),
        Value::Table(entries) => {
            let entries: Vec<_> = entries.iter().map(|e| format!("{} = {}", key(&e.key), inline(&e.node))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_string() } else { quoted(name) }
}

/// A basic string on one line.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
