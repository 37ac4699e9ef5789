//! The options of a stage against the CARD of its method.

use compress_sdk::{OptionValue, Options};
use toml::Value;

use super::{MethodCard, OptionInfo, OptionKind};
use crate::error::{Error, Result, did_you_mean};

pub(super) fn check(card: &MethodCard, given: &toml::Table) -> Result<Options> {
    for name in given.keys() {
        if !card.options.iter().any(|o| o.name == *name) {
            let near = did_you_mean(name, card.options.iter().map(|o| o.name.as_str()));
            let all = if card.options.is_empty() { "; it has none" } else { "" };
            return Err(Error::usage(format!("method \"{}\" has no option \"{name}\"{near}{all}", card.name)));
        }
    }
    let value = |o: &OptionInfo| match given.get(&o.name) {
        None => Ok((o.name.clone(), o.kind.default_value())),
        Some(v) => match read(&o.kind, v).filter(|v| o.kind.allows(v)) {
            Some(v) => Ok((o.name.clone(), v)),
            None => Err(Error::usage(format!(
                "option \"{}\" of method \"{}\" is {v}; it must be {}",
                o.name,
                card.name,
                o.kind.allowed()
            ))),
        },
    };
    card.options.iter().map(value).collect::<Result<_>>().map(Options)
}

fn read(kind: &OptionKind, value: &Value) -> Option<OptionValue> {
    match (kind, value) {
        (OptionKind::Float { .. }, Value::Integer(v)) => Some(OptionValue::Float(*v as f64)),
        (_, Value::Integer(v)) => Some(OptionValue::Integer(*v)),
        (_, Value::Float(v)) => Some(OptionValue::Float(*v)),
        (_, Value::Boolean(v)) => Some(OptionValue::Flag(*v)),
        (_, Value::String(v)) => Some(OptionValue::Text(v.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use compress_sdk::{Reach, Units};

    fn card() -> MethodCard {
        let option = |name: &str, kind| OptionInfo { name: name.into(), meaning: "for this test".into(), kind };
        MethodCard {
            name: "mine".into(),
            meaning: "m".into(),
            citation: "c".into(),
            equation: "e".into(),
            reach: Reach::Weight,
            scores: true,
            encodes: false,
            selects: false,
            random: false,
            thread_safe: true,
            units: Units::Other,
            evidence: vec![],
            options: vec![
                option("rank", OptionKind::Integer { default: 8, min: 1, max: 64 }),
                option("damping", OptionKind::Float { default: 0.01, min: 0.0, max: f64::MAX }),
                option("exact", OptionKind::Flag { default: true }),
                option(
                    "by",
                    OptionKind::Choice { default: "rank".into(), choices: vec!["rank".into(), "bytes".into()] },
                ),
                option("note", OptionKind::Text { default: String::new() }),
            ],
        }
    }

    #[test]
    fn what_is_not_given_takes_the_default() {
        let options = check(&card(), &toml::toml! { damping = 1 }).unwrap();
        assert_eq!((options.integer("rank"), options.float("damping")), (8, 1.0));
        assert_eq!((options.flag("exact"), options.text("by"), options.text("note")), (true, "rank", ""));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_remedy() {
        for (given, sentence) in [
            ("rnak = 1", "method \"mine\" has no option \"rnak\" (did you mean \"rank\"?)"),
            ("rank = 0", "option \"rank\" of method \"mine\" is 0; it must be a whole number from 1 to 64"),
            ("rank = 1.5", "option \"rank\" of method \"mine\" is 1.5; it must be a whole number from 1 to 64"),
            ("damping = -1", "option \"damping\" of method \"mine\" is -1; it must be a number from 0"),
            ("damping = nan", "option \"damping\" of method \"mine\" is nan; it must be a number from 0"),
            ("exact = \"yes\"", "option \"exact\" of method \"mine\" is \"yes\"; it must be true or false"),
            ("by = \"rnk\"", "option \"by\" of method \"mine\" is \"rnk\"; it must be one of \"rank\", \"bytes\""),
            ("note = [1]", "option \"note\" of method \"mine\" is [1]; it must be a text"),
        ] {
            let error = check(&card(), &given.parse().unwrap()).unwrap_err();
            assert_eq!((error.status(), error.to_string().as_str()), (2, sentence));
        }
    }
}
