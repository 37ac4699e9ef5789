//! `torch.nn.LSTM`, `GRU`, `RNN` and their cells: `<module>.weight_ih_l0`, `weight_hh_l1_reverse`, `bias_ih_l0`, `weight_hr_l0`.
//!
//! The rows of a matrix are its gates, in PyTorch's order: input, forget, cell, output; or reset, update, new.

use std::collections::{BTreeMap, HashMap};

use super::super::{Kind, Order, PartSpec};
use super::{path, words};

/// The recurrent layers of a model.
pub struct Recurrent<'a> {
    /// Both a source and a target side have recurrent layers.
    pub is_translation: bool,
    shapes: HashMap<&'a str, &'a [u64]>,
    /// Module to the class of its layers without their number, and the number of its first layer.
    modules: HashMap<&'a str, (String, u64)>,
}

/// A name taken apart.
struct Name<'a> {
    module: &'a str,
    /// `weight_ih`, `weight_hh`, `weight_hr`, `bias_ih`, `bias_hh`.
    what: &'a str,
    /// From 0 within the module.
    layer: u64,
    /// `_l0_reverse`, empty for a cell.
    tail: &'a str,
}

fn take_apart(name: &str) -> Option<Name<'_>> {
    let leaf_at = name.rfind(['.', '/']).map_or(0, |i| i + 1);
    let (module, leaf) = (name[..leaf_at].trim_end_matches(['.', '/']), &name[leaf_at..]);
    let what =
        ["weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh"].into_iter().find(|w| leaf.starts_with(w))?;
    let tail = &leaf[what.len()..];
    let number = tail.strip_suffix("_reverse").unwrap_or(tail);
    let layer = if number.is_empty() { 0 } else { number.strip_prefix("_l")?.parse().ok()? };
    Some(Name { module, what, layer, tail })
}

impl<'a> Recurrent<'a> {
    /// Collects the modules. Layers are numbered from 1 through all modules of a side whose names differ in digits only.
    pub fn new(shapes: &HashMap<&'a str, &'a [u64]>) -> Recurrent<'a> {
        let mut layers: BTreeMap<&str, u64> = BTreeMap::new();
        for name in shapes.keys() {
            if let Some(n) = take_apart(name).filter(|n| n.what.starts_with("weight")) {
                let count = layers.entry(n.module).or_default();
                *count = (*count).max(n.layer.saturating_add(1));
            }
        }
        let side = |module: &str| words::side(&path(module));
        let is_translation = ["source", "target"].iter().all(|s| layers.keys().any(|m| side(m) == Some(s)));
        let side = |module: &str| if is_translation { side(module).unwrap_or("") } else { "" };
        let mut groups: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for module in layers.keys() {
            let stem = module.chars().filter(|c| !c.is_ascii_digit()).collect();
            groups.entry((side(module), stem)).or_default().push(module);
        }
        let mut modules = HashMap::new();
        for ((side, _), mut members) in groups.clone() {
            let alone = groups.keys().filter(|(s, _)| *s == side).count() == 1;
            members.sort_by_key(|m| digits(m));
            let mut first = 1_u64;
            for module in members {
                let stem: Vec<&str> =
                    path(module).into_iter().filter(|s| s.bytes().any(|b| !b.is_ascii_digit())).collect();
                let stem = if alone { String::new() } else { stem.join(".") };
                let prefix: Vec<&str> = [side, &stem].into_iter().filter(|s| !s.is_empty()).collect();
                modules.insert(module, (prefix.join("."), first));
                first = first.saturating_add(layers[module]);
            }
        }
        Recurrent { is_translation, shapes: shapes.clone(), modules }
    }

    /// The layer that a tensor belongs to: `source.layer1`.
    pub fn class_of(&self, name: &str) -> Option<String> {
        let n = take_apart(name)?;
        let (prefix, first) = self.modules.get(n.module)?;
        let number = first.saturating_add(n.layer);
        Some(if prefix.is_empty() { format!("layer{number}") } else { format!("{prefix}.layer{number}") })
    }

    /// The gates of a matrix as parts.
    pub fn parts(&self, name: &str, shape: &[u64]) -> Option<Vec<PartSpec>> {
        let (n, class) = (take_apart(name)?, self.class_of(name)?);
        let &[rows, cols] = shape else { return None };
        let (below, kind) = match n.what {
            "weight_ih" => ("below", Kind::RecurrentInput),
            "weight_hh" => ("recurrent", Kind::Recurrent),
            _ => ("projection", Kind::Linear),
        };
        let reverse = if n.tail.ends_with("_reverse") { "/reverse" } else { "" };
        let gates: &[&str] = match self.gates(&n, rows) {
            _ if below == "projection" => &[""],
            Some(4) => &["input/", "forget/", "cell/", "output/"],
            Some(3) => &["reset/", "update/", "new/"],
            Some(1) => &["hidden/"],
            _ => &[""],
        };
        let rows = rows / gates.len() as u64;
        let part = |(i, gate): (usize, &&str)| PartSpec {
            class: class.clone(),
            below: format!("{gate}{below}{reverse}"),
            offset: i as u64 * rows * cols,
            rows,
            cols,
            order: Order::RowMajor,
            kind,
            groups: 1,
        };
        Some(gates.iter().enumerate().map(part).collect())
    }

    /// Rows over the width of the hidden state, which weight_hr has as columns, without it weight_hh.
    fn gates(&self, n: &Name<'_>, rows: u64) -> Option<u64> {
        let sibling = |what: &str| {
            let dot = if n.module.is_empty() { "" } else { "." };
            self.shapes.get(format!("{}{dot}{what}{}", n.module, n.tail).as_str()).copied()
        };
        let &[_, hidden] = sibling("weight_hr").or_else(|| sibling("weight_hh"))? else { return None };
        (hidden > 0 && rows.is_multiple_of(hidden)).then(|| rows / hidden)
    }
}

/// The numbers in a name, in order: `rnn10` stands after `rnn9`.
fn digits(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|d| d.parse().ok()).collect()
}
