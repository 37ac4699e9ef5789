//! One batch through the program, cut into a constant number of slices that run side by side and are summed in order:
//! the same bits with any number of threads.

use std::ops::Range;

use compress_core::{Error, Result};
use rayon::prelude::*;

use crate::data::{Batch, slice};
use crate::execute::{Base, Mode, accumulate};
use crate::loss::{Share, Tally, counted, distilled, loss};
use crate::ops::Noise;
use crate::program::Program;
use crate::real::Real;
use crate::rewrite::{ROWS, mix};
use crate::value::{Tensor, Value};

/// Slices of a training batch.
pub const SLICES: usize = 2;

/// What an output is compared with.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Name of the target in the data.
    pub target: String,
    /// Target value that does not count.
    pub ignore: Option<i64>,
    /// Whether the program sees counted rows only ([`Program::compact`]).
    pub compact: bool,
    /// Slices that a batch may be cut into: 1 where the graph fixes the number of examples.
    pub slices: usize,
}

/// Gradients in the order of the program's params, and the loss.
pub struct Gradients<R: Real> {
    /// `None` where nothing came back.
    pub params: Vec<Option<Tensor<R>>>,
    /// Loss and counts of the batch.
    pub tally: Tally,
}

/// A batch made ready: its targets taken out, its counted rows numbered.
pub(crate) struct Ready<R: Real> {
    pub(crate) inputs: Batch<R>,
    pub(crate) target: Value<R>,
    pub(crate) counted: u64,
}

impl Objective {
    pub(crate) fn ready<R: Real>(&self, mut batch: Batch<R>) -> Result<Ready<R>> {
        let at = batch
            .iter()
            .position(|(n, _)| *n == self.target)
            .ok_or_else(|| Error::failed(format!("the data have no target \"{}\"", self.target)))?;
        let target = batch[at].1.clone();
        let Value::Int(ids, _) = &target else {
            let counted = target.len() as u64;
            return Ok(Ready { inputs: batch, target, counted });
        };
        let rows = counted(ids, self.ignore);
        let count = rows.len() as u64;
        if !self.compact {
            return Ok(Ready { inputs: batch, target, counted: count });
        }
        let picked: Vec<i64> = rows.iter().map(|r| ids.data()[*r as usize]).collect();
        let numbers = std::iter::once(ids.len() as i64).chain(rows).collect();
        batch.push((ROWS.into(), Value::ints(Tensor::vector(numbers))));
        Ok(Ready { inputs: batch, target: Value::ints(Tensor::vector(picked)), counted: count })
    }

    fn cuts(&self, rows: usize) -> Vec<Range<usize>> {
        let n = self.slices.min(rows).max(1);
        (0..n).map(|i| i * rows / n..(i + 1) * rows / n).collect()
    }
}

/// Loss of a batch without gradients, and the output where `keep` asks for it.
pub fn evaluate<R: Real>(
    program: &Program<R>,
    base: &Base<R>,
    objective: &Objective,
    batch: Batch<R>,
) -> Result<Tally> {
    let ready = objective.ready(batch)?;
    if ready.counted == 0 {
        return Ok(Tally::default());
    }
    let pass = program.forward(base, &ready.inputs, Mode::default(), None)?;
    let output = output(pass.outputs)?;
    Ok(loss(output, &ready.target, objective.ignore, 1.0)?.0)
}

pub(crate) fn output<R: Real>(outputs: Vec<Value<R>>) -> Result<Tensor<R>> {
    match outputs.into_iter().next() {
        Some(Value::Float(t)) => Ok(t),
        _ => Err(Error::failed("the output that is compared with the target is no float tensor")),
    }
}

/// A model whose answers are learnt from.
pub struct Teacher<R: Real> {
    pub(crate) program: Program<R>,
    pub(crate) base: Base<R>,
    pub(crate) share: Share,
}

/// Which labels a gradient is taken for.
#[derive(Clone, Copy)]
pub enum Labels<'t, R: Real> {
    /// Those of the data.
    Given,
    /// Those of the data, and beside them what a teacher says.
    Taught(&'t Teacher<R>),
    /// Drawn from the model's own distribution, by this key.
    Drawn(u64),
}

