//! Measures evidence over the training data, batch by batch.
//!
//! | kind | what is written |
//! |---|---|
//! | fisher_diag | mean over batches of g², g the gradient of the batch's mean loss over counted targets |
//! | hessian_diag | mean over batches of N·ĝ², N counted targets, ĝ the same gradient with every label drawn from the model |
//! | gram | mean over positions of x·xᵀ, x what a weight is multiplied with |
//! | row_count | how often each row of an embedding is read |
//!
//! `hessian_diag` is unbiased for the diagonal of the Gauss–Newton matrix, which LeCun, Denker & Solla (1990) used as
//! well, not of the Hessian. Where a graph's target has positions that are ignored, `gram` and `row_count` leave out what
//! is computed for them; the rest of the padding counts, because the layers compute it.

use std::collections::BTreeMap;
use std::path::Path;

use compress_core::progress::{Unit, Watch};
use compress_core::stfile::{Spec, StWriter};
use compress_core::tensor::Dtype;
use compress_core::{Error, Result};
use compress_sdk::EvidenceKind;
use rayon::prelude::*;

use crate::engine::{Engine, Split, Weights};
use crate::execute::{Base, Mode};
use crate::grams::{Collector, Sums};
use crate::rewrite::mix;
use crate::step::{Labels, Objective, gradients};
use crate::value::Tensor;

/// Batches that are computed side by side; a constant, so that sums do not depend on the number of threads.
const SIDE_BY_SIDE: usize = 4;

/// What to measure with.
#[derive(Clone, Copy, Debug)]
pub struct MeasureOptions {
    /// Examples of the training data, from the first.
    pub examples: u64,
    /// Examples a batch.
    pub batch: u64,
    /// For drawing labels.
    pub seed: u64,
}

/// Σ over batches of a diagonal, by parameter.
type Diagonal = Vec<Vec<f64>>;

