//! Changes to a planned program: rows whose target is ignored are left out of the last layers, and dropout is put back.

use std::collections::HashSet;

use compress_core::Error;

use crate::buffer::Buf;
use crate::graph::Input;
use crate::ops::{Gradient, Noise, Out, Run};
use crate::program::{Program, Step};
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

/// Name of the input that says which rows are wanted: first how many there are in all, then their numbers.
pub const ROWS: &str = "rows that are counted";

/// Operators that treat every element alone.
const ELEMENTWISE: &[&str] =
    &["Tanh", "Relu", "Gelu", "Sigmoid", "Erf", "Identity", "Dropout", "dropout", "Softplus", "Elu"];

impl<R: Real> Program<R> {
    /// Which slots depend on weights alone.
    fn fixed(&self) -> HashSet<usize> {
        let mut fixed: HashSet<usize> = self.constants.iter().map(|(s, _)| *s).collect();
        fixed.extend(self.params.iter().map(|p| p.slot));
        fixed.extend(self.steps[..self.derived].iter().flat_map(|s| s.outputs.iter().flatten()));
        fixed
    }

    /// The step that makes a slot.
    fn maker(&self, slot: usize) -> Option<usize> {
        self.steps.iter().position(|s| s.outputs.contains(&Some(slot)))
    }

    fn readers(&self, slot: usize) -> Vec<usize> {
        (0..self.steps.len()).filter(|i| self.steps[*i].inputs.contains(&Some(slot))).collect()
    }

    /// The shape of a weight, where the slot holds one directly.
    fn weight_rank(&self, slot: usize) -> Option<usize> {
        let constant = self.constants.iter().find(|(s, _)| *s == slot).map(|(_, v)| v.shape().len());
        constant.or_else(|| self.params.iter().find(|p| p.slot == slot).map(|p| p.shape.len()))
    }

    /// The input of a step that works on each row (all but the last dimension) alone, and whether it is a product.
    fn rowwise(&self, step: &Step<R>, fixed: &HashSet<usize>) -> Option<(usize, bool)> {
        let input = |i: usize| step.inputs.get(i).copied().flatten();
        let (a, b) = (input(0)?, input(1));
        match step.op.as_str() {
            "MatMul" if fixed.contains(&b?) && self.weight_rank(b?) == Some(2) && !fixed.contains(&a) => {
                Some((a, true))
            }
            "Add" | "Mul" | "Sub" => {
                let (x, w) = if fixed.contains(&b?) { (a, b?) } else { (b?, a) };
                (fixed.contains(&w) && !fixed.contains(&x) && self.weight_rank(w)? <= 1).then_some((x, false))
            }
            op if ELEMENTWISE.contains(&op) => Some((a, false)),
            _ => None,
        }
    }

    /// Lets the last row-wise layers before the only output see just the rows that [`ROWS`] numbers: padded positions
    /// of a translation model cost nothing then. The output becomes [rows, ·]. False where there is no such layer.
    pub fn compact(&mut self) -> bool {
        let fixed = self.fixed();
        let [output] = self.outputs[..] else { return false };
        let (mut at, mut best) = (output, None);
        while let Some(i) = self.maker(at)
            && self.readers(at).len() + usize::from(at == output) == 1
            && let Some((before, product)) = self.rowwise(&self.steps[i], &fixed)
        {
            at = before;
            if product {
                best = Some((at, i));
            }
        }
        let Some((slot, reader)) = best else { return false };
        let rows = self.new_slot(ROWS);
        let picked = self.new_slot("counted rows");
        self.inputs.push((rows, Input { name: ROWS.into(), dims: None, dim_names: Vec::new(), kind: "integer" }));
        for input in &mut self.steps[reader].inputs {
            if *input == Some(slot) {
                *input = Some(picked);
            }
        }
        let step = Step {
            run: pick_rows(),
            gradient: Gradient::Yes,
            op: "rows".into(),
            title: "choice of counted rows".into(),
            name: String::new(),
            inputs: vec![Some(slot), Some(rows)],
            outputs: vec![Some(picked)],
            last: Vec::new(),
            unread: Vec::new(),
            node: None,
        };
        self.steps.insert(reader, step);
        self.order();
        true
    }

