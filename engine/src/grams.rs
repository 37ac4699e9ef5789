//! Gram matrices of what weights are multiplied with, and how often rows of embeddings are read.

use std::collections::{BTreeMap, HashSet};

use compress_core::Result;

use crate::engine::Engine;
use crate::graph::Attribute;
use crate::kernels::conv::unfold;
use crate::kernels::gemm::{Mat, matmul};
use crate::ops::Attributes;
use crate::ops::convolution::Geometry;
use crate::program::{Program, Step};
use crate::value::{Tensor, Value};

/// Σ over positions of x·xᵀ for a weight: [groups, k, k].
#[derive(Clone, Debug, Default)]
struct Gram {
    groups: usize,
    k: usize,
    sum: Vec<f64>,
    positions: u64,
}

/// Sums over batches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    grams: BTreeMap<String, Gram>,
    rows: BTreeMap<String, Vec<u64>>,
}

impl Sums {
    /// Adds those of another batch.
    pub(crate) fn add(&mut self, other: Sums) {
        for (name, g) in other.grams {
            match self.grams.get_mut(&name) {
                Some(mine) => {
                    mine.sum.iter_mut().zip(&g.sum).for_each(|(a, b)| *a += b);
                    mine.positions += g.positions;
                }
                None => {
                    self.grams.insert(name, g);
                }
            }
        }
        for (name, counts) in other.rows {
            match self.rows.get_mut(&name) {
                Some(mine) => mine.iter_mut().zip(&counts).for_each(|(a, b)| *a += b),
                None => {
                    self.rows.insert(name, counts);
                }
            }
        }
    }

    /// Most positions that any weight has seen.
    pub(crate) fn positions(&self) -> u64 {
        self.grams.values().map(|g| g.positions).max().unwrap_or(0)
    }

    /// Names, shapes and values for the evidence file.
    pub(crate) fn tensors(self) -> Vec<(String, (Vec<u64>, Vec<f32>))> {
        let grams = self.grams.into_iter().map(|(name, g)| {
            let k = g.k as u64;
            let shape = if g.groups == 1 { vec![k, k] } else { vec![g.groups as u64, k, k] };
            let n = g.positions.max(1) as f64;
            (format!("{name}.gram"), (shape, g.sum.into_iter().map(|v| (v / n) as f32).collect()))
        });
        let rows = self.rows.into_iter().map(|(name, counts)| {
            (format!("{name}.row_count"), (vec![counts.len() as u64], counts.into_iter().map(|c| c as f32).collect()))
        });
        grams.chain(rows).collect()
    }

    /// Adds `x` [rows, k] to group `group` of a weight's Gram matrix.
    fn gram(&mut self, name: &str, (group, groups): (usize, usize), x: &[f32], k: usize) {
        let g = self.grams.entry(name.to_string()).or_insert_with(|| Gram {
            groups,
            k,
            sum: vec![0.0; groups * k * k],
            positions: 0,
        });
        let rows = x.len() / k.max(1);
        let mut out = vec![0f32; k * k];
        matmul(&mut out, Mat::new(x, rows, k).t(), Mat::new(x, rows, k));
        g.sum[group * k * k..(group + 1) * k * k].iter_mut().zip(&out).for_each(|(s, v)| *s += f64::from(*v));
        if group == 0 {
            g.positions += rows as u64;
        }
    }
}

/// Which steps are watched.
pub(crate) struct Collector {
    gram: bool,
    row_count: bool,
    /// Slots computed from the inputs that go along with the target.
    decoder: HashSet<usize>,
    /// For each step: the weights that it reads, by input.
    weights: Vec<Vec<Option<String>>>,
}

