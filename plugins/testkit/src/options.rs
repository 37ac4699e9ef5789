//! Options: what the CARD allows must work, what it does not must be refused.

use compress_sdk::caller::{Failure, OptionKind};
use compress_sdk::{OptionValue, Options};

use crate::{Complaints, Subject};

pub fn check(subject: &dyn Subject, wrong: &mut Complaints) {
    wrong.create(subject, 1);
    for (i, option) in subject.card().options.iter().enumerate() {
        let with = |value: OptionValue| {
            let mut options = subject.card().defaults();
            options.0[i].1 = value;
            subject.create(&options, 1)
        };
        for value in allowed(&option.kind) {
            if let Err(Failure::Panicked(text)) = with(value.clone()) {
                wrong.add(format_args!("option \"{}\" = {value:?} makes it panic: {text}", option.name));
            }
        }
        for value in refused(&option.kind) {
            if with(value.clone()).is_ok() {
                wrong.add(format_args!(
                    "option \"{}\" = {value:?} is taken though its CARD does not allow it",
                    option.name
                ));
            }
        }
    }
    let unknown = Options(vec![("no_such_option".into(), OptionValue::Flag(true))]);
    if subject.create(&unknown, 1).is_ok() {
        wrong.add(format_args!("an unknown option is taken"));
    }
}

fn allowed(kind: &OptionKind) -> Vec<OptionValue> {
    match kind {
        OptionKind::Integer { min, max, .. } => vec![OptionValue::Integer(*min), OptionValue::Integer(*max)],
        OptionKind::Float { min, max, .. } => vec![OptionValue::Float(*min), OptionValue::Float(*max)],
        OptionKind::Flag { .. } => vec![OptionValue::Flag(false), OptionValue::Flag(true)],
        OptionKind::Choice { choices, .. } => choices.iter().cloned().map(OptionValue::Text).collect(),
        OptionKind::Text { .. } => vec![OptionValue::Text(String::new())],
    }
}

fn refused(kind: &OptionKind) -> Vec<OptionValue> {
    match kind {
        OptionKind::Integer { min, max, .. } => {
            let beyond = [min.checked_sub(1), max.checked_add(1)];
            beyond.into_iter().flatten().map(OptionValue::Integer).chain([OptionValue::Text("one".into())]).collect()
        }
        OptionKind::Float { min, max, .. } => {
            let beyond = [min.next_down(), max.next_up(), f64::NAN, f64::INFINITY];
            beyond.into_iter().map(OptionValue::Float).chain([OptionValue::Flag(true)]).collect()
        }
        OptionKind::Flag { .. } => vec![OptionValue::Integer(1)],
        OptionKind::Choice { .. } => vec![OptionValue::Text("no such choice".into()), OptionValue::Flag(true)],
        OptionKind::Text { .. } => vec![OptionValue::Float(1.0)],
    }
}
