//! Encode stages, and their codings when values change later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Run;
use crate::encode::coding::{Codebook, Scales};
use crate::encode::{Fitted, Pieces, ValueCoding, terms};
use crate::error::{Error, Result};
use crate::packing::{Coding, Encoded, Encoder, Outcome, Stats};
use crate::plan::PackWork;
use crate::recipe::EncodeLayout;
use crate::report::{StageClass, StageReport, StageTensor, Untouched};
use crate::tensor::TensorId;
use crate::weights::{Base, Rule, TensorState};

impl Run<'_> {
    /// Gives the stage's tensors their coding.
    pub(super) fn pack(&mut self, work: &PackWork<'_>) -> Result<StageReport> {
        let done = match self.ahead.pop_front() {
            Some(done) => done,
            None => self.encoder().run(work.stage, &work.tensors)?,
        };
        let report = self.pack_report(work, &done);
        for encoded in done {
            if let Some(state) = encoded.state {
                self.weights.tensors[encoded.tensor] = state;
                // A product of coded factors may be zero where that of the factors was not.
                for (part, stats) in self.plan.map.part_range(encoded.tensor).zip(&encoded.parts) {
                    // What a dry run has not pruned it counts only here; a run reads the output again.
                    if self.pruned[part].is_some() || self.options.dry_run {
                        self.pruned[part] = Some(stats.zeros);
                    }
                }
            }
        }
        Ok(report)
    }

    pub(super) fn encoder(&self) -> Encoder<'_> {
        Encoder {
            weights: &self.weights,
            map: &self.plan.map,
            held: &self.held,
            packer: &self.packer,
            watch: self.watch,
        }
    }

    fn pack_report(&self, work: &PackWork<'_>, done: &[Encoded]) -> StageReport {
        let (map, infos) = (&self.plan.map, self.plan.model.tensors());
        let mut report = StageReport::default();
        let mut untouched = work.untouched.clone();
        let mut classes: BTreeMap<usize, (StageClass, Stats)> = BTreeMap::new();
        let mut lossy = false;
        for encoded in done {
            let (id, info) = (encoded.tensor, &infos[encoded.tensor]);
            let before = self.bytes_now(id);
            let (packed, after) = match &encoded.outcome {
                Outcome::Packed(how, bytes) => (how.clone(), *bytes),
                Outcome::Unpacked => ("dense".to_string(), info.dense_bytes()),
                Outcome::Left(reason) => {
                    untouched.push((id, reason.clone()));
                    (String::new(), before)
                }
            };
            if !packed.is_empty() {
                let (bytes_before, bytes_after) = (before, after);
                report.tensors.push(StageTensor { tensor: info.name.clone(), packed, bytes_before, bytes_after });
            }
            for (part, stats) in map.parts_of(id).iter().zip(&encoded.parts) {
                let share = |bytes: u64| {
                    (u128::from(bytes) * u128::from(part.spec.weights()) / u128::from(info.elements.max(1))) as u64
                };
                let (class, sums) = classes.entry(part.class).or_default();
                class.name = map.classes[part.class].name.clone();
                class.weights += part.spec.weights();
                class.pruned += stats.zeros;
                class.bytes_before = Some(class.bytes_before.unwrap_or(0) + share(before));
                class.bytes_after = Some(class.bytes_after.unwrap_or(0) + share(after));
                *sums = sums.plus(*stats);
                lossy |= stats.lost > 0.0;
            }
        }
        report.classes = classes
            .into_values()
            .map(|(mut class, sums)| {
                if lossy {
                    class.max_error = Some(sums.most);
                    class.relative_error = Some(if sums.whole > 0.0 { (sums.lost / sums.whole).sqrt() } else { 0.0 });
                }
                class
            })
            .collect();
        untouched.sort();
        report.untouched =
            untouched.into_iter().map(|(id, reason)| Untouched { tensor: infos[id].name.clone(), reason }).collect();
        report
    }

    /// Bytes of a tensor as it would be written now, without names and operators.
    fn bytes_now(&self, id: TensorId) -> u64 {
        let (state, info) = (&self.weights.tensors[id], &self.plan.model.tensors()[id]);
        match (&state.coding, &state.base) {
            (Some(coding), _) => coding.decided.as_ref().map_or(info.dense_bytes(), |decided| {
                let (survey, layout) = (&decided.survey, decided.layout);
                crate::encode::pack::outline(&info.dtype, &info.shape, survey, layout, &coding.fitted).bytes()
            }),
            (None, Base::Terms(terms)) => terms.pieces().outline().bytes(),
            (None, Base::Pieces(pieces)) => pieces.outline().bytes(),
            (None, _) if self.weights.is_unchanged(id) => info.stored_bytes,
            _ => info.dense_bytes(),
        }
    }

    /// Takes new values for a tensor; a coding that it has is fitted to them.
    pub(super) fn take(&mut self, id: TensorId, base: Base) -> Result<()> {
        let old = std::mem::replace(&mut self.weights.tensors[id], TensorState::new(base));
        if let Some(coding) = old.coding {
            let state = self.encoder().again(id, &coding);
            let name = &self.plan.model.tensors()[id].name;
            self.weights.tensors[id] = state.map_err(|e| e.at(format!("\"{name}\"")))?;
        }
        Ok(())
    }
}

