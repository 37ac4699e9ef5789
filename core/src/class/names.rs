//! Weight classes from names, for models without a graph: PyTorch's recurrent layers, Hugging Face transformers, and for
//! all others the module's path. No weight is ever put into a class "other".

use std::collections::HashMap;

use super::{Kind, Order, PartSpec, Role, Roles};
use crate::tensor::TensorInfo;

mod recurrent;
mod words;

use recurrent::Recurrent;

/// What each tensor is, judged by its name and shape.
pub fn roles(tensors: &[TensorInfo]) -> Roles {
    let context = Context::new(tensors);
    Roles { tensors: tensors.iter().map(|t| context.role(t)).collect() }
}

/// What only shows in the model as a whole.
struct Context<'a> {
    recurrent: Recurrent<'a>,
    /// Paths before the list of layers, and what is left of each to tell them apart.
    towers: Vec<(Vec<&'a str>, String)>,
    /// Rows of embeddings on the target side: a matrix with as many rows makes the logits.
    target_rows: Vec<u64>,
    /// Linear layers stored [in, out], as GPT-2 does.
    conv1d: bool,
}

impl<'a> Context<'a> {
    fn new(tensors: &'a [TensorInfo]) -> Context<'a> {
        let shapes: HashMap<&str, &[u64]> = tensors.iter().map(|t| (t.name.as_str(), &t.shape[..])).collect();
        let target_rows = tensors.iter().filter(|t| t.shape.len() == 2 && words::embedding(&path(&t.name)).is_some());
        let target_rows = target_rows.filter(|t| words::side(&path(&t.name)) == Some("target")).map(|t| t.shape[0]);
        Context {
            recurrent: Recurrent::new(&shapes),
            towers: towers(tensors),
            target_rows: target_rows.collect(),
            conv1d: tensors.iter().any(|t| {
                t.name.ends_with("attn.c_attn.weight") && matches!(t.shape[..], [n, m] if n.checked_mul(3) == Some(m))
            }),
        }
    }

    fn role(&self, info: &TensorInfo) -> Role {
        if info.elements == 0 {
            return Role::Never("no elements".into());
        }
        if info.dtype.float_bytes().is_none() {
            return Role::Never(info.dtype.name().into());
        }
        let path = path(&info.name);
        let leaf = path.last().copied().unwrap_or_default();
        if let Some(reason) = buffer(&path, leaf, &info.shape) {
            return Role::Never(reason.into());
        }
        let long = info.shape.iter().filter(|d| **d > 1).count();
        let bias = leaf == "bias" || leaf.starts_with("bias_") || leaf.ends_with("_bias") || leaf == "beta";
        let bias = bias && words::embedding(&path).is_none();
        let norm = words::is_norm(&path) || leaf == "gamma";
        if info.shape.len() < 2 || (long <= 1 && (bias || norm)) {
            let reason = if bias {
                "bias"
            } else if norm {
                "norm"
            } else {
                "1-D"
            };
            let class = self.recurrent.class_of(&info.name).unwrap_or_else(|| self.class(&path, info));
            return Role::OneDimensional(vec![part(class, 1, info.elements, Kind::Vector)], reason.into());
        }
        if let Some(parts) = self.recurrent.parts(&info.name, &info.shape) {
            return Role::Weight(parts);
        }
        let class = self.class(&path, info);
        let (rows, cols) = (info.shape[0], info.elements / info.shape[0]);
        let kind = match info.shape.len() {
            _ if words::embedding(&path).is_some() && info.shape.len() == 2 => Kind::Embedding,
            2 => Kind::Linear,
            n if n >= 4 || path.iter().any(|s| s.to_ascii_lowercase().contains("conv")) => Kind::Conv,
            _ => Kind::Unknown,
        };
        let mut part = part(class, rows, cols, kind);
        let stored_in_out = ["c_attn", "c_proj", "c_fc", "q_attn"]
            .iter()
            .any(|l| path[..path.len().saturating_sub(1)].ends_with(&[*l]));
        if self.conv1d && kind == Kind::Linear && leaf == "weight" && stored_in_out {
            (part.rows, part.cols, part.order) = (cols, rows, Order::ColumnMajor);
        }
        Role::Weight(vec![part])
    }

    fn class(&self, path: &[&str], info: &TensorInfo) -> String {
        let module = match path {
            [module @ .., "weight" | "bias" | "kernel" | "gamma" | "beta"] if !module.is_empty() => module,
            whole => whole,
        };
        if let Some(class) = self.translation(path, module, info) {
            return class;
        }
        let tower = |prefix: &[&str]| {
            let of = self.towers.iter().filter(|(p, _)| prefix.starts_with(p)).max_by_key(|(p, _)| p.len());
            of.map(|(_, short)| short.as_str()).filter(|s| !s.is_empty())
        };
        let below = |tower: Option<&str>, class: String| match tower {
            Some(tower) => format!("{tower}.{class}"),
            None => class,
        };
        if let Some((at, number)) = words::layer(module) {
            let role = words::layer_role(&module[at + 2..]);
            let class = if role.is_empty() { format!("layer{number}") } else { format!("layer{number}.{role}") };
            return below(tower(&module[..at]), class);
        }
        if let Some(kind) = words::embedding(path) {
            let class = if kind.is_empty() { "embedding".to_string() } else { format!("embedding.{kind}") };
            return below(tower(module), class);
        }
        words::head(module).map_or_else(|| module.join("."), str::to_string)
    }

    /// The classes of a recurrent encoder and decoder, by the names that a graph gives them.
    fn translation(&self, path: &[&str], module: &[&str], info: &TensorInfo) -> Option<String> {
        if !self.recurrent.is_translation {
            return None;
        }
        if words::embedding(path).is_some() {
            return Some(words::side(path).map_or("embedding".to_string(), |side| format!("{side}.embedding")));
        }
        if words::is_attention(module) {
            return Some("attention".into());
        }
        let makes_logits = info.shape.len() == 2 && self.target_rows.contains(&info.shape[0]);
        (makes_logits || words::head(module) == Some("softmax")).then(|| "softmax".into())
    }
}

/// The names of modules and of the parameter at the end; TensorFlow and Flax write slashes.
fn path(name: &str) -> Vec<&str> {
    name.split(['.', '/']).filter(|s| !s.is_empty()).collect()
}

fn part(class: String, rows: u64, cols: u64, kind: Kind) -> PartSpec {
    PartSpec { class, below: String::new(), offset: 0, rows, cols, order: Order::RowMajor, kind, groups: 1 }
}

/// Floats that are computed and not learned.
fn buffer(path: &[&str], leaf: &str, shape: &[u64]) -> Option<&'static str> {
    let in_attention = path.len() > 1 && matches!(path[path.len() - 2], "attn" | "attention");
    match (leaf, shape) {
        ("running_mean" | "running_var", _) => Some("running statistics"),
        ("inv_freq", _) => Some("computed frequencies"),
        ("pe", [1, _, _] | [_, 1, _] | [_, _]) => Some("computed positions"),
        ("bias", [1, 1, n, m]) if in_attention && n == m => Some("causal mask"),
        _ => None,
    }
}

