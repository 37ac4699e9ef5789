//! A CARD as it comes through the door: owned and checked.
#![allow(unsafe_code)]

use crate::abi::*;
use crate::card::{EvidenceKind, Need, Reach, Units};
use crate::{OptionValue, Options};

/// The description of a method: see [`crate::Card`].
#[derive(Clone, PartialEq, Debug)]
pub struct MethodCard {
    /// The name that a recipe uses: lower case letters, digits and hyphens.
    pub name: String,
    /// One line: what it does.
    pub meaning: String,
    /// Authors, title, venue, year, arXiv number or DOI.
    pub citation: String,
    /// The score or the approximation in plain Unicode.
    pub equation: String,
    /// What it must see at once.
    pub reach: Reach,
    /// Whether it scores weights.
    pub scores: bool,
    /// Whether it encodes parts.
    pub encodes: bool,
    /// Whether it chooses within a quota itself.
    pub selects: bool,
    /// Whether its result depends on the seed.
    pub random: bool,
    /// Whether it may be called from several threads at once.
    pub thread_safe: bool,
    /// In which units its scores are.
    pub units: Units,
    /// The evidence that it reads.
    pub evidence: Vec<(EvidenceKind, Need)>,
    /// Its options.
    pub options: Vec<OptionInfo>,
}

/// One option of a method.
#[derive(Clone, PartialEq, Debug)]
pub struct OptionInfo {
    /// The key in the recipe.
    pub name: String,
    /// What it means, with its unit.
    pub meaning: String,
    /// Type, range and default.
    pub kind: OptionKind,
}

/// Type, range and default of an option: [`crate::OptionKind`] with owned texts.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum OptionKind {
    /// A whole number.
    Integer { default: i64, min: i64, max: i64 },
    /// A finite number.
    Float { default: f64, min: f64, max: f64 },
    /// True or false.
    Flag { default: bool },
    /// One of a list of words.
    Choice { default: String, choices: Vec<String> },
    /// Any text.
    Text { default: String },
}

impl OptionKind {
    /// The default as a value.
    pub fn default_value(&self) -> OptionValue {
        match self {
            OptionKind::Integer { default, .. } => OptionValue::Integer(*default),
            OptionKind::Float { default, .. } => OptionValue::Float(*default),
            OptionKind::Flag { default } => OptionValue::Flag(*default),
            OptionKind::Choice { default, .. } | OptionKind::Text { default } => OptionValue::Text(default.clone()),
        }
    }

    /// What is allowed: `"a whole number from 1 to 8"`.
    pub fn allowed(&self) -> String {
        match self {
            OptionKind::Integer { min: i64::MIN, max: i64::MAX, .. } => "a whole number".into(),
            OptionKind::Integer { min, max: i64::MAX, .. } => format!("a whole number from {min}"),
            OptionKind::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
            OptionKind::Float { min, max, .. } if *min == f64::MIN && *max == f64::MAX => "a finite number".into(),
            OptionKind::Float { min, max, .. } if *max == f64::MAX => format!("a number from {min}"),
            OptionKind::Float { min, max, .. } => format!("a number from {min} to {max}"),
            OptionKind::Flag { .. } => "true or false".into(),
            OptionKind::Choice { choices, .. } => {
                let words: Vec<String> = choices.iter().map(|c| format!("\"{c}\"")).collect();
                format!("one of {}", words.join(", "))
            }
            OptionKind::Text { .. } => "a text".into(),
        }
    }

    /// Whether a value has the type and lies in the range.
    pub fn allows(&self, value: &OptionValue) -> bool {
        match (self, value) {
            (OptionKind::Integer { min, max, .. }, OptionValue::Integer(v)) => (min..=max).contains(&v),
            (OptionKind::Float { min, max, .. }, OptionValue::Float(v)) => v.is_finite() && (min..=max).contains(&v),
            (OptionKind::Flag { .. }, OptionValue::Flag(_)) | (OptionKind::Text { .. }, OptionValue::Text(_)) => true,
            (OptionKind::Choice { choices, .. }, OptionValue::Text(v)) => choices.contains(v),
            _ => false,
        }
    }
}

impl MethodCard {
    /// All options with their defaults.
    pub fn defaults(&self) -> Options {
        Options(self.options.iter().map(|o| (o.name.clone(), o.kind.default_value())).collect())
    }

