//! What `compress methods` prints. All of it comes from the CARDs.

use compress_sdk::{EvidenceKind, Need, OptionValue, Reach, Units};
use serde_json::{Map, Value, json};

use super::{MethodCard, OptionKind, Origin, Registered, Registry};

/// All methods: name, kind, meaning, paper, origin.
pub fn list(registry: &Registry) -> String {
    let names = registry.iter().map(|m| m.card.name.chars().count()).max().unwrap_or(0);
    let kinds = registry.iter().map(|m| kind(&m.card).len()).max().unwrap_or(0);
    let mut text = String::new();
    for method in registry.iter() {
        let card = &method.card;
        let indent = " ".repeat(names + 2);
        text += &format!("{:names$}  {:kinds$}  {}\n", card.name, kind(card), card.meaning);
        text += &format!("{indent}{}\n{indent}{}\n", card.citation, origin(&method.origin));
    }
    text
}

/// One method: equation, what it needs, options, an example stage.
pub fn detail(method: &Registered) -> String {
    let card = &method.card;
    let mut text = format!("{}: {}\n\n    {}\n\n", card.name, card.meaning, card.equation.replace('\n', "\n    "));
    let reach = match card.reach {
        Reach::Weight => "each weight by itself",
        Reach::Row => "whole rows",
        Reach::Part => "whole parts",
    };
    let mut line = |name: &str, value: &str| text += &format!("{name:<9} {value}\n");
    line("paper", &card.citation);
    line("kind", kind(card));
    line("sees", reach);
    if !card.evidence.is_empty() {
        line("evidence", &card.evidence.iter().map(need).collect::<Vec<_>>().join(", "));
    }
    line("random", if card.random { "its result depends on the seed" } else { "no" });
    line("from", &origin(&method.origin));
    if !card.options.is_empty() {
        text += "\noptions\n";
        let width = card.options.iter().map(|o| o.name.len()).max().unwrap_or(0);
        for o in &card.options {
            let default = toml_value(&o.kind.default_value());
            text += &format!("  {:width$}  {} ({}; default {default})\n", o.name, o.meaning, o.kind.allowed());
        }
    }
    text + "\nexample\n\n" + &indented(&example(method))
}

/// A recipe's lines that use the method, with its defaults.
pub fn example(method: &Registered) -> String {
    let card = &method.card;
    let mut text = match &method.origin {
        Origin::BuiltIn => String::new(),
        Origin::Library(path) => format!("[plugins]\nlibraries = [{}]\n\n", quoted(&path.display().to_string())),
        Origin::Program(words) => {
            let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
            format!("[plugins]\nprograms = {{ {} = [{}] }}\n\n", card.name, words.join(", "))
        }
    };
    let defaults = card.defaults();
    let wanted = |k: EvidenceKind| card.lacks(&defaults, |other| other != k).is_some();
    let needed: Vec<String> = (card.evidence.iter())
        .filter(|(k, n)| *n == Need::OneOf || wanted(*k))
        .map(|(k, _)| quoted(k.name()))
        .collect();
    if !needed.is_empty() {
        text += &format!("[[stage]]\nmeasure = [{}]\n\n", needed.join(", "));
    }
    text += &format!("[[stage]]\nmethod = \"{}\"\n", card.name);
    if card.scores || card.selects {
        text += "amount = \"80%\"\n";
    }
    if !card.options.is_empty() {
        let options = card.options.iter().map(|o| format!("{} = {}", o.name, toml_value(&o.kind.default_value())));
        text += &format!("options = {{ {} }}\n", options.collect::<Vec<_>>().join(", "));
    }
    text
}

/// All methods for tools.
pub fn json(registry: &Registry) -> Value {
    registry.iter().map(json_of).collect()
}

/// One method for tools.
pub fn json_of(method: &Registered) -> Value {
    let card = &method.card;
    let origin = match &method.origin {
        Origin::BuiltIn => json!({ "kind": "built-in" }),
        Origin::Library(path) => json!({ "kind": "library", "path": path.display().to_string() }),
        Origin::Program(words) => json!({ "kind": "program", "command": words }),
    };
    let evidence = |(k, n): &(EvidenceKind, Need)| {
        let mut need = json!({ "kind": k.name(), "required": *n == Need::Required });
        if *n == Need::OneOf {
            need["one_of"] = true.into();
        }
        need
    };
    json!({
        "name": card.name,
        "kind": kind(card),
        "meaning": card.meaning,
        "citation": card.citation,
        "equation": card.equation,
        "reach": match card.reach { Reach::Weight => "weight", Reach::Row => "row", Reach::Part => "part" },
        "units": match card.units { Units::Magnitude => "magnitude", Units::Other => "other" },
        "scores": card.scores,
        "encodes": card.encodes,
        "selects": card.selects,
        "random": card.random,
        "thread_safe": card.thread_safe,
        "evidence": card.evidence.iter().map(evidence).collect::<Value>(),
        "options": card.options.iter().map(option_json).collect::<Value>(),
        "origin": origin,
        "example": example(method),
    })
}

fn option_json(option: &super::OptionInfo) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.into(), value);
    put("name", json!(option.name));
    put("meaning", json!(option.meaning));
    match &option.kind {
        OptionKind::Integer { default, min, max } => {
            put("type", json!("integer"));
            put("default", json!(default));
            put("min", json!(min));
            put("max", json!(max));
        }
        OptionKind::Float { default, min, max } => {
            put("type", json!("float"));
            put("default", json!(default));
            put("min", json!(min));
            put("max", json!(max));
        }
        OptionKind::Flag { default } => {
            put("type", json!("flag"));
            put("default", json!(default));
        }
        OptionKind::Choice { default, choices } => {
            put("type", json!("choice"));
            put("default", json!(default));
            put("choices", json!(choices));
        }
        OptionKind::Text { default } => {
            put("type", json!("text"));
            put("default", json!(default));
        }
    }
    Value::Object(map)
}

fn kind(card: &MethodCard) -> &'static str {
    match (card.selects, card.scores, card.encodes) {
        (true, _, _) => "selects and encodes",
        (_, true, true) => "scores and encodes",
        (_, _, true) => "encodes",
        _ => "scores",
    }
}

fn need((kind, need): &(EvidenceKind, Need)) -> String {
    match need {
        Need::Required => kind.name().into(),
        Need::Optional => format!("{} (if there is any)", kind.name()),
        Need::OneOf => format!("{} (or another of these)", kind.name()),
    }
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::BuiltIn => "built-in".into(),
        Origin::Library(path) => path.display().to_string(),
        Origin::Program(words) => format!("program: {}", words.join(" ")),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn toml_value(value: &OptionValue) -> String {
    match value {
        OptionValue::Integer(v) => toml::Value::Integer(*v),
        OptionValue::Float(v) => toml::Value::Float(*v),
        OptionValue::Flag(v) => toml::Value::Boolean(*v),
        OptionValue::Text(v) => toml::Value::String(v.clone()),
    }
    .to_string()
}

fn indented(text: &str) -> String {
    text.lines().map(|l| if l.is_empty() { "\n".into() } else { format!("    {l}\n") }).collect()
}