impl Collector {
    pub(crate) fn new(engine: &Engine, gram: bool, row_count: bool) -> Collector {
        let program = &engine.program;
        let target = engine.columns.iter().find(|c| c.name == engine.objective.target).and_then(|c| c.group.clone());
        let prefix = engine.data.bleu.as_ref().map(|b| b.prefix.clone());
        let along = |name: &str| {
            let group = engine.columns.iter().find(|c| c.name == name).and_then(|c| c.group.clone());
            Some(name) == prefix.as_deref() || (group.is_some() && group == target)
        };
        let mut decoder: HashSet<usize> =
            program.inputs.iter().filter(|(_, i)| along(&i.name)).map(|(s, _)| *s).collect();
        let weighty = |step: &Step<f32>| {
            step.inputs.iter().map(|s| s.and_then(|s| engine.fixed_weight(s))).collect::<Vec<Option<String>>>()
        };
        for step in &program.steps {
            if step.inputs.iter().flatten().any(|s| decoder.contains(s)) {
                decoder.extend(step.outputs.iter().flatten());
            }
        }
        Collector { gram, row_count, decoder, weights: program.steps.iter().map(weighty).collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.gram && !self.row_count
    }

    /// Adds what a step shows. `target` tells which decoder positions count.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn see(
        &self,
        program: &Program<f32>,
        i: usize,
        inputs: &[Option<Value<f32>>],
        outputs: &[Value<f32>],
        target: Option<&Value<f32>>,
        ignore: Option<i64>,
        sums: &mut Sums,
    ) -> Result<()> {
        let step = &program.steps[i];
        let weight = |k: usize| self.weights[i].get(k).and_then(Option::as_ref);
        let input = |k: usize| inputs.get(k).and_then(Option::as_ref);
        let on_decoder = |k: usize| step.inputs.get(k).copied().flatten().is_some_and(|s| self.decoder.contains(&s));
        let counted = |k: usize, lead: &[usize], time_major: bool| match target {
            Some(Value::Int(t, _)) if on_decoder(k) => flags(t, ignore, lead, time_major),
            _ => None,
        };
        match step.op.as_str() {
            "Gather" if self.row_count && weight(0).is_some() => {
                if let (Some(name), Some(table), Some(Value::Int(ids, _))) = (weight(0), input(0), input(1)) {
                    let rows = table.shape()[0];
                    let keep = counted(1, ids.shape(), false);
                    let counts = sums.rows.entry(name.clone()).or_insert_with(|| vec![0; rows]);
                    let listed = ids.data().iter().enumerate();
                    for (_, id) in listed.filter(|(j, _)| keep.as_ref().is_none_or(|k| k[*j])) {
                        counts[crate::ops::index_within(*id, rows)?] += 1;
                    }
                }
            }
            "MatMul" | "Gemm" if self.gram => {
                let turned = integer(step, "transA") != 0;
                if let (Some(name), Some(Value::Float(x)), false) = (weight(1), input(0), turned) {
                    let (k, lead) = match x.shape().split_last() {
                        Some((k, lead)) => (*k, lead),
                        None => return Ok(()),
                    };
                    let keep = counted(0, lead, false);
                    sums.gram(name, (0, 1), &kept(x.data(), k, keep.as_deref()), k);
                }
            }
            "LSTM" | "GRU" | "RNN" if self.gram => self.recurrent(step, i, inputs, outputs, &counted, sums)?,
            "Conv" if self.gram => {
                if let (Some(name), Some(Value::Float(x)), Some(Value::Float(w))) = (weight(1), input(0), input(1)) {
                    convolution(step, name, x, w, sums)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// W sees the input, R the state before each step.
    fn recurrent(
        &self,
        step: &Step<f32>,
        i: usize,
        inputs: &[Option<Value<f32>>],
        outputs: &[Value<f32>],
        counted: &dyn Fn(usize, &[usize], bool) -> Option<Vec<bool>>,
        sums: &mut Sums,
    ) -> Result<()> {
        let (Some(Some(Value::Float(x))), Some(Value::Float(y))) = (inputs.first(), outputs.first()) else {
            return Ok(());
        };
        let batch_first = integer(step, "layout") != 0;
        let keep = counted(0, &x.shape()[..2], !batch_first);
        let rows = x.shape()[0] * x.shape()[1];
        let (time, batch) = if batch_first { (x.shape()[1], x.shape()[0]) } else { (x.shape()[0], x.shape()[1]) };
        // y: [time, dirs, batch, hidden], or [batch, time, dirs, hidden]
        let (dirs, hidden) = (y.len() / (rows * y.shape()[3]).max(1), y.shape()[3]);
        let initial = match inputs.get(5) {
            Some(Some(Value::Float(h))) => Some(h),
            _ => None,
        };
        let reverse_only = step.node.as_ref().is_some_and(|n| {
            n.attributes.iter().any(|(k, v)| k == "direction" && matches!(v, Attribute::Text(t) if t == "reverse"))
        });
        for d in 0..dirs {
            if let Some(name) = &self.weights[i][1] {
                let k = x.shape()[2];
                sums.gram(name, (d, dirs), &kept(x.data(), k, keep.as_deref()), k);
            }
            let Some(name) = &self.weights[i][2] else { continue };
            let reverse = reverse_only || d == 1;
            let mut before = Vec::with_capacity(rows * hidden);
            for r in 0..rows {
                let (t, b) = if batch_first { (r % time, r / time) } else { (r / batch, r % batch) };
                let first = if reverse { t + 1 == time } else { t == 0 };
                let at = |t: usize| if batch_first { (b * time + t) * dirs + d } else { (t * dirs + d) * batch + b };
                match (first, initial) {
                    (true, Some(h)) => {
                        let at = if batch_first { b * dirs + d } else { d * batch + b };
                        before.extend_from_slice(&h.data()[at * hidden..][..hidden]);
                    }
                    (true, None) => before.resize(before.len() + hidden, 0.0),
                    _ => {
                        let at = at(if reverse { t + 1 } else { t - 1 });
                        before.extend_from_slice(&y.data()[at * hidden..][..hidden]);
                    }
                }
            }
            sums.gram(name, (d, dirs), &kept(&before, hidden, keep.as_deref()), hidden);
        }
        Ok(())
    }
}

fn convolution(step: &Step<f32>, name: &str, x: &Tensor<f32>, w: &Tensor<f32>, sums: &mut Sums) -> Result<()> {
    let Some(node) = &step.node else { return Ok(()) };
    let (window, _) = Geometry::read(&Attributes::new(node))?.window(&x.shape()[2..], Some(&w.shape()[2..]))?;
    let (channels, each) = (x.shape()[1], w.shape()[1]);
    let (groups, n_in, k) = (channels / each.max(1), window.input_len(), each * window.kernel_len());
    let n_out = window.output_len();
    let mut cols = vec![0f32; k * n_out];
    let mut rows = vec![0f32; k * n_out];
    for b in 0..x.shape()[0] {
        for g in 0..groups {
            unfold(&window, &x.data()[(b * channels + g * each) * n_in..][..each * n_in], each, &mut cols);
            for c in 0..k {
                for o in 0..n_out {
                    rows[o * k + c] = cols[c * n_out + o];
                }
            }
            sums.gram(name, (g, groups), &rows, k);
        }
    }
    Ok(())
}

fn integer(step: &Step<f32>, name: &str) -> i64 {
    let attributes = step.node.iter().flat_map(|n| &n.attributes);
    attributes
        .filter(|(n, _)| n == name)
        .find_map(|(_, v)| if let Attribute::Int(i) = v { Some(*i) } else { None })
        .unwrap_or(0)
}

/// Which rows of [lead, ·] belong to targets that count; `None` where the shapes do not tell.
fn flags(target: &Tensor<i64>, ignore: Option<i64>, lead: &[usize], time_major: bool) -> Option<Vec<bool>> {
    let flag = |i: usize| Some(target.data()[i]) != ignore;
    match *target.shape() {
        [b, t] if time_major && lead == [t, b] => Some((0..t * b).map(|r| flag(r % b * t + r / b)).collect()),
        [b, t] if !time_major && (lead == [b, t] || lead == [b * t]) => Some((0..b * t).map(flag).collect()),
        [b] if lead == [b] => Some((0..b).map(flag).collect()),
        _ => None,
    }
}

/// The rows of x that count.
fn kept<'a>(x: &'a [f32], k: usize, keep: Option<&[bool]>) -> std::borrow::Cow<'a, [f32]> {
    match keep {
        None => x.into(),
        Some(keep) => {
            let rows = x.chunks_exact(k.max(1)).zip(keep).filter(|(_, on)| **on);
            rows.flat_map(|(row, _)| row.iter().copied()).collect::<Vec<f32>>().into()
        }
    }
}
