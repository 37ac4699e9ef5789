//! The CARD of a program, from its answer to `describe`.

use compress_sdk::{EvidenceKind, Need, Reach, Units};
use serde_json::Value;

use super::super::{MethodCard, OptionInfo, OptionKind};

pub fn read(answer: &Value) -> Result<MethodCard, String> {
    let text = |key: &str| -> Result<String, String> {
        let text = answer[key].as_str().ok_or_else(|| format!("its description has no \"{key}\""))?;
        Ok(text.to_string())
    };
    let flag = |key: &str| answer[key].as_bool().unwrap_or(false);
    Ok(MethodCard {
        name: text("name")?,
        meaning: text("meaning")?,
        citation: text("citation")?,
        equation: text("equation")?,
        reach: match answer["reach"].as_str() {
            Some("weight") => Reach::Weight,
            Some("row") => Reach::Row,
            Some("part") => Reach::Part,
            _ => return Err("its \"reach\" must be \"weight\", \"row\" or \"part\"".into()),
        },
        scores: flag("scores"),
        encodes: flag("encodes"),
        selects: flag("selects"),
        random: flag("random"),
        // Calls are put in a row on this side.
        thread_safe: true,
        units: match answer["units"].as_str() {
            Some("magnitude") => Units::Magnitude,
            Some("other") | None => Units::Other,
            Some(_) => return Err("its \"units\" must be \"magnitude\" or \"other\"".into()),
        },
        evidence: list(answer, "evidence").iter().map(need).collect::<Result<_, _>>()?,
        options: list(answer, "options").iter().map(option).collect::<Result<_, _>>()?,
    })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn need(value: &Value) -> Result<(EvidenceKind, Need), String> {
    let name = value["kind"].as_str().unwrap_or_default();
    let kind = EvidenceKind::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = EvidenceKind::ALL.iter().map(|k| k.name()).collect();
        format!("it needs evidence \"{name}\"; known are {}", known.join(", "))
    })?;
    let need = match (value["one_of"].as_bool(), value["required"].as_bool()) {
        (Some(true), _) => Need::OneOf,
        (_, Some(false)) => Need::Optional,
        _ => Need::Required,
    };
    Ok((kind, need))
}

fn option(value: &Value) -> Result<OptionInfo, String> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    let name = text("name");
    let missing = |key: &str| format!("its option \"{name}\" has no usable \"{key}\"");
    let integer = |key: &str, or: i64| match &value[key] {
        Value::Null => Ok(or),
        v => v.as_i64().ok_or_else(|| missing(key)),
    };
    let float = |key: &str, or: f64| match &value[key] {
        Value::Null => Ok(or),
        v => v.as_f64().ok_or_else(|| missing(key)),
    };
    let default = &value["default"];
    let kind = match value["type"].as_str() {
        Some("integer") => OptionKind::Integer {
            default: default.as_i64().ok_or_else(|| missing("default"))?,
            min: integer("min", i64::MIN)?,
            max: integer("max", i64::MAX)?,
        },
        Some("float") => OptionKind::Float {
            default: default.as_f64().ok_or_else(|| missing("default"))?,
            min: float("min", f64::MIN)?,
            max: float("max", f64::MAX)?,
        },
        Some("flag") => OptionKind::Flag { default: default.as_bool().ok_or_else(|| missing("default"))? },
        Some("choice") => OptionKind::Choice {
            default: text("default"),
            choices: list(value, "choices").iter().filter_map(Value::as_str).map(String::from).collect(),
        },
        Some("text") => OptionKind::Text { default: text("default") },
        _ => return Err(missing("type")),
    };
    Ok(OptionInfo { meaning: text("meaning"), name: name.clone(), kind })
}