    fn new_slot(&mut self, name: &str) -> usize {
        self.names.push(name.into());
        self.slots += 1;
        self.slots - 1
    }

    /// Where dropout can be put back: (slot, labels that a recipe may match, whether it belongs between layers).
    /// `class` gives a weight's class.
    pub fn sites(&self, class: &dyn Fn(&str) -> Option<String>) -> Vec<Site> {
        let fixed = self.fixed();
        let mut sites: Vec<Site> = Vec::new();
        let last = self.outputs.first().and_then(|o| self.last_linear(*o, &fixed));
        for (i, step) in self.steps.iter().enumerate().skip(self.derived) {
            let slot = |i: usize| step.inputs.get(i).copied().flatten();
            let weight = |i: usize| slot(i).filter(|s| fixed.contains(s)).and_then(|s| self.weight_behind(s));
            let out = step.outputs.first().copied().flatten();
            let (at, name, between) = match step.op.as_str() {
                "Gather" if weight(0).is_some() => (out, weight(0), true),
                "LSTM" | "GRU" | "RNN" => (out, weight(1), out.is_some_and(|o| self.feeds_recurrent(o))),
                "MatMul" | "Gemm" if weight(1).is_some() => {
                    let active = slot(0).and_then(|s| self.maker(s)).map(|m| self.steps[m].op.as_str());
                    let hidden = active.is_some_and(|op| ["Relu", "Gelu", "Elu", "Sigmoid"].contains(&op));
                    (slot(0), weight(1), Some(i) == last || hidden)
                }
                _ => continue,
            };
            let Some(at) = at else { continue };
            let mut labels: Vec<String> = name.iter().flat_map(|n| [class(n), Some(n.clone())]).flatten().collect();
            labels.extend([step.name.clone(), self.names[at].clone()]);
            match sites.iter_mut().find(|s| s.slot == at) {
                Some(s) => {
                    s.labels.extend(labels);
                    s.between |= between;
                }
                None => sites.push(Site { slot: at, labels, between }),
            }
        }
        sites
    }

    fn last_linear(&self, output: usize, fixed: &HashSet<usize>) -> Option<usize> {
        let mut at = output;
        loop {
            let i = self.maker(at)?;
            match self.steps[i].op.as_str() {
                "MatMul" | "Gemm" => return Some(i),
                _ => at = self.steps[i].inputs.iter().flatten().copied().find(|s| !fixed.contains(s))?,
            }
        }
    }

    /// The weight that a fixed slot holds or is made from.
    pub fn weight_behind(&self, slot: usize) -> Option<String> {
        if let Some(p) = self.params.iter().find(|p| p.slot == slot) {
            return Some(p.name.clone());
        }
        let step = &self.steps[self.maker(slot)?];
        step.inputs.iter().flatten().find_map(|s| self.weight_behind(*s))
    }

    /// Whether a value reaches another recurrent layer's input through changes of shape only.
    fn feeds_recurrent(&self, slot: usize) -> bool {
        self.readers(slot).into_iter().any(|i| {
            let step = &self.steps[i];
            let first = step.inputs[0] == Some(slot);
            let out = step.outputs.first().copied().flatten();
            match step.op.as_str() {
                "LSTM" | "GRU" | "RNN" => first,
                "Squeeze" | "Unsqueeze" | "Transpose" | "Reshape" | "Identity" => {
                    first && out.is_some_and(|o| self.feeds_recurrent(o))
                }
                _ => false,
            }
        })
    }

