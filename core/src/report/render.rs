//! The report for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::table::Table;
use super::{ClassReport, FactoredTensor, Inspect, Metrics, Report, StagePart, StageReport, StageTensor, Untouched};
use crate::decompress::Decompressed;

/// Characters that a line of a list may have.
const LINE_WIDTH: usize = 120;

/// The report as text: the model, a line or more a stage, the classes, the output, the warnings.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let model = &report.model;
    line(
        &mut out,
        format!(
            "{} ({}): {} bytes, {} prunable weights of {} elements",
            model.path, model.format, model.bytes, model.weights, model.elements
        ),
    );
    // With a single stage the table of the classes at the end says all that the stage's own would.
    let loses = |s: &StageReport| s.classes.iter().any(|c| c.max_error.is_some());
    let with_tables = report.stages.iter().filter(|s| !s.classes.is_empty()).count() > 1;
    let mut shown: &[Untouched] = &[];
    for (i, stage) in report.stages.iter().enumerate() {
        line(&mut out, stage_line(i + 1, stage));
        if (with_tables || loses(stage)) && !stage.classes.is_empty() {
            out.push_str(&stage_table(stage));
        }
        if !stage.parts.is_empty() {
            out.push_str(&part_table(stage));
        }
        if stage.untouched != shown {
            untouched(&mut out, &stage.untouched);
            shown = &stage.untouched;
        }
        stage.warnings.iter().for_each(|text| line(&mut out, format!("warning: stage {}: {text}", i + 1)));
    }
    if !report.classes.is_empty() {
        out.push('\n');
        out.push_str(&class_table(&report.classes));
    }
    output(&mut out, report);
    report.warnings.iter().for_each(|text| line(&mut out, format!("warning: {text}")));
    out
}

