//! The stages of a recipe.

use compress_sdk::card::EvidenceKind;

use super::fields::{Fields, suggest};
use super::node::{Entry, Node, Value};
use super::read::{TOP, dotted};
use super::stage::*;
use super::training::{Command, Retrain, Schedule};
use crate::amount::{Amount, FORMS, Quantity};
use crate::error::{Error, Result};

/// The keys that say what a stage does, each with all keys that may stand beside it.
const KINDS: [(&str, &[&str]); 6] = [
    (
        "method",
        &["scheme", "amount", "pattern", "classes", "options", "allow_empty", "schedule", "retrain", "residual"],
    ),
    ("measure", &["options"]),
    ("retrain", &[]),
    ("reinitialise", &[]),
    ("evaluate", &[]),
    ("encode", &["values", "classes"]),
];

/// Reads `[[stage]]`.
pub(super) fn stages(fields: &Fields<'_>) -> Result<Vec<Stage>> {
    let Some(node) = fields.get("stage") else { return Ok(Vec::new()) };
    let Value::List(list) = &node.value else {
        return Err(fields.place.error(node.line, "\"stage\" must be a list of tables: write [[stage]]"));
    };
    list.iter().enumerate().map(|(i, node)| stage(fields, i + 1, node)).collect()
}

fn stage(top: &Fields<'_>, number: usize, node: &Node) -> Result<Stage> {
    let Value::Table(entries) = &node.value else { return Err(top.place.wrong("stage", "a table", node)) };
    let fields = Fields::new(top.place.within(format!("stage {number}")), node.line, entries);
    let kind = match kind_key(&fields)? {
        "method" => StageKind::Method(method(&fields)?),
        "measure" => StageKind::Measure(measure(&fields)?),
        "retrain" => StageKind::Retrain(retrain(&fields)?.ok_or_else(|| fields.missing("retrain", "a table"))?),
        "reinitialise" => StageKind::Reinitialise(reinitialise(&fields)?),
        "evaluate" => StageKind::Evaluate(evaluate(&fields)?),
        _ => StageKind::Encode(encode(&fields)?),
    };
    Ok(Stage { number, line: fields.line(), seed: fields.integer("seed", 0)?, kind })
}