/// The paths that lead to numbered layers. One needs no name; several keep what tells them apart: `encoder`, `decoder`.
fn towers(tensors: &[TensorInfo]) -> Vec<(Vec<&str>, String)> {
    let mut prefixes: Vec<Vec<&str>> = Vec::new();
    for t in tensors.iter().filter(|t| t.shape.len() >= 2) {
        let path = path(&t.name);
        if let Some((at, _)) = words::layer(&path) {
            prefixes.push(path[..at].to_vec());
        }
    }
    prefixes.sort();
    prefixes.dedup();
    let shortest = prefixes.iter().map(Vec::len).min().unwrap_or(0);
    let same = |take: &dyn Fn(&Vec<&str>, usize) -> usize, most: usize| {
        (0..most).take_while(|&i| prefixes.iter().all(|p| p[take(p, i)] == prefixes[0][take(&prefixes[0], i)])).count()
    };
    let first = same(&|_, i| i, shortest);
    let last = same(&|p, i| p.len() - 1 - i, shortest - first.min(shortest));
    let short = |p: &Vec<&str>| p[first..p.len() - last].join(".");
    prefixes.iter().map(|p| (p.clone(), if prefixes.len() == 1 { String::new() } else { short(p) })).collect()
}

#[cfg(test)]
mod tests;
