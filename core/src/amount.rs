//! How much a stage takes: a share, a count of weights, or a size. Shares are exact decimal numbers, never floats:
//! count = ⌊x·N + ½⌋ holds to the unit for every N.

use std::fmt;

use crate::error::{Error, Result, did_you_mean};

pub use decimal::Decimal;

mod decimal;

/// An amount as a recipe says it. Displays as the user wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Amount {
    /// What it means.
    pub quantity: Quantity,
    written: String,
}

/// The meaning of an [`Amount`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quantity {
    /// A share from 0 to 1 of the weights: `"80%"`, `0.8`, `1.0` = all.
    Share(Decimal),
    /// That many weights: `500`; `1` is one weight.
    Count(u64),
    /// A file of at most that many bytes: `"20MB"`.
    Bytes(u64),
    /// A file of the input's bytes divided by this, at least 1: `"4x"`.
    Ratio(Decimal),
}

/// What an amount may look like, for errors.
pub const FORMS: &str = "a share (\"80%\" or 0.8), a count of weights (500), a size (\"20MB\", \"20MiB\") or a ratio \
                         (\"4x\")";

const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("kiB", 1 << 10),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl Amount {
    /// An amount from the value of a recipe. Errors are sentences that begin with `amount`.
    pub fn from_toml(value: &toml::Value) -> Result<Amount> {
        match value {
            toml::Value::Float(x) => Amount::from_float(*x),
            toml::Value::Integer(n) => Amount::from_integer(i128::from(*n)),
            toml::Value::String(text) => Amount::from_text(text),
            other => Err(Error::usage(format!("amount must be {FORMS}, not {}", other.type_str()))),
        }
    }

    /// A float: a share from 0.0 to 1.0, by the digits of its shortest decimal form.
    pub fn from_float(x: f64) -> Result<Amount> {
        let written = format!("{x:?}");
        let out_of_range = |hint: &str| {
            Error::usage(format!("amount {written} is out of range: a float is a share, from 0.0 to 1.0{hint}"))
        };
        if !x.is_finite() || x < 0.0 {
            return Err(out_of_range(""));
        }
        if x > 1.0 {
            return Err(out_of_range(&format!(" (\"{x}%\" is a share in percent, an integer a count of weights)")));
        }
        // Display of f64 is the shortest decimal that reads back as the same float, without an exponent. It may be
        // "-0", which is no decimal here.
        let share = Decimal::parse(&format!("{}", x.abs())).ok_or_else(|| out_of_range(""))?;
        Ok(Amount { quantity: Quantity::Share(share), written })
    }

    /// An integer: a count of weights.
    pub fn from_integer(n: i128) -> Result<Amount> {
        let count = u64::try_from(n).map_err(|_| {
            let range = if n < 0 { "0 or more" } else { "below 2^64" };
            Error::usage(format!("amount {n} is out of range: an integer is a count of weights, {range}"))
        })?;
        Ok(Amount { quantity: Quantity::Count(count), written: n.to_string() })
    }

    /// A string: a share in percent, a size or a ratio.
    pub fn from_text(text: &str) -> Result<Amount> {
        let trimmed = text.trim();
        let (negative, number) = match trimmed.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        let (number, unit) = (&number[..end], number[end..].trim());
        let decimal = Decimal::parse(number)
            .ok_or_else(|| Error::usage(format!("amount \"{text}\" is not understood: it must be {FORMS}")))?;
        let quantity = match unit {
            "" => {
                return Err(Error::usage(format!(
                    "amount \"{text}\" has no unit: write \"{trimmed}%\" for a share, or {trimmed} without quotes"
                )));
            }
            "%" => {
                let share = decimal.shifted_right(2);
                if negative || share.exceeds_one() {
                    return Err(Error::usage(format!(
                        "amount \"{text}\" is out of range: a share goes from \"0%\" to \"100%\""
                    )));
                }
                Quantity::Share(share)
            }
            "x" | "X" | "×" => {
                if negative || decimal.is_below_one() || !decimal.divides_exactly() {
                    return Err(Error::usage(format!(
                        "amount \"{text}\" is out of range: a ratio is 1 or more, with at most 18 decimals (\"4x\" = a \
                         quarter of the input's bytes)"
                    )));
                }
                Quantity::Ratio(decimal)
            }
            unit => {
                let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                    return Err(unknown_unit(text, unit));
                };
                match u64::try_from(decimal.times(*factor)) {
                    Ok(bytes) if bytes > 0 && !negative => Quantity::Bytes(bytes),
                    _ => {
                        return Err(Error::usage(format!(
                            "amount \"{text}\" is out of range: a size is at least one byte and below 2^64 bytes"
                        )));
                    }
                }
            }
        };
        Ok(Amount { quantity, written: trimmed.to_string() })
    }

    /// Whether it is a size of the output and not a number of weights.
    pub fn is_size(&self) -> bool {
        matches!(self.quantity, Quantity::Bytes(_) | Quantity::Ratio(_))
    }

    /// How many of `n` weights: ⌊x·n + ½⌋ of a share. A count above `n` is refused.
    pub fn count(&self, n: u64) -> Result<u64> {
        match &self.quantity {
            Quantity::Share(share) => Ok(share.round_times(n)),
            Quantity::Count(count) if *count <= n => Ok(*count),
            Quantity::Count(count) => {
                Err(Error::usage(format!("amount {count} is out of range: there are only {n} weights")))
            }
            Quantity::Bytes(_) | Quantity::Ratio(_) => {
                Err(Error::usage(format!("amount \"{self}\" is a size of the whole output, not a number of weights")))
            }
        }
    }

    /// The most bytes that the output may have, for a size; `input_bytes` are those of the input's files.
    pub fn target_bytes(&self, input_bytes: u64) -> Option<u64> {
        match &self.quantity {
            Quantity::Bytes(bytes) => Some(*bytes),
            Quantity::Ratio(ratio) => Some(ratio.divide(input_bytes)),
            Quantity::Share(_) | Quantity::Count(_) => None,
        }
    }

    /// For the report: a number where the recipe has one, else a string.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.quantity {
            Quantity::Count(count) => (*count).into(),
            Quantity::Share(_) if !self.written.ends_with('%') => {
                self.written.parse::<f64>().unwrap_or(f64::NAN).into()
            }
            _ => self.written.as_str().into(),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

fn unknown_unit(text: &str, unit: &str) -> Error {
    let names = || UNITS.iter().map(|(name, _)| *name).chain(["%", "x"]);
    let near = match names().find(|name| name.eq_ignore_ascii_case(unit)) {
        Some(name) => format!(" (did you mean \"{name}\"?)"),
        None => did_you_mean(unit, names()),
    };
    let near = if near.is_empty() { ": known are %, x, B, kB, MB, GB, TB, KiB, MiB, GiB and TiB".into() } else { near };
    Error::usage(format!("amount \"{text}\" has the unknown unit \"{unit}\"{near}"))
}

#[cfg(test)]
mod tests;