    /// Puts dropout behind a slot: its readers see it with elements dropped and the others scaled by 1 / (1 − rate).
    pub fn drop_out(&mut self, slot: usize, rate: f64) {
        let fresh = self.new_slot(&format!("{} with dropout", self.names[slot]));
        let at = self.maker(slot).map_or(self.derived, |m| m + 1);
        for step in &mut self.steps {
            for input in step.inputs.iter_mut().filter(|i| **i == Some(slot)) {
                *input = Some(fresh);
            }
        }
        let step = Step {
            run: dropout(rate, fresh as u64),
            gradient: Gradient::Yes,
            op: "dropout".into(),
            title: format!("dropout behind \"{}\"", self.names[slot]),
            name: String::new(),
            inputs: vec![Some(slot)],
            outputs: vec![Some(fresh)],
            last: Vec::new(),
            unread: Vec::new(),
            node: None,
        };
        self.steps.insert(at, step);
        self.order();
    }
}

/// A place for dropout.
#[derive(Clone, Debug)]
pub struct Site {
    /// The value behind which it goes.
    pub slot: usize,
    /// Classes, weights, nodes and values that name it.
    pub labels: Vec<String>,
    /// Whether it lies between layers: what a single rate means.
    pub between: bool,
}

/// Rows of [.., n] by their number among all rows.
fn pick_rows<R: Real>() -> Run<R> {
    Box::new(|cx, inputs| {
        let (x, rows) = (inputs.float(0)?, inputs.int(1)?.clone());
        let (n, lead) = x.shape().split_last().ok_or_else(|| Error::failed("a number has no rows"))?;
        let n = *n;
        let (all, wanted) = rows.data().split_first().ok_or_else(|| Error::failed("no rows are named"))?;
        if lead.iter().product::<usize>() as i64 != *all {
            return Err(Error::failed(format!(
                "an output with rows {} does not fit the target, which has {all} entries: one is needed for each row",
                shape_text(lead)
            )));
        }
        let mut out = Buf::stale(wanted.len() * n);
        for (o, r) in out.chunks_exact_mut(n.max(1)).zip(wanted) {
            o.copy_from_slice(&x.data()[*r as usize * n..][..n]);
        }
        let y = Tensor::new([wanted.len(), n], out);
        if !cx.wants(0) {
            return Out::one(Value::Float(y));
        }
        let shape = x.shape().to_vec();
        Out::with(y, move |g| {
            let mut back = Tensor::zeros(shape);
            let data = back.data_mut();
            for (g, r) in g.data().chunks_exact(n.max(1)).zip(&rows.data()[1..]) {
                data[*r as usize * n..][..n].copy_from_slice(g);
            }
            Ok(vec![Some(back)])
        })
    })
}

/// Mixes a 64-bit number (Steele, Lea & Flood 2014: SplitMix64).
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn dropout<R: Real>(rate: f64, site: u64) -> Run<R> {
    Box::new(move |cx, mut inputs| {
        let mut x = inputs.take_float(0)?;
        let Some(Noise { key }) = cx.noise else {
            return if cx.wants(0) { Out::with(x, |g| Ok(vec![Some(g)])) } else { Out::one(Value::Float(x)) };
        };
        let (key, limit) = (mix(key ^ mix(site)), (rate * 65536.0).round() as u16);
        let scale = R::of(1.0 / (1.0 - f64::from(limit) / 65536.0));
        let mask = move |data: &mut [R]| {
            for (i, four) in data.chunks_mut(4).enumerate() {
                let bits = mix(key.wrapping_add(i as u64));
                for (j, v) in four.iter_mut().enumerate() {
                    *v = if ((bits >> (16 * j)) as u16) < limit { R::ZERO } else { *v * scale };
                }
            }
        };
        mask(x.data_mut());
        if !cx.wants(0) {
            return Out::one(Value::Float(x));
        }
        Out::with(x, move |mut g| {
            mask(g.data_mut());
            Ok(vec![Some(g)])
        })
    })
}