impl Engine<'_> {
    /// Measures the kinds asked for and writes the evidence file.
    pub fn measure(
        &self,
        weights: &dyn Weights,
        kinds: &[EvidenceKind],
        options: MeasureOptions,
        out: &Path,
        watch: Watch,
    ) -> Result<()> {
        self.need_target()?;
        let examples = self.examples(Split::Train)?;
        let count = (options.examples.max(1) as usize).min(examples.count());
        let rows: Vec<usize> = (0..count).collect();
        let batches: Vec<&[usize]> = rows.chunks(self.batch(options.batch.max(1) as usize)).collect();
        let params = self.read(&self.program, weights)?;
        let trained = |name: &str| self.weights.iter().any(|w| w.name == name && w.trained);
        let carriers = self.program.carriers(trained)?;
        let objective = Objective { slices: 1, ..self.objective.clone() };
        let base = self.program.base(&params, None)?;
        let wants = |k: EvidenceKind| kinds.contains(&k);
        let collector = Collector::new(self, wants(EvidenceKind::Gram), wants(EvidenceKind::RowCount));
        let zeros = |on: bool| -> Diagonal {
            params.iter().map(|t| if on { vec![0.0; t.len()] } else { Vec::new() }).collect()
        };
        let mut fisher = zeros(wants(EvidenceKind::FisherDiag));
        let mut hessian = zeros(wants(EvidenceKind::HessianDiag));
        let mut sums = Sums::default();
        let mut used = 0u64;
        watch.progress.begin("measure", count as u64, Unit::Count);
        for (g, group) in batches.chunks(SIDE_BY_SIDE).enumerate() {
            let done: Vec<Result<One>> = group
                .par_iter()
                .enumerate()
                .map(|(i, rows)| {
                    watch.tick(rows.len() as u64)?;
                    let batch = examples.batch(rows)?;
                    let diagonal =
                        |labels| gradients(&self.program, &params, &carriers, &objective, &batch, None, labels);
                    let key = mix(options.seed ^ mix((g * SIDE_BY_SIDE + i) as u64));
                    let fisher = wants(EvidenceKind::FisherDiag).then(|| diagonal(Labels::Given)).transpose()?;
                    let hessian = wants(EvidenceKind::HessianDiag).then(|| diagonal(Labels::Drawn(key))).transpose()?;
                    let sums = self.grams(&collector, &base, &objective, batch)?;
                    Ok(One { fisher, hessian, sums })
                })
                .collect();
            for one in done {
                let one = one?;
                let counted = |g: &Option<crate::step::Gradients<f32>>| g.as_ref().map_or(0, |g| g.tally.counted);
                used += u64::from(counted(&one.fisher).max(counted(&one.hessian)) > 0);
                add_squares(&mut fisher, one.fisher.map(|g| (g.params, 1.0)));
                let n = counted(&one.hessian) as f64;
                add_squares(&mut hessian, one.hessian.map(|g| (g.params, n)));
                sums.add(one.sums);
            }
        }
        watch.progress.end();
        let mut tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)> = BTreeMap::new();
        for (kind, sum) in [(EvidenceKind::FisherDiag, fisher), (EvidenceKind::HessianDiag, hessian)] {
            for ((p, t), values) in self.program.params.iter().zip(&params).zip(sum).filter(|(_, v)| !v.is_empty()) {
                if !trained(&p.name) {
                    continue;
                }
                let mean = values.into_iter().map(|v| (v / used.max(1) as f64) as f32).collect();
                let shape = t.shape().iter().map(|d| *d as u64).collect();
                tensors.insert(format!("{}.{}", p.name, kind.name()), (shape, mean));
            }
        }
        let positions = sums.positions();
        tensors.extend(sums.tensors());
        if tensors.is_empty() {
            return Err(Error::failed(
                "there is nothing to measure: no weight of the graph has evidence of these kinds",
            ));
        }
        let metadata =
            [("positions", positions), ("examples", count as u64), ("batch", options.batch), ("seed", options.seed)];
        write(out, tensors, &metadata.map(|(k, v)| (k.to_string(), v.to_string())))
    }

    fn grams(
        &self,
        collector: &Collector,
        base: &Base<f32>,
        objective: &Objective,
        batch: crate::data::Batch<f32>,
    ) -> Result<Sums> {
        let mut sums = Sums::default();
        if collector.is_empty() {
            return Ok(sums);
        }
        let target = batch.iter().find(|(n, _)| *n == objective.target).map(|(_, v)| v.clone());
        let ready = objective.ready(batch)?;
        let mut observe =
            |i: usize, inputs: &[Option<crate::value::Value<f32>>], outputs: &[crate::value::Value<f32>]| {
                collector.see(&self.program, i, inputs, outputs, target.as_ref(), objective.ignore, &mut sums)
            };
        self.program.forward(base, &ready.inputs, Mode::default(), Some(&mut observe))?;
        Ok(sums)
    }
}

/// What one batch gave.
struct One {
    fisher: Option<crate::step::Gradients<f32>>,
    hessian: Option<crate::step::Gradients<f32>>,
    sums: Sums,
}

fn add_squares(sum: &mut Diagonal, gradients: Option<(Vec<Option<Tensor<f32>>>, f64)>) {
    let Some((params, factor)) = gradients else { return };
    sum.par_iter_mut().zip(params).for_each(|(sum, g)| {
        if let Some(g) = g {
            for (s, g) in sum.iter_mut().zip(g.data()) {
                *s += factor * f64::from(*g) * f64::from(*g);
            }
        }
    });
}

fn write(out: &Path, tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>, metadata: &[(String, String)]) -> Result<()> {
    let specs: Vec<Spec> =
        tensors.iter().map(|(n, (s, _))| Spec { name: n.clone(), dtype: Dtype::F32, shape: s.clone() }).collect();
    let writer = StWriter::create(out, &specs, metadata)?;
    for (i, (_, values)) in tensors.values().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write_at(i, 0, &bytes)?;
    }
    writer.finish()?.persist(out)
}
