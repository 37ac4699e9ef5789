//! report.json and report.csv of a study.

use serde_json::{Map, Value, json};

use super::groups::{Cellular, Results};
use super::plan::Kind;
use crate::report::{from_toml, hex, now};
use sha2::{Digest, Sha256};

/// `report.json`.
pub fn json(results: &Results<'_>) -> String {
    let cells: Vec<Value> = results.cells.iter().map(|c| cell(results, c)).collect();
    let groups: Vec<Value> = results
        .groups
        .iter()
        .map(|g| {
            let metrics: Map<String, Value> = g
                .metrics
                .iter()
                .map(|(split, list)| {
                    let list: Map<String, Value> = list.iter().map(|(n, s)| (n.clone(), json!(s))).collect();
                    (split.clone(), Value::Object(list))
                })
                .collect();
            let mut value = json!({
                "candidate": g.candidate, "kind": g.kind.name(), "sweep": sweep(&g.sweep),
                "bytes": g.bytes, "zstd_bytes": g.zstd_bytes, "metrics": metrics, "pareto": g.pareto,
            });
            put(&mut value, "pruned", g.pruned.map(Value::from));
            put(&mut value, "bleu_difference", (!g.bleu.is_empty()).then(|| json!(g.bleu)));
            value
        })
        .collect();
    let study = results.study;
    let mut report = json!({
        "cells": cells,
        "answer": results.answer,
        "groups": groups,
        "quality_on": results.split,
        "notes": notes(results),
    });
    let failed: Vec<Value> = results.failures.iter().map(|f| json!({"cell": f.label, "error": f.sentence})).collect();
    put(&mut report, "failed", (!failed.is_empty()).then_some(Value::Array(failed)));
    put(&mut report, "inputs", Some(json!(results.inputs)));
    let compress = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "study": study.text,
        "study_sha256": hex(&Sha256::digest(study.text.as_bytes())),
        "cpu": results.cells.first().and_then(|c| c.report.pointer("/compress/cpu").cloned()),
    });
    put(&mut report, "compress", Some(compress));
    put(&mut report, "written_at", Some(now().into()));
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    text
}

/// What the reader must know to read the figures.
pub fn notes(results: &Results<'_>) -> Vec<String> {
    let mut notes = results.notes.clone();
    match (results.metric.is_some(), results.split) {
        (false, _) => notes.push(
            "nothing here measures quality: a model without a graph needs evaluate = { command = […] }, and a graph needs \
             [data]"
                .into(),
        ),
        (true, "test") => notes.push("quality is that on test; the answer is chosen on validation".into()),
        (true, _) => notes.push(
            "there is no test set: the figures that the answer is chosen by are those that are reported, which flatters \
             what is chosen"
                .into(),
        ),
    }
    if results.groups.iter().any(|g| g.pruned.is_some_and(|p| p > 0.05)) {
        notes.push(
            "free sparsity is no faster: a runtime multiplies zeros like any other number; what a packed file gains is bytes, \
             and it pays for them once, at load"
                .into(),
        );
    }
    notes
}

fn put(value: &mut Value, key: &str, what: Option<Value>) {
    if let (Some(map), Some(what)) = (value.as_object_mut(), what) {
        map.insert(key.into(), what);
    }
}

fn sweep(sweep: &[(String, toml::Value)]) -> Map<String, Value> {
    sweep.iter().map(|(name, value)| (name.clone(), from_toml(value))).collect()
}