/// Which of [`KINDS`] the stage is; all its keys belong to that kind.
fn kind_key(fields: &Fields<'_>) -> Result<&'static str> {
    let known =
        || KINDS.iter().flat_map(|(key, more)| std::iter::once(key).chain(more.iter())).copied().chain(["seed"]);
    if let Some(e) = fields.entries().iter().find(|e| !known().any(|k| k == e.key)) {
        let hint = if TOP.contains(&e.key.as_str()) {
            ": it belongs at the top of the file, before the first table".into()
        } else {
            suggest(&e.key, known)
        };
        return Err(fields.error_at(&e.key, format!("unknown key \"{}\"{hint}", e.key)));
    }
    let mut present = KINDS.iter().filter(|(key, _)| fields.has(key));
    let Some((kind, beside)) = present.next() else {
        let kinds: Vec<_> = KINDS.iter().map(|(key, _)| *key).collect();
        return Err(fields.error(format!("it does not say what to do: give one of {}", kinds.join(", "))));
    };
    if let Some((other, _)) = present.find(|(key, _)| !beside.contains(key)) {
        return Err(fields.error_at(other, format!("both \"{kind}\" and \"{other}\": give each a stage of its own")));
    }
    match fields
        .entries()
        .iter()
        .map(|e| e.key.as_str())
        .find(|key| key != kind && *key != "seed" && !beside.contains(key))
    {
        None => Ok(kind),
        Some(key) => {
            let owners: Vec<_> =
                KINDS.iter().filter(|(_, more)| more.contains(&key)).map(|(k, _)| format!("\"{k}\"")).collect();
            let sentence = format!("\"{key}\" does not go with \"{kind}\", only with {}", owners.join(" and "));
            Err(fields.error_at(key, sentence))
        }
    }
}

fn everything() -> Vec<String> {
    vec!["*".into()]
}

/// `classes`: at least one glob.
fn classes(fields: &Fields<'_>) -> Result<Vec<String>> {
    match fields.words("classes", "globs")? {
        Some(globs) if globs.is_empty() => {
            Err(fields.error_at("classes", "\"classes\" is empty: no weight would match"))
        }
        globs => Ok(globs.unwrap_or_else(everything)),
    }
}

fn method(fields: &Fields<'_>) -> Result<MethodStage> {
    let stage = MethodStage {
        method: fields.word("method")?.ok_or_else(|| fields.missing("method", "a method's name"))?,
        scheme: fields.choice("scheme", &Scheme::ALL, Scheme::name)?.unwrap_or_default(),
        amount: fields.get("amount").map(|node| amounts(fields, node)).transpose()?,
        pattern: fields.get("pattern").map(|node| pattern(fields, node)).transpose()?.unwrap_or_default(),
        classes: classes(fields)?,
        options: options(fields)?,
        allow_empty: fields.words("allow_empty", "globs")?.unwrap_or_default(),
        schedule: fields.table("schedule")?.map(|schedule| Schedule::read(&schedule)).transpose()?,
        retrain: retrain(fields)?,
        residual: fields.flag("residual")?.unwrap_or(false),
    };
    if stage.schedule.is_some() && stage.retrain.is_none() {
        return Err(fields.error_at("schedule", "\"schedule\" needs \"retrain\" in the same stage"));
    }
    if stage.schedule.is_some() && stage.amount.is_none() {
        return Err(fields.error_at("schedule", "\"schedule\" needs \"amount\": what is to be reached in steps"));
    }
    if let (Some(Schedule { recover: 1.., .. }), Some(Retrain::Command { .. })) = (&stage.schedule, &stage.retrain) {
        let sentence = "\"recover\" counts epochs of the engine: a command decides its epochs itself";
        return Err(fields.error_at("schedule", sentence));
    }
    if let (Pattern::NofM { n, m }, Some(amount)) = (stage.pattern, &stage.amount) {
        let agrees = match amount {
            Amounts::All(Amount { quantity: Quantity::Share(share), .. }) => {
                share.times_is(u64::from(m), u64::from(m - n))
            }
            _ => false,
        };
        if !agrees {
            let sentence = format!("pattern \"{n}:{m}\" alone says how much goes: leave \"amount\" out");
            return Err(fields.error_at("amount", sentence));
        }
    }
    Ok(stage)
}

fn retrain(fields: &Fields<'_>) -> Result<Option<Retrain>> {
    fields.get("retrain").map(|node| Retrain::read(&fields.place, node)).transpose()
}

fn amounts(fields: &Fields<'_>, node: &Node) -> Result<Amounts> {
    let Value::Table(entries) = &node.value else {
        return Ok(Amounts::All(amount(node).map_err(|e| fields.place.error(node.line, e))?));
    };
    if entries.is_empty() {
        return Err(fields.place.error(node.line, "\"amount\" is an empty table: name classes, or \"*\" for all"));
    }
    let place = fields.place.within("amount");
    let one = |e: &Entry| {
        if let Value::Table(below) = &e.node.value {
            return Err(place.error(e.line, dotted(&e.key, below, "an amount")));
        }
        let amount = amount(&e.node).map_err(|error| place.error(e.line, format!("\"{}\": {error}", e.key)))?;
        if amount.is_size() {
            let sentence =
                format!("\"{}\": \"{amount}\" is a size of the whole output: by class only shares and counts", e.key);
            return Err(place.error(e.line, sentence));
        }
        Ok((e.key.clone(), amount))
    };
    Ok(Amounts::ByClass(entries.iter().map(one).collect::<Result<_>>()?))
}

fn amount(node: &Node) -> Result<Amount> {
    match &node.value {
        Value::Text(text) => Amount::from_text(text),
        Value::Integer(n) => Amount::from_integer(*n),
        Value::Float(x) => Amount::from_float(*x),
        _ => Err(Error::usage(format!("\"amount\" must be {FORMS}, not {}", node.describe()))),
    }
}

fn pattern(fields: &Fields<'_>, node: &Node) -> Result<Pattern> {
    let text = fields.place.text("pattern", node)?;
    let pair = |separator| {
        let (a, b) = text.split_once(separator)?;
        let number = |s: &str| if s.bytes().all(|b| b.is_ascii_digit()) { s.parse::<u32>().ok() } else { None };
        Some((number(a)?, number(b)?))
    };
    match text {
        "free" => return Ok(Pattern::Free),
        "row" => return Ok(Pattern::Row),
        "column" => return Ok(Pattern::Column),
        _ => {}
    }
    if let Some((n, m)) = pair(':') {
        if 0 < n && n < m {
            return Ok(Pattern::NofM { n, m });
        }
        let sentence = format!("pattern \"{text}\" is out of range: n:m keeps n of each m weights, so 0 < n < m");
        return Err(fields.place.error(node.line, sentence));
    }
    if let Some((rows, cols)) = pair('x') {
        if rows > 0 && cols > 0 {
            return Ok(Pattern::Block { rows, cols });
        }
        return Err(fields
            .place
            .error(node.line, format!("pattern \"{text}\" is out of range: a block has no side of 0")));
    }
    let near = crate::error::did_you_mean(text, ["free", "row", "column"]);
    let sentence = match near.as_str() {
        "" => format!("pattern \"{text}\" is not known: write \"free\", \"2:4\", \"row\", \"column\" or \"4x1\""),
        near => format!("pattern \"{text}\" is not known{near}"),
    };
    Err(fields.place.error(node.line, sentence))
}

fn options(fields: &Fields<'_>) -> Result<toml::Table> {
    let Some(table) = fields.table("options")? else { return Ok(toml::Table::new()) };
    let one = |e: &Entry| {
        let value = e.node.to_toml();
        let error = || table.place.error(e.line, format!("\"{}\" holds an integer that is too large", e.key));
        Ok((e.key.clone(), value.ok_or_else(error)?))
    };
    table.entries().iter().map(one).collect()
}

fn measure(fields: &Fields<'_>) -> Result<MeasureStage> {
    let options = fields.table("options")?;
    if let Some(options) = &options {
        options.only(&["examples", "batch"])?;
    }
    let number = |key| options.as_ref().map_or(Ok(None), |o| o.integer(key, 1u64));
    Ok(MeasureStage {
        kinds: named_list(fields, "measure", "statistics", &EvidenceKind::ALL, EvidenceKind::name)?,
        examples: number("examples")?.unwrap_or(1024),
        batch: number("batch")?.unwrap_or(1),
    })
}

/// A list of known words, none of them twice, at least one.
fn named_list<T: Copy + PartialEq>(
    fields: &Fields<'_>,
    key: &str,
    what: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str + Copy,
) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for word in fields.words(key, what)?.unwrap_or_default() {
        let Some(one) = all.iter().copied().find(|v| name(*v) == word) else {
            let near = suggest(&word, || all.iter().map(|v| name(*v)));
            return Err(fields.error_at(key, format!("\"{key}\" names \"{word}\"{near}")));
        };
        if found.contains(&one) {
            return Err(fields.error_at(key, format!("\"{key}\" names \"{word}\" twice")));
        }
        found.push(one);
    }
    if found.is_empty() {
        return Err(fields.error_at(key, format!("\"{key}\" is empty: name at least one of its {what}")));
    }
    Ok(found)
}

