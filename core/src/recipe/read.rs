//! The top of a recipe.

use std::time::Duration;

use super::data::Data;
use super::fields::{Fields, Place};
use super::node::{Entry, Value};
use super::{ModelPaths, Plugins, Recipe, check, read_stage};
use crate::error::Result;

/// Keys of the top level, in the order in which they are usually written.
pub(super) const TOP: [&str; 11] =
    ["model", "output", "mask", "from", "evidence", "seed", "include_1d", "classes", "data", "plugins", "stage"];

/// Reads a whole recipe.
pub(super) fn recipe(entries: &[Entry], text: &str, place: Place<'_>) -> Result<Recipe> {
    let path = place.path.to_path_buf();
    let fields = Fields::new(place, 1, entries);
    fields.only(&TOP)?;
    let recipe = Recipe {
        path,
        text: text.to_string(),
        model: model(&fields)?,
        output: fields.path("output")?,
        mask: fields.path("mask")?,
        from: fields.path("from")?,
        evidence: fields.path("evidence")?,
        seed: fields.integer("seed", 0)?.unwrap_or(1),
        include_1d: fields.flag("include_1d")?.unwrap_or(false),
        classes: classes(&fields)?,
        data: fields.table("data")?.map(|data| Data::read(&data)).transpose()?,
        plugins: fields.table("plugins")?.map(|plugins| self::plugins(&plugins)).transpose()?.unwrap_or_default(),
        stages: read_stage::stages(&fields)?,
    };
    check::recipe(&recipe, &fields)?;
    Ok(recipe)
}

fn model(fields: &Fields<'_>) -> Result<ModelPaths> {
    let Some(node) = fields.get("model") else {
        return Err(fields.missing("model", "the path of the model to compress"));
    };
    match &node.value {
        Value::Text(_) => Ok(ModelPaths::One(fields.place.resolve(fields.place.word("model", node)?))),
        Value::List(list) if list.is_empty() => Err(fields.place.error(node.line, "\"model\" is an empty list")),
        Value::List(_) => {
            let paths = fields.place.words("model", "paths", node)?;
            if let Some(twice) = paths.iter().enumerate().find(|(i, p)| paths[..*i].contains(p)) {
                return Err(fields.place.error(node.line, format!("\"model\" names \"{}\" twice", twice.1)));
            }
            Ok(ModelPaths::Many(paths.iter().map(|p| fields.place.resolve(p)).collect()))
        }
        _ => Err(fields.place.wrong("model", "a path or a list of paths", node)),
    }
}

fn classes(fields: &Fields<'_>) -> Result<Vec<(String, Vec<String>)>> {
    let Some(table) = fields.table("classes")? else { return Ok(Vec::new()) };
    let place = &table.place;
    table
        .entries()
        .iter()
        .map(|e| {
            if e.key.is_empty() {
                return Err(place.error(e.line, "a class has no name"));
            }
            if let Value::Table(below) = &e.node.value {
                return Err(place.error(e.line, dotted(&e.key, below, "a list of globs")));
            }
            let globs = place.words(&e.key, "globs", &e.node)?;
            if globs.is_empty() {
                return Err(place.error(e.line, format!("class \"{}\" has no globs", e.key)));
            }
            Ok((e.key.clone(), globs))
        })
        .collect()
}

/// A class name with a dot that was not quoted: TOML makes tables of it.
pub(super) fn dotted(key: &str, below: &[Entry], expected: &str) -> String {
    match below.first() {
        Some(first) => {
            let name = format!("{key}.{}", first.key);
            format!("\"{key}\" must be {expected}, not a table: a name with a dot needs quotes, \"{name}\"")
        }
        None => format!("\"{key}\" must be {expected}, not an empty table"),
    }
}

fn plugins(fields: &Fields<'_>) -> Result<Plugins> {
    fields.only(&["libraries", "programs", "timeout"])?;
    let mut plugins = Plugins::default();
    for library in fields.words("libraries", "paths")?.unwrap_or_default() {
        plugins.libraries.push(fields.place.resolve(&library));
    }
    if let Some(programs) = fields.table("programs")? {
        for e in programs.entries() {
            let words = programs.place.words(&e.key, "words", &e.node)?;
            if words.is_empty() {
                let sentence = format!("\"{}\" is empty: give the program and its arguments", e.key);
                return Err(programs.place.error(e.line, sentence));
            }
            plugins.programs.push((e.key.clone(), words));
        }
    }
    // A year is long enough, and far from what Duration cannot hold.
    let range = "a number of seconds above 0 and at most 31536000";
    if let Some(seconds) = fields.number("timeout", range, |x| x > 0.0 && x <= 31_536_000.0)? {
        plugins.timeout = Duration::from_secs_f64(seconds);
    }
    Ok(plugins)
}