/// A number in [0, 1) made from a counter.
fn uniform(key: u64, i: u64) -> f64 {
    (mix(mix(key).wrapping_add(i)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Labels drawn independently from softmax(output). For squared error, whose model is a normal distribution of variance
/// 1/2 around the output (its −log p is the squared error), output + N(0, 1/2). Ignored targets stay ignored.
fn drawn<R: Real>(output: &Tensor<R>, target: &Value<R>, ignore: Option<i64>, key: u64) -> Value<R> {
    let Value::Int(given, kind) = target else {
        let normal = |i: usize| {
            let (u, v) = (1.0 - uniform(key, 2 * i as u64), uniform(key, 2 * i as u64 + 1));
            (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
        };
        let values = output.data().iter().enumerate().map(|(i, o)| *o + R::of(normal(i) * 0.5f64.sqrt()));
        return Value::Float(Tensor::new(output.shape(), values.collect::<Vec<_>>()));
    };
    let n = output.shape().last().copied().unwrap_or(1).max(1);
    let rows = output.data().chunks_exact(n).zip(given.data()).enumerate();
    let labels = rows.map(|(i, (row, t))| {
        if Some(*t) == ignore {
            return *t;
        }
        let max = crate::kernels::lane_max(row).f64();
        let weights: Vec<f64> = row.iter().map(|v| (v.f64() - max).exp()).collect();
        let mut left = uniform(key, i as u64) * weights.iter().sum::<f64>();
        let hit = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        hit.unwrap_or(n - 1) as i64
    });
    Value::Int(Tensor::new(given.shape(), labels.collect::<Vec<_>>()), *kind)
}

/// Gradients of the mean loss over the counted targets of a batch.
pub fn gradients<R: Real>(
    program: &Program<R>,
    weights: &[Tensor<R>],
    carriers: &[bool],
    objective: &Objective,
    batch: &Batch<R>,
    noise: Option<u64>,
    labels: Labels<R>,
) -> Result<Gradients<R>> {
    let rows = batch.first().map_or(0, |(_, v)| v.shape().first().copied().unwrap_or(0));
    let ready =
        objective.cuts(rows).iter().map(|range| objective.ready(slice(batch, range)?)).collect::<Result<Vec<_>>>()?;
    let total: u64 = ready.iter().map(|r| r.counted).sum();
    if total == 0 {
        return Ok(Gradients { params: vec![None; program.params.len()], tally: Tally::default() });
    }
    let base = program.base(weights, Some(carriers))?;
    let results: Vec<Result<(Tally, Vec<Option<Tensor<R>>>)>> = ready
        .into_par_iter()
        .enumerate()
        .map(|(i, ready)| {
            if ready.counted == 0 {
                return Ok((Tally::default(), vec![None; program.slots]));
            }
            let noise = noise.map(|key| Noise { key: mix(key ^ mix(i as u64)) });
            let mode = Mode { carriers: Some(carriers), noise };
            let mut pass = program.forward(&base, &ready.inputs, mode, None)?;
            let out = output(std::mem::take(&mut pass.outputs))?;
            let scale = 1.0 / total as f64;
            let (tally, grad) = match labels {
                Labels::Given => loss(out, &ready.target, objective.ignore, scale)?,
                Labels::Taught(Teacher { program, base, share }) => {
                    let said = program.forward(base, &ready.inputs, Mode::default(), None)?;
                    distilled(out, &ready.target, output(said.outputs)?, objective.ignore, scale, *share)?
                }
                // in counted rows a drawn label may be the ignored one: it counts all the same
                Labels::Drawn(key) => {
                    let ignore = if objective.compact { None } else { objective.ignore };
                    let target = drawn(&out, &ready.target, ignore, mix(key ^ mix(i as u64)));
                    loss(out, &target, ignore, scale)?
                }
            };
            Ok((tally, program.backward(pass, vec![Some(grad)])?))
        })
        .collect();
    let (mut tally, mut sum) = (Tally::default(), Vec::new());
    for result in results {
        let (t, grads) = result?;
        tally.add(t);
        if sum.is_empty() {
            sum = grads;
            continue;
        }
        for (s, g) in sum.iter_mut().zip(grads) {
            accumulate(s, g);
        }
    }
    Ok(Gradients { params: program.weight_gradients(base, sum)?, tally })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_drawn_from_the_softmax() {
        let output = Tensor::new([1, 3], vec![0.0f64, 1.0, 2.0]);
        let target = Value::ints(Tensor::vector(vec![0]));
        let mut hits = [0.0; 3];
        for key in 0..30_000 {
            if let Value::Int(t, _) = drawn(&output, &target, None, key) {
                hits[t.data()[0] as usize] += 1.0 / 30_000.0;
            }
        }
        for (hit, expected) in hits.iter().zip([0.090_03, 0.244_73, 0.665_24]) {
            assert!((hit - expected).abs() < 0.01, "{hits:?}");
        }
        let ignored = drawn(&output, &target, Some(0), 1);
        assert_eq!(ignored.int().unwrap().data(), [0]);
    }

    /// One output of a model y = w·x: the Gauss–Newton diagonal of (y − t)² is 2x².
    #[test]
    fn drawn_targets_of_squared_error_are_unbiased() {
        let (x, n) = (3.0, 20_000);
        let output = Tensor::vector(vec![1.5f64]);
        let target = Value::Float(Tensor::vector(vec![-4.0]));
        let mut mean = 0.0;
        for key in 0..n {
            let label = drawn(&output, &target, None, key);
            let (_, g) = loss(output.clone(), &label, None, 1.0).unwrap();
            mean += (g.data()[0] * x).powi(2) / n as f64;
        }
        assert!((mean - 2.0 * x * x).abs() < 0.5, "{mean}");
    }
}
