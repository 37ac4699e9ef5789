//! Typed access to the keys of a table, with errors that name file, line, place and key.

use std::path::{Path, PathBuf};

use super::node::{Entry, Node, Value};
use crate::error::{Error, Result, did_you_mean};

/// Where a table stands.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    /// The file.
    pub path: &'a Path,
    /// What the table is, for errors: `stage 2`, `[data]`; empty at the top.
    pub name: String,
}

/// The keys of one table.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    pub place: Place<'a>,
    line: usize,
    entries: &'a [Entry],
}

impl<'a> Place<'a> {
    /// An error at a line of this place.
    pub fn error(&self, line: usize, sentence: impl std::fmt::Display) -> Error {
        let path = self.path.display();
        match self.name.as_str() {
            "" => Error::usage(format!("{path}:{line}: {sentence}")),
            name => Error::usage(format!("{path}:{line}: {name}: {sentence}")),
        }
    }

    /// A place within this one.
    pub fn within(&self, name: impl std::fmt::Display) -> Place<'a> {
        let name = if self.name.is_empty() { name.to_string() } else { format!("{}: {name}", self.name) };
        Place { path: self.path, name }
    }

    /// The table of a key: `[data]`, `[data.bleu]`, `stage 2: retrain`.
    fn table(&self, key: &str) -> Place<'a> {
        match self.name.strip_suffix(']') {
            Some(outer) => Place { path: self.path, name: format!("{outer}.{key}]") },
            None if self.name.is_empty() => self.within(format!("[{key}]")),
            None => self.within(key),
        }
    }

    /// The path of a file that the recipe names, relative to the recipe's folder.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// `"key" must be <expected>, not <found>`.
    pub fn wrong(&self, key: &str, expected: &str, node: &Node) -> Error {
        self.error(node.line, format!("\"{key}\" must be {expected}, not {}", node.describe()))
    }

    /// A string.
    pub fn text(&self, key: &str, node: &'a Node) -> Result<&'a str> {
        match &node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong(key, "a string", node)),
        }
    }

    /// A string that is not empty.
    pub fn word(&self, key: &str, node: &'a Node) -> Result<&'a str> {
        match self.text(key, node)? {
            "" => Err(self.error(node.line, format!("\"{key}\" is empty"))),
            text => Ok(text),
        }
    }

    /// A list of strings that are not empty.
    pub fn words(&self, key: &str, what: &str, node: &'a Node) -> Result<Vec<String>> {
        match &node.value {
            Value::List(list) => list.iter().map(|n| self.word(key, n).map(str::to_string)).collect(),
            Value::Text(text) => {
                Err(self.error(node.line, format!("\"{key}\" must be a list of {what}: write [\"{text}\"]")))
            }
            _ => Err(self.wrong(key, &format!("a list of {what}"), node)),
        }
    }

    /// An integer within a range.
    pub fn integer<T>(&self, key: &str, least: T, node: &Node) -> Result<T>
    where
        T: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        let Value::Integer(n) = node.value else { return Err(self.wrong(key, "an integer", node)) };
        match T::try_from(n) {
            Ok(n) if n >= least => Ok(n),
            _ if n > 0 => Err(self.error(node.line, format!("\"{key}\" is too large: {n}"))),
            _ => Err(self.error(node.line, format!("\"{key}\" must be {least} or more, not {n}"))),
        }
    }

    /// A finite number, with a condition and the words for it.
    pub fn number(&self, key: &str, node: &Node, range: &str, fits: impl Fn(f64) -> bool) -> Result<f64> {
        let x = match node.value {
            Value::Integer(n) => n as f64,
            Value::Float(x) => x,
            _ => return Err(self.wrong(key, "a number", node)),
        };
        if x.is_finite() && fits(x) { Ok(x) } else { Err(self.wrong(key, range, node)) }
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, key: &str, node: &'a Node, all: &[T], name: impl Fn(T) -> &'static str) -> Result<T> {
        let text = self.text(key, node)?;
        all.iter().copied().find(|v| name(*v) == text).ok_or_else(|| {
            let names = || all.iter().map(|v| name(*v));
            self.error(node.line, format!("\"{key}\" is \"{text}\"{}", suggest(text, names)))
        })
    }
}