    /// What a stage with these options lacks for a weight that has the evidence that `has` says: `None` where it can
    /// work, else the kinds in words, such as `"gram" or "row_count"`.
    pub fn lacks(&self, options: &Options, has: impl Fn(EvidenceKind) -> bool) -> Option<String> {
        let named = |kind: EvidenceKind| {
            options.0.iter().any(|(_, v)| matches!(v, OptionValue::Text(word) if word == kind.name()))
        };
        let needed = |(kind, need): &&(EvidenceKind, Need)| *need == Need::Required || named(*kind);
        if let Some((kind, _)) = self.evidence.iter().filter(needed).find(|(kind, _)| !has(*kind)) {
            return Some(format!("\"{}\"", kind.name()));
        }
        let one_of: Vec<EvidenceKind> =
            self.evidence.iter().filter(|(_, need)| *need == Need::OneOf).map(|(kind, _)| *kind).collect();
        if one_of.is_empty() || one_of.iter().any(|kind| has(*kind)) {
            return None;
        }
        Some(one_of.iter().map(|kind| format!("\"{}\"", kind.name())).collect::<Vec<_>>().join(" or "))
    }

    /// The kinds of evidence that a stage with these options reads: of kinds that are each other's alternatives those
    /// that an option names, if one does.
    pub fn reads(&self, options: &Options) -> Vec<EvidenceKind> {
        let named = |kind: EvidenceKind| {
            options.0.iter().any(|(_, v)| matches!(v, OptionValue::Text(word) if word == kind.name()))
        };
        let chosen = self.evidence.iter().any(|(kind, need)| *need == Need::OneOf && named(*kind));
        let reads = |(kind, need): &&(EvidenceKind, Need)| *need != Need::OneOf || !chosen || named(*kind);
        self.evidence.iter().filter(reads).map(|(kind, _)| *kind).collect()
    }

    /// Whether every option of the CARD is there, in its order, with a value that it allows, and no other.
    pub fn check_complete(&self, options: &[(&str, &OptionValue)]) -> Result<(), String> {
        if options.len() != self.options.len() {
            return Err(format!("it has {} options, {} were given", self.options.len(), options.len()));
        }
        for (info, (name, value)) in self.options.iter().zip(options) {
            if info.name != *name || !info.kind.allows(value) {
                return Err(format!("option \"{name}\" is not \"{}\", {}", info.name, info.kind.allowed()));
            }
        }
        Ok(())
    }

    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let word = |w: &str, also: u8| {
            w.starts_with(|c: char| c.is_ascii_lowercase())
                && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == also)
        };
        if !word(&self.name, b'-') {
            return Err(format!("its name \"{}\" is not made of lower case letters, digits and hyphens", self.name));
        }
        for (what, text) in [("meaning", &self.meaning), ("citation", &self.citation), ("equation", &self.equation)] {
            if text.trim().is_empty() {
                return Err(format!("its CARD has no {what}"));
            }
        }
        if !self.scores && !self.encodes {
            return Err("it gives neither scores nor encodings".into());
        }
        if self.selects && !self.encodes {
            return Err("it selects but gives no encodings".into());
        }
        if self.reach == Reach::Weight
            && let Some((kind, _)) =
                self.evidence.iter().find(|(k, _)| matches!(k, EvidenceKind::Gram | EvidenceKind::RowCount))
        {
            return Err(format!("it reads {}, so its reach cannot be a single weight", kind.name()));
        }
        for (i, option) in self.options.iter().enumerate() {
            if !word(&option.name, b'_') {
                return Err(format!(
                    "the name of its option \"{}\" is not made of lower case letters, digits and underscores",
                    option.name
                ));
            }
            if self.options[..i].iter().any(|o| o.name == option.name) {
                return Err(format!("it has two options \"{}\"", option.name));
            }
            if option.meaning.trim().is_empty() {
                return Err(format!("its option \"{}\" has no meaning", option.name));
            }
            if !option.kind.allows(&option.kind.default_value()) {
                return Err(format!("the default of its option \"{}\" is not {}", option.name, option.kind.allowed()));
            }
        }
        Ok(())
    }
}

/// Flags that a host must know, or else it does not know how to call the method.
const KNOWN_FLAGS: u64 = THREAD_SAFE | SCORES | ENCODES | SELECTS | RANDOM;
const MUST_KNOW: u64 = 0xffff_ffff;