fn cell(results: &Results<'_>, cell: &Cellular) -> Value {
    let mut value = json!({
        "candidate": cell.candidate,
        "kind": cell.kind.name(),
        "sweep": sweep(&cell.sweep),
        "seed": cell.seed,
        "bytes": cell.done.bytes,
        "zstd_bytes": cell.done.zstd_bytes,
        "metrics": cell.done.metrics,
        "key": cell.key,
        "seconds": cell.done.seconds,
        "cpu_seconds": cell.done.cpu_seconds,
        "peak_bytes": cell.done.peak_bytes,
        "zstd_level": cell.done.zstd_level,
    });
    let dense = results.cells.first().and_then(|c| c.timing);
    put(&mut value, "timing", cell.timing.map(|t| json!(t)));
    if let (Some(own), Some(dense)) = (cell.timing, dense)
        && cell.kind != Kind::Dense
    {
        let against = json!({
            "load": own.load_seconds / dense.load_seconds,
            "run": own.run_seconds.zip(dense.run_seconds).map(|(a, b)| a / b),
        });
        put(&mut value, "timing_against_dense", Some(against));
    }
    put(&mut value, "bleu_difference", (!cell.bleu.is_empty()).then(|| json!(cell.bleu)));
    put(&mut value, "report", Some(cell.report.clone()));
    value
}

/// `report.csv`: a line a cell, columns by name, swept values and metrics each in one of their own.
pub fn csv(results: &Results<'_>) -> String {
    let mut swept: Vec<&str> = Vec::new();
    let mut metrics: Vec<(&str, &str)> = Vec::new();
    for cell in &results.cells {
        swept.extend(cell.sweep.iter().map(|(n, _)| n.as_str()).filter(|n| !swept.contains(n)).collect::<Vec<_>>());
        for (split, list) in [("validation", &cell.done.metrics.validation), ("test", &cell.done.metrics.test)] {
            for (name, _) in list {
                if !metrics.contains(&(split, name.as_str())) {
                    metrics.push((split, name));
                }
            }
        }
    }
    metrics.sort_by_key(|(split, _)| *split == "test");
    let mut head: Vec<String> = vec!["candidate".into(), "kind".into()];
    head.extend(swept.iter().map(|n| n.to_string()));
    head.extend(["seed", "bytes", "zstd_bytes", "pruned"].map(str::to_string));
    head.extend(metrics.iter().map(|(split, name)| format!("{split}_{name}")));
    head.extend(["bleu_difference", "bleu_low", "bleu_high"].map(str::to_string));
    head.extend(["load_seconds", "run_seconds", "seconds", "cpu_seconds", "key"].map(str::to_string));
    let mut out = line(&head);
    for cell in &results.cells {
        let mut row = vec![cell.candidate.clone(), cell.kind.name().to_string()];
        for name in &swept {
            let value = cell.sweep.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            row.push(value.map_or(String::new(), |v| v.as_str().map_or_else(|| v.to_string(), str::to_string)));
        }
        row.extend([cell.seed.to_string(), cell.done.bytes.to_string(), cell.done.zstd_bytes.to_string()]);
        row.push(number(super::groups::pruned(&cell.report)));
        for (split, name) in &metrics {
            let list = if *split == "test" { &cell.done.metrics.test } else { &cell.done.metrics.validation };
            row.push(number(list.iter().find(|(n, _)| n == name).map(|(_, v)| *v)));
        }
        let bleu = cell.bleu.get(results.split);
        row.extend([number(bleu.map(|b| b.difference)), number(bleu.map(|b| b.low)), number(bleu.map(|b| b.high))]);
        row.push(number(cell.timing.map(|t| t.load_seconds)));
        row.push(number(cell.timing.and_then(|t| t.run_seconds)));
        row.extend([number(Some(cell.done.seconds)), number(Some(cell.done.cpu_seconds)), cell.key.clone()]);
        out += &line(&row);
    }
    out
}

fn number(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or(String::new(), |v| v.to_string())
}

/// A line of RFC 4180, but for the plain newline.
fn line(cells: &[String]) -> String {
    let quoted = cells.iter().map(|cell| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_csv_are_quoted_where_they_must_be() {
        let cells = ["plain", "a,b", "say \"x\"", ""].map(str::to_string);
        assert_eq!(line(&cells), "plain,\"a,b\",\"say \"\"x\"\"\",\n");
    }
}