fn reinitialise(fields: &Fields<'_>) -> Result<Initialise> {
    let table = fields.table("reinitialise")?.ok_or_else(|| fields.missing("reinitialise", "a table"))?;
    table.only(&["uniform", "normal"])?;
    let uniform = table.number("uniform", "above 0", |x| x > 0.0)?;
    let normal = table.number("normal", "above 0", |x| x > 0.0)?;
    match (uniform, normal) {
        (Some(x), None) => Ok(Initialise::Uniform(x)),
        (None, Some(x)) => Ok(Initialise::Normal(x)),
        _ => {
            Err(table
                .error("give either \"uniform\" (the largest absolute value) or \"normal\" (the standard deviation)"))
        }
    }
}

fn evaluate(fields: &Fields<'_>) -> Result<Evaluate> {
    let node = fields.get("evaluate").ok_or_else(|| fields.missing("evaluate", "a list of metrics"))?;
    match &node.value {
        Value::Table(_) => {
            let table = Fields::of(&fields.place, "evaluate", node)?;
            table.only(&["command"])?;
            let words = table.get("command").ok_or_else(|| table.missing("command", "a list of words"))?;
            Ok(Evaluate::Command(Command::read(&table.place, words)?))
        }
        _ => Ok(Evaluate::Metrics(named_list(fields, "evaluate", "metrics", &Metric::ALL, Metric::name)?)),
    }
}

fn encode(fields: &Fields<'_>) -> Result<EncodeStage> {
    let layout = fields.choice("encode", &EncodeLayout::ALL, EncodeLayout::name)?;
    let values = fields.get("values").map(|node| values(fields, node)).transpose()?.unwrap_or_default();
    Ok(EncodeStage { layout: layout.unwrap_or(EncodeLayout::Auto), values, classes: classes(fields)? })
}

fn values(fields: &Fields<'_>, node: &Node) -> Result<EncodeValues> {
    let text = fields.place.text("values", node)?;
    if let Some(bits) = text.strip_prefix("codebook:") {
        return match bits.parse::<u8>() {
            Ok(bits @ 1..=8) => Ok(EncodeValues::Codebook(bits)),
            _ => Err(fields.place.error(node.line, format!("\"values\" is \"{text}\": a codebook has 1 to 8 bits"))),
        };
    }
    match text {
        "f32" => Ok(EncodeValues::F32),
        "f16" => Ok(EncodeValues::F16),
        "bf16" => Ok(EncodeValues::Bf16),
        "int8" => Ok(EncodeValues::Int8),
        "codebook" => {
            Err(fields.place.error(node.line, "\"values\" is \"codebook\" without bits: write \"codebook:4\""))
        }
        _ => {
            let near = suggest(text, || ["f32", "f16", "bf16", "int8", "codebook:4"].into_iter());
            Err(fields.place.error(node.line, format!("\"values\" is \"{text}\"{near}")))
        }
    }
}