/// What to say after an unknown word: the nearest known one, or all of them.
pub(super) fn suggest<'n, I: Iterator<Item = &'n str>>(word: &str, known: impl Fn() -> I) -> String {
    match did_you_mean(word, known()) {
        near if near.is_empty() => {
            let known: Vec<_> = known().collect();
            match known.split_last() {
                Some((last, [])) => format!(": only {last} is known"),
                Some((last, rest)) => format!(": known are {} and {last}", rest.join(", ")),
                None => String::new(),
            }
        }
        near => near,
    }
}

impl<'a> Fields<'a> {
    /// The keys of a table; `line` is where it begins.
    pub fn new(place: Place<'a>, line: usize, entries: &'a [Entry]) -> Fields<'a> {
        Fields { place, line, entries }
    }

    /// The keys of a value that must be a table.
    pub fn of(place: &Place<'a>, key: &str, node: &'a Node) -> Result<Fields<'a>> {
        match &node.value {
            Value::Table(entries) => Ok(Fields::new(place.table(key), node.line, entries)),
            _ => Err(place.wrong(key, "a table", node)),
        }
    }

    /// Refuses keys that are not `known`.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.entries.iter().find(|e| !known.contains(&e.key.as_str())) {
            None => Ok(()),
            Some(e) => {
                let near = suggest(&e.key, || known.iter().copied());
                Err(self.place.error(e.line, format!("unknown key \"{}\"{near}", e.key)))
            }
        }
    }

    /// An error at the table's first line.
    pub fn error(&self, sentence: impl std::fmt::Display) -> Error {
        self.place.error(self.line, sentence)
    }

    /// An error at a key's line.
    pub fn error_at(&self, key: &str, sentence: impl std::fmt::Display) -> Error {
        self.place.error(self.entry(key).map_or(self.line, |e| e.line), sentence)
    }

    /// An error for a key that must be there: `"key" is missing: <what>`.
    pub fn missing(&self, key: &str, what: &str) -> Error {
        self.error(format!("\"{key}\" is missing: {what}"))
    }

    /// All keys in written order.
    pub fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// The line on which the table begins.
    pub fn line(&self) -> usize {
        self.line
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.entry(key).map(|e| &e.node)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A table below.
    pub fn table(&self, key: &str) -> Result<Option<Fields<'a>>> {
        self.get(key).map(|node| Fields::of(&self.place, key, node)).transpose()
    }

    /// A string that is not empty.
    pub fn word(&self, key: &str) -> Result<Option<String>> {
        self.get(key).map(|node| self.place.word(key, node).map(str::to_string)).transpose()
    }

    /// A path, relative to the recipe's folder.
    pub fn path(&self, key: &str) -> Result<Option<PathBuf>> {
        Ok(self.word(key)?.map(|text| self.place.resolve(&text)))
    }

    /// A list of strings that are not empty.
    pub fn words(&self, key: &str, what: &str) -> Result<Option<Vec<String>>> {
        self.get(key).map(|node| self.place.words(key, what, node)).transpose()
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|node| match node.value {
                Value::Flag(flag) => Ok(flag),
                _ => Err(self.place.wrong(key, "true or false", node)),
            })
            .transpose()
    }

    /// An integer that is at least `least`.
    pub fn integer<T>(&self, key: &str, least: T) -> Result<Option<T>>
    where
        T: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        self.get(key).map(|node| self.place.integer(key, least, node)).transpose()
    }

    /// A finite number, with a condition and the words for it.
    pub fn number(&self, key: &str, range: &str, fits: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        self.get(key).map(|node| self.place.number(key, node, range, fits)).transpose()
    }

    /// One of some words.
    pub fn choice<T: Copy>(&self, key: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<Option<T>> {
        self.get(key).map(|node| self.place.choice(key, node, all, name)).transpose()
    }
}