/// Reads and checks a CARD.
///
/// # Safety
/// `raw` must keep the rules of the door.
pub unsafe fn read(raw: &RawEntry) -> Result<MethodCard, String> {
    let flag = |bit| raw.flags & bit != 0;
    if raw.flags & MUST_KNOW & !KNOWN_FLAGS != 0 {
        return Err(format!("it needs something that this program does not know (flags {:#x})", raw.flags));
    }
    // SAFETY: the caller's promise.
    let card = unsafe {
        MethodCard {
            name: text(raw.name),
            meaning: text(raw.meaning),
            citation: text(raw.citation),
            equation: text(raw.equation),
            reach: match raw.reach {
                REACH_WEIGHT => Reach::Weight,
                REACH_ROW => Reach::Row,
                REACH_PART => Reach::Part,
                other => return Err(format!("its reach {other} is unknown")),
            },
            scores: flag(SCORES),
            encodes: flag(ENCODES),
            selects: flag(SELECTS),
            random: flag(RANDOM),
            thread_safe: flag(THREAD_SAFE),
            units: match raw.units {
                UNITS_MAGNITUDE => Units::Magnitude,
                UNITS_OTHER => Units::Other,
                other => return Err(format!("the units {other} of its scores are unknown")),
            },
            evidence: read_needs(raw)?,
            options: read_options(raw)?,
        }
    };
    card.check()?;
    for (name, there) in [
        ("create", raw.create.is_some()),
        ("score", !card.scores || raw.score.is_some()),
        ("encode", !card.encodes || raw.encode.is_some()),
    ] {
        if !there {
            return Err(format!("its function {name} is missing"));
        }
    }
    Ok(card)
}

/// # Safety
/// As of [`read`].
unsafe fn read_needs(raw: &RawEntry) -> Result<Vec<(EvidenceKind, Need)>, String> {
    let mut needs = Vec::new();
    for i in 0..raw.need_count as usize {
        // SAFETY: the caller's promise; `size`, `required` and `kind` are in the struct's first version.
        let (kind, need) = unsafe {
            let need = *raw.needs.add(i);
            (text((*need).kind), (*need).required)
        };
        let need = match need {
            NEED_OPTIONAL => Need::Optional,
            NEED_ONE_OF => Need::OneOf,
            _ => Need::Required,
        };
        match EvidenceKind::from_name(&kind) {
            Some(kind) => needs.push((kind, need)),
            None if need == Need::Required => {
                return Err(format!("it needs evidence of the kind \"{kind}\", which this program does not know"));
            }
            None => {}
        }
    }
    Ok(needs)
}

/// # Safety
/// As of [`read`].
unsafe fn read_options(raw: &RawEntry) -> Result<Vec<OptionInfo>, String> {
    let mut options = Vec::new();
    for i in 0..raw.option_count as usize {
        // SAFETY: the caller's promise; all fields are in the struct's first version.
        let (o, name, meaning, default) = unsafe {
            let o = &**raw.options.add(i);
            (o, text(o.name), text(o.meaning), text(o.text))
        };
        let kind = match o.kind {
            OPTION_INTEGER => OptionKind::Integer { default: o.integer, min: o.integer_min, max: o.integer_max },
            OPTION_FLOAT => OptionKind::Float { default: o.number, min: o.number_min, max: o.number_max },
            OPTION_FLAG => OptionKind::Flag { default: o.integer != 0 },
            OPTION_CHOICE => OptionKind::Choice {
                default,
                // SAFETY: the caller's promise.
                choices: (0..o.choice_count as usize).map(|k| unsafe { text(*o.choices.add(k)) }).collect(),
            },
            OPTION_TEXT => OptionKind::Text { default },
            other => return Err(format!("the kind {other} of its option \"{name}\" is unknown")),
        };
        options.push(OptionInfo { name, meaning, kind });
    }
    Ok(options)
}

/// A text from the other side; what is no UTF-8 is replaced.
///
/// # Safety
/// As the door says of a [`Str`].
pub unsafe fn text(raw: Str) -> String {
    if raw.bytes == 0 {
        return String::new();
    }
    // SAFETY: the caller's promise.
    String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(raw.data, raw.bytes as usize) }).into_owned()
}
