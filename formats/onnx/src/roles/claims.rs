//! Collects what the uses of a tensor say about it, and makes one role of that.

use std::collections::BTreeMap;

use compress_core::class::{Kind, Order, PartSpec, Role};
use compress_core::tensor::{TensorId, TensorInfo};

/// What the uses of each tensor say, in the order of the data flow.
pub(crate) struct Claims {
    list: Vec<Vec<Claim>>,
}

/// Parts that one tensor may have; more are one part.
const PARTS: usize = 1 << 14;

/// What one use says.
enum Claim {
    Weight(PartSpec),
    Vector(PartSpec, String),
    Never(String),
}

impl Claims {
    pub(crate) fn new(tensors: usize) -> Self {
        Claims { list: (0..tensors).map(|_| Vec::new()).collect() }
    }

    /// Whether nothing is known about a tensor yet.
    pub(crate) fn is_free(&self, tensor: TensorId) -> bool {
        self.list[tensor].is_empty()
    }

    /// A block of a tensor is a weight.
    pub(crate) fn weight(&mut self, tensor: TensorId, spec: PartSpec) {
        if self.list[tensor].len() < PARTS {
            self.list[tensor].push(Claim::Weight(spec));
        }
    }

    /// A whole tensor is a bias, a norm or the like.
    pub(crate) fn vector(&mut self, tensor: TensorId, info: &TensorInfo, class: &str, below: &str, reason: &str) {
        let spec = PartSpec {
            class: class.to_string(),
            below: below.to_string(),
            offset: 0,
            rows: 1,
            cols: info.elements,
            order: Order::RowMajor,
            kind: Kind::Vector,
            groups: 1,
        };
        self.list[tensor].push(Claim::Vector(spec, reason.to_string()));
    }

    /// A whole tensor is nothing to prune.
    pub(crate) fn never(&mut self, tensor: TensorId, reason: &str) {
        self.list[tensor].push(Claim::Never(reason.to_string()));
    }

    /// The role of a tensor. Where uses disagree the first one wins, weights before vectors: a table that is embedding
    /// and softmax matrix at once is the embedding.
    pub(crate) fn role(&mut self, tensor: TensorId, info: &TensorInfo) -> Role {
        let mut claims = std::mem::take(&mut self.list[tensor]);
        claims.sort_by_key(|c| !matches!(c, Claim::Weight(_)));
        if let Some(reason) = &info.not_a_weight {
            let quantised = matches!(claims.first(), Some(Claim::Weight(_))) && *reason == info.dtype.name();
            return Role::Never(if quantised { format!("quantised weight ({reason})") } else { reason.clone() });
        }
        // By offset: parts that are taken already.
        let mut parts: BTreeMap<u64, PartSpec> = BTreeMap::new();
        for claim in claims {
            match claim {
                Claim::Weight(spec) => {
                    let (start, end) = (spec.offset, spec.offset + spec.weights());
                    let before = parts.range(..end).next_back();
                    let free = before.is_none_or(|(at, p)| at + p.weights() <= start);
                    if free && end <= info.elements && start < end {
                        parts.insert(start, spec);
                    }
                }
                _ if !parts.is_empty() => break,
                Claim::Vector(spec, reason) => return Role::OneDimensional(vec![spec], reason),
                Claim::Never(reason) => return Role::Never(reason),
            }
        }
        if parts.is_empty() {
            return Role::Never("not used by the graph".into());
        }
        Role::Weight(tile(parts.into_values().collect(), info.elements))
    }
}

/// Fills the gaps between parts in order, so that they tile the tensor.
fn tile(parts: Vec<PartSpec>, elements: u64) -> Vec<PartSpec> {
    let (class, mut at, mut out) = (parts[0].class.clone(), 0, Vec::new());
    let gap = |offset: u64, end: u64| PartSpec {
        class: class.clone(),
        below: "rest".into(),
        offset,
        rows: 1,
        cols: end - offset,
        order: Order::RowMajor,
        kind: Kind::Unknown,
        groups: 1,
    };
    for part in parts {
        if part.offset > at {
            out.push(gap(at, part.offset));
        }
        at = part.offset + part.weights();
        out.push(part);
    }
    if at < elements {
        out.push(gap(at, elements));
    }
    out
}

/// A whole tensor as rows × cols: the first dimension above 1, and all after it.
pub(crate) fn whole(info: &TensorInfo, class: &str, kind: Kind) -> PartSpec {
    let first = info.shape.iter().position(|d| *d > 1).unwrap_or(0);
    let rows = info.shape.get(first).copied().unwrap_or(1).max(1);
    PartSpec {
        class: class.to_string(),
        below: String::new(),
        offset: 0,
        rows,
        cols: info.elements / rows,
        order: Order::RowMajor,
        kind,
        groups: 1,
    }
}