/// A tensor's coding in the state of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CodingRecord {
    tensor: TensorId,
    layout: String,
    values: String,
    keeps: bool,
    /// Whether it is a sum of terms of the model, coded anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sum: bool,
    /// Of int8: the shape of the scales and how many elements lie side by side under one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shape: Vec<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    inner: u64,
    /// Scales or codebook, as bits of f32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<u32>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Run<'_> {
    /// The codings of all tensors, for the state.
    pub(super) fn codings(&self) -> Vec<CodingRecord> {
        let record = |(tensor, state): (usize, &TensorState)| {
            if let Base::Pieces(pieces) = &state.base {
                let values = pieces.outline().terms.first()?.values.to_string();
                return Some(CodingRecord { tensor, values, sum: true, ..CodingRecord::default() });
            }
            let coding = state.coding.as_ref()?;
            let mut record = CodingRecord {
                tensor,
                layout: coding.layout.name().into(),
                values: coding.fitted.coding().to_string(),
                keeps: coding.keeps,
                ..CodingRecord::default()
            };
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
            match coding.fitted.as_ref() {
                Fitted::Int8(scales) => {
                    (record.shape, record.inner) = (scales.shape.clone(), scales.inner);
                    record.numbers = bits(&scales.values);
                }
                Fitted::Codebook(book) => record.numbers = bits(book.entries()),
                Fitted::Plain | Fitted::F16 | Fitted::Bf16 => {}
            }
            Some(record)
        };
        self.weights.tensors.iter().enumerate().filter_map(record).collect()
    }

    /// Takes up the codings of a kept stage; the values are there already, as the codings left them.
    pub(super) fn restore_codings(&mut self, records: Vec<CodingRecord>) -> Result<()> {
        for record in records {
            let damaged = || Error::failed("the state's codings are damaged; --force starts anew");
            let id = record.tensor;
            let info = self.plan.model.tensors().get(id).ok_or_else(damaged)?;
            let values = ValueCoding::named(&record.values).ok_or_else(damaged)?;
            if record.sum {
                let (source, inner) = self.plan.model.origin(id);
                let decoder = self.plan.model.sources()[source].decoder(inner).ok_or_else(damaged)?;
                let pieces = Pieces::of(&terms::recode(decoder, values)?)?;
                self.weights.tensors[id] = TensorState::new(Base::Pieces(pieces.into()));
                continue;
            }
            let numbers: Vec<f32> = record.numbers.iter().map(|b| f32::from_bits(*b)).collect();
            let fitted = match values {
                ValueCoding::Plain => Fitted::Plain,
                ValueCoding::F16 => Fitted::F16,
                ValueCoding::Bf16 => Fitted::Bf16,
                ValueCoding::Int8 if !numbers.is_empty() && record.inner > 0 => {
                    Fitted::Int8(Scales { shape: record.shape, inner: record.inner, values: numbers })
                }
                ValueCoding::Codebook(bits) if numbers.len() == 1 << bits => {
                    Fitted::Codebook(Codebook::new(bits, numbers, &info.dtype))
                }
                _ => return Err(damaged()),
            };
            let layout = EncodeLayout::ALL.into_iter().find(|l| l.name() == record.layout).ok_or_else(damaged)?;
            let (fitted, keeps) = (std::sync::Arc::new(fitted), record.keeps);
            let state = &mut self.weights.tensors[id];
            if *fitted != Fitted::Plain {
                state.rules.push(Rule::Coded(fitted.clone(), keeps));
            }
            state.coding = Some(Coding { layout, fitted, keeps, decided: None });
        }
        Ok(())
    }
}