fn line(out: &mut String, text: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn output(out: &mut String, report: &Report) {
    let Some(output) = &report.output else { return };
    let (bytes, said) = match (output.bytes, output.predicted_bytes) {
        (Some(bytes), _) => (bytes, "bytes"),
        (None, Some(bytes)) => (bytes, "bytes predicted"),
        (None, None) => return line(out, format!("\n{} ({})", output.path, output.format)),
    };
    let before = report.model.bytes;
    let mut text = format!("\n{} ({}): {bytes} {said}", output.path, output.format);
    if before > 0 && bytes > 0 {
        let _ = write!(text, ", {} of the input", percent(bytes, before));
        if bytes < before {
            let _ = write!(text, " ({:.2}× smaller)", before as f64 / bytes as f64);
        }
    }
    line(out, text);
    for (runs, meaning) in [
        ("faster", "multiplied with as factors, which is faster"),
        ("smaller only", "put together at load: smaller, no faster"),
    ] {
        let named = |f: &FactoredTensor| match &f.seconds {
            Some(s) => {
                let (dense, factors) = (s.dense * 1e3, s.factors * 1e3);
                format!("{} ({dense:.3} → {factors:.3} ms for {} positions)", f.tensor, s.positions)
            }
            None => f.tensor.clone(),
        };
        let tensors: Vec<String> = output.factored.iter().filter(|f| f.runs == runs).map(named).collect();
        if !tensors.is_empty() {
            line(out, format!("{meaning}: {}", tensors.join(", ")));
        }
    }
}

/// `stage 1 magnitude, class-blind 80%: pruned 80 of 100 weights (80.00 %), 72 newly; 0.5 s`.
fn stage_line(number: usize, stage: &StageReport) -> String {
    let mut text = format!("stage {number} {}", stage.kind);
    if !stage.name.is_empty() && stage.name != stage.kind {
        let _ = write!(text, " {}", stage.name);
    }
    let mut asked = Vec::new();
    let selects = stage.parts.is_empty() || stage.asked.contains_key("amount");
    for key in ["scheme", "amount", "pattern", "values"].into_iter().filter(|key| selects || *key != "scheme") {
        match stage.asked.get(key) {
            Some(Value::String(word)) if word == "free" || word == "as they are" => {}
            Some(Value::String(word)) => asked.push(word.clone()),
            Some(Value::Number(number)) => asked.push(number.to_string()),
            Some(Value::Object(by_class)) => {
                let entries = by_class.iter().map(|(glob, amount)| format!("{glob} {}", plain(amount)));
                asked.push(entries.collect::<Vec<_>>().join(", "));
            }
            _ => {}
        }
    }
    if !asked.is_empty() {
        let _ = write!(text, ", {}", asked.join(" "));
    }
    let mut done = Vec::new();
    let sum = |of: fn(&StagePart) -> u64| stage.parts.iter().map(of).sum::<u64>();
    if !stage.parts.is_empty() {
        let (numbers, weights) = (sum(|p| p.parameters), sum(|p| p.weights));
        done.push(format!("{weights} weights encoded by {numbers} numbers ({})", percent(numbers, weights)));
    }
    if let Some(achieved) = stage.achieved.as_ref().filter(|a| selects || a.newly > 0) {
        let count = match stage.asked.get("count").and_then(Value::as_u64) {
            Some(count) if count != achieved.pruned => format!("asked for {count}, "),
            _ => String::new(),
        };
        let share = percent(achieved.pruned, achieved.prunable);
        done.push(format!(
            "{count}pruned {} of {} weights ({share}), {} newly",
            achieved.pruned, achieved.prunable, achieved.newly
        ));
    }
    if !stage.tensors.is_empty() {
        done.push(tensors_text(&stage.tensors));
    }
    if let Some(metrics) = &stage.metrics {
        done.push(metrics_text(metrics));
    }
    if let Some(seconds) = stage.seconds {
        done.push(format!("{seconds:.1} s"));
    }
    if done.is_empty() { text } else { format!("{text}: {}", done.join("; ")) }
}

/// `5 mask × int8, 1 dense; 31375360 → 2611200 bytes`.
fn tensors_text(tensors: &[StageTensor]) -> String {
    let mut ways: Vec<(&str, usize)> = Vec::new();
    for tensor in tensors {
        match ways.iter_mut().find(|(how, _)| *how == tensor.packed) {
            Some((_, count)) => *count += 1,
            None => ways.push((&tensor.packed, 1)),
        }
    }
    let ways: Vec<String> = ways.into_iter().map(|(how, count)| format!("{count} {how}")).collect();
    let sum = |of: fn(&StageTensor) -> u64| tensors.iter().map(of).sum::<u64>();
    format!("tensors: {}; {} → {} bytes", ways.join(", "), sum(|t| t.bytes_before), sum(|t| t.bytes_after))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn metrics_text(metrics: &Metrics) -> String {
    let list = |pairs: &[(String, f64)]| {
        let one = |(name, value): &(String, f64)| match value.is_finite() {
            true => format!("{name} {value:.4}"),
            false => format!("{name} not finite"),
        };
        pairs.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    match metrics.test.is_empty() {
        true => list(&metrics.validation),
        false => format!("{}; test: {}", list(&metrics.validation), list(&metrics.test)),
    }
}

fn part_table(stage: &StageReport) -> String {
    let mut table = Table::new(["part", "weights", "is now", "numbers", "share", "relative error"]).indent(2);
    for part in &stage.parts {
        table.row([
            part.part.clone(),
            part.weights.to_string(),
            part.layout.clone(),
            part.parameters.to_string(),
            percent(part.parameters, part.weights),
            part.relative_error.map(|e| format!("{e:.4}")).unwrap_or_default(),
        ]);
    }
    table.without_empty_columns().to_string()
}

fn stage_table(stage: &StageReport) -> String {
    let headings =
        ["class", "weights", "pruned", "share", "newly", "bytes before", "bytes after", "max error", "relative error"];
    let mut table = Table::new(headings).indent(2);
    let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
    for class in &stage.classes {
        table.row([
            class.name.clone(),
            class.weights.to_string(),
            class.pruned.to_string(),
            percent(class.pruned, class.weights),
            number(class.newly),
            number(class.bytes_before),
            number(class.bytes_after),
            class.max_error.map(|e| format!("{e:.3e}")).unwrap_or_default(),
            class.relative_error.map(|e| format!("{:.3} %", 100.0 * e)).unwrap_or_default(),
        ]);
    }
    table.without_empty_columns().to_string()
}

fn class_table(classes: &[ClassReport]) -> String {
    let mut table = Table::new(["class", "weights", "pruned", "share", "bytes before", "bytes after"]);
    let mut row = |name: &str, weights, pruned, before: Option<u64>, after: Option<u64>| {
        let number = |bytes: Option<u64>| bytes.map(|b| b.to_string()).unwrap_or_default();
        table.row([
            name.to_string(),
            format!("{weights}"),
            format!("{pruned}"),
            percent(pruned, weights),
            number(before),
            number(after),
        ]);
    };
    for c in classes {
        row(&c.name, c.weights, c.pruned, c.bytes_before, c.bytes_after);
    }
    if classes.len() > 1 {
        let sum = |of: fn(&ClassReport) -> Option<u64>| classes.iter().map(of).sum::<Option<u64>>();
        let (weights, pruned) = (sum(|c| Some(c.weights)), sum(|c| Some(c.pruned)));
        let (before, after) = (sum(|c| c.bytes_before), sum(|c| c.bytes_after));
        row("total", weights.unwrap_or(0), pruned.unwrap_or(0), before, after);
    }
    table.without_empty_columns().to_string()
}

/// One line a reason, in the order in which the reasons first occur.
fn untouched(out: &mut String, list: &[Untouched]) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for one in list {
        match reasons.iter_mut().find(|(reason, _)| *reason == one.reason) {
            Some((_, tensors)) => tensors.push(&one.tensor),
            None => reasons.push((&one.reason, vec![&one.tensor])),
        }
    }
    for (reason, tensors) in reasons {
        line(out, wrapped(&format!("  left alone ({reason}): {}", tensors.join(", "))));
    }
}

/// A long list broken at its commas; what follows the first line is indented.
fn wrapped(list: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for (i, word) in list.split_inclusive(", ").enumerate() {
        let long = word.chars().count();
        if i > 0 && width + long > LINE_WIDTH {
            out.truncate(out.trim_end().len());
            out.push_str("\n    ");
            width = 4;
        }
        out.push_str(word);
        width += long;
    }
    out
}

/// `80.00 %`; of nothing, `-`.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.2} %", 100.0 * part as f64 / whole as f64) }
}

/// An inspected model as text: its classes with their sub-groups, then all tensors.
pub fn render_inspect(inspect: &Inspect) -> String {
    let mut out = String::new();
    line(&mut out, format!("{} ({}): {} bytes", inspect.path, inspect.format, inspect.bytes));
    let mut table = Table::new(["class", "weights", "zeros", "share"]);
    for class in &inspect.classes {
        let mut row = |name: String, weights: u64, zeros: u64| {
            table.row([name, weights.to_string(), zeros.to_string(), percent(zeros, weights)]);
        };
        row(class.name.clone(), class.weights, class.zeros);
        class.parts.iter().for_each(|part| row(format!("  {}", part.name), part.weights, part.zeros));
    }
    if !table.is_empty() {
        let _ = write!(out, "\n{table}");
    }
    let mut table =
        Table::new(["tensor", "shape", "dtype", "class", "zeros", "packed"]).left(1).left(2).left(3).left(5);
    for tensor in &inspect.tensors {
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        let class = match (&tensor.class, &tensor.reason) {
            (Some(class), _) => class.clone(),
            (None, Some(reason)) => format!("- ({reason})"),
            (None, None) => "-".into(),
        };
        table.row([
            tensor.name.clone(),
            format!("[{}]", shape.join(", ")),
            tensor.dtype.clone(),
            class,
            tensor.zeros.map(|n| n.to_string()).unwrap_or_default(),
            tensor.packed.clone().unwrap_or_default(),
        ]);
    }
    if !table.is_empty() {
        let _ = write!(out, "\n{}", table.without_empty_columns());
    }
    inspect.warnings.iter().for_each(|text| line(&mut out, format!("warning: {text}")));
    out
}

/// What `compress decompress` did: the tensors that were unpacked, and the bytes.
pub fn render_decompressed(done: &Decompressed, output: &str) -> String {
    let mut out = String::new();
    let mut table = Table::new(["tensor", "was", "bytes before", "bytes after"]).left(1);
    for tensor in &done.tensors {
        let bytes = (tensor.stored_bytes.to_string(), tensor.dense_bytes.to_string());
        table.row([tensor.name.clone(), tensor.layout.to_string(), bytes.0, bytes.1]);
    }
    match table.is_empty() {
        true => line(&mut out, "no tensor is packed: the output is the input, tensor by tensor"),
        false => out += &table.to_string(),
    }
    let before = done.bytes_before;
    line(
        &mut out,
        match done.bytes_after {
            Some(after) => format!("\n{output}: {after} bytes, from {before}"),
            None => format!("\n{output}: not written (dry run); the input has {before} bytes"),
        },
    );
    out
}

/// Metrics for `compress evaluate`: one row a data set.
pub fn render_metrics(metrics: &Metrics) -> String {
    let mut out = String::new();
    for (name, list) in [("validation", &metrics.validation), ("test", &metrics.test)] {
        if !list.is_empty() {
            let cells: Vec<String> = list.iter().map(|(metric, value)| format!("{metric} {value:.4}")).collect();
            out += &format!("{name:10}  {}\n", cells.join("  "));
        }
    }
    out
}
