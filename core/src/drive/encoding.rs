//! Stages whose method encodes parts anew, and prunings of what a sum of terms lacks of the weights that it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compress_sdk::Encoding;

use super::{Run, Several};
use crate::class::resolve::ClassMap;
use crate::convert::from_f32;
use crate::encode::ValueCoding;
use crate::encode::stored::nonzero_term;
use crate::error::{Error, Result};
use crate::format::BLOCK_BYTES;
use crate::ordered::try_map;
use crate::plan::encoding::{matrices, part_matrices};
use crate::plan::{Choice, EncodeWork, Matrix, PruneWork};
use crate::population::{cut_blocks, places};
use crate::progress::Unit;
use crate::prune::{PartCount, Pruned};
use crate::recipe::{MethodStage, Pattern};
use crate::reencode::{May, New, NewValues, Reencoding};
use crate::registry::Origin;
use crate::report::{StagePart, StageReport};
use crate::tensor::TensorId;
use crate::weights::{Base, TensorState, Terms, Weights};

/// The report of a stage that a dry run leaves out.
pub(super) fn unmeasured() -> StageReport {
    let warning = "not run: a dry run does not measure the evidence that it needs";
    StageReport { warnings: vec![warning.into()], ..StageReport::default() }
}

/// What a stage that changes values works on.
struct Subject<'p> {
    parts: Vec<usize>,
    /// Tensors that it leaves alone, with the reason.
    left: Vec<(TensorId, String)>,
    /// What the sums of terms lack, where the stage works on that.
    residual: Option<Weights<'p>>,
}

impl<'p> Run<'p> {
    /// A stage whose method encodes.
    pub(super) fn reencode(&mut self, work: &EncodeWork<'p>, seed: u64, portion: f64) -> Result<StageReport> {
        let card = work.method.card();
        let mut subject = self.subject(work.stage, &work.parts)?;
        let seen = subject.residual.as_ref().unwrap_or(&self.weights);
        let selection = match work.choice.pruning() {
            Some(pruning) if self.is_unmeasured(pruning) => {
                return Ok(unmeasured());
            }
            Some(pruning) => Some(self.selected(pruning, seen, &subject.parts, seed, portion)?),
            None => None,
        };
        if self.lacks_evidence(work.stage, work.method, &work.evidence) {
            return self.foresee(work.stage, &subject, selection);
        }
        let covered: Vec<usize> = match &selection {
            Some(pruned) => pruned.parts.iter().map(|p| p.part).collect(),
            None => subject.parts.clone(),
        };
        let map = &self.plan.map;
        let mut masked = seen.clone();
        if let (Choice::Core(_), Some(pruned)) = (&work.choice, &selection) {
            pruned.rules.iter().for_each(|(tensor, rule)| masked.tensors[*tensor].add(rule.clone()));
        }
        let matrices = match work.choice {
            Choice::Method(_) => part_matrices(&self.plan.model, map, &covered),
            _ => matrices(&self.plan.model, map, &covered)?,
        };
        let quota = |m: &Matrix| selection.iter().flat_map(|s| &s.parts).find(|p| p.part == m.parts[0]);
        let may = |m: &Matrix| match work.choice {
            Choice::Core(_) => May::Mask(&masked),
            Choice::Method(_) => quota(m).map_or(May::All, |p| May::Quota(p.pruned)),
            Choice::Nobody if work.stage.residual => May::All,
            Choice::Nobody if self.held.contains(&m.place.tensor) => May::Mask(seen),
            Choice::Nobody => May::All,
        };
        let instance = Several::create(work.method, &work.options, seed)?;
        let job = Reencoding {
            instance: &instance,
            evidence: self.evidence_for(work.method, &work.options, &work.evidence, &covered)?,
            weights: seen,
            matrices: matrices.iter().map(|m| (m.clone(), may(m))).collect(),
            pattern: match work.stage.pattern {
                Pattern::NofM { n, m } => (n as usize, m as usize),
                _ => (0, 0),
            },
            parallel: card.thread_safe && !matches!(work.method.origin(), Origin::Program(_)),
            output: self.plan.recipe.output()?,
            watch: self.watch,
        };
        let total = matrices.iter().map(|m| m.place.len()).sum();
        self.watch.progress.begin("encoding", total, Unit::Count);
        let done = job.run()?;
        self.watch.progress.end();
        drop(job);
        let same: BTreeSet<TensorId> = done.same.iter().map(|m| m.place.tensor).collect();
        for tensor in same.into_iter().filter(|t| !done.tensors.contains_key(t) && selection.is_none()) {
            subject.left.push((tensor, format!("{} gives it back as it is", work.method.label())));
        }
        let held: Vec<TensorId> = match work.choice {
            Choice::Nobody => done.pruned.iter().map(|m| m.place.tensor).collect(),
            _ => covered.iter().map(|p| map.parts[*p].tensor).collect(),
        };
        let changed = self.adopt_new(&subject, done.tensors)?;
        let matrices: Vec<Matrix> = match selection {
            // Of a part that is pruned to its count already there is nothing new to say, but it is counted.
            Some(_) => matrices,
            None => matrices.into_iter().filter(|m| changed.contains_key(&m.place.tensor)).collect(),
        };
        if !work.stage.residual {
            self.held.extend(held);
        }
        let mut report = self.changed_report(work.stage, &subject, selection, changed, &matrices)?;
        self.tell_unreached(&mut report, work.method, &work.options, &work.evidence, &covered)?;
        Ok(report)
    }

    /// In a dry run, where the evidence is not there yet: the counts of the selection, if there is one. It stands for
    /// what the method would choose.
    fn foresee(
        &mut self,
        stage: &MethodStage,
        subject: &Subject<'p>,
        selection: Option<Pruned>,
    ) -> Result<StageReport> {
        let Some(pruned) = selection.filter(|_| !stage.residual) else { return Ok(unmeasured()) };
        let mut report = self.stage_report(stage, &pruned, &subject.left);
        report.warnings.extend(unmeasured().warnings);
        self.adopt_rules(pruned);
        Ok(report)
    }

    /// A pruning of what the terms of encoded tensors lack: what is kept becomes a sparse term.
    pub(super) fn prune_residual(&mut self, work: &PruneWork<'p>, seed: u64) -> Result<StageReport> {
        let subject = self.subject(work.stage, &work.parts)?;
        let residual = subject.residual.as_ref().ok_or_else(|| Error::failed("there is no residual"))?;
        let pruned = self.selected(work, residual, &subject.parts, seed, 1.0)?;
        let mut kept = residual.clone();
        pruned.rules.iter().for_each(|(tensor, rule)| kept.tensors[*tensor].add(rule.clone()));
        let covered: Vec<usize> = pruned.parts.iter().map(|p| p.part).collect();
        let new = tensors_of(&self.plan.map, &covered).into_iter().map(|t| (t, New::Values(kept.tensors[t].clone())));
        let new = new.collect();
        let matrices = part_matrices(&self.plan.model, &self.plan.map, &covered);
        let changed = self.adopt_new(&subject, new)?;
        self.changed_report(work.stage, &subject, Some(pruned), changed, &matrices)
    }

    /// Whether a stage may work on its parts: what is a sum of terms already is refused, or, with `residual`, all that
    /// it works on.
    fn subject(&self, stage: &MethodStage, parts: &[usize]) -> Result<Subject<'p>> {
        let map = &self.plan.map;
        if !stage.residual {
            self.refuse_sums(parts)?;
            return Ok(Subject { parts: parts.to_vec(), left: Vec::new(), residual: None });
        }
        let (sums, others): (Vec<usize>, Vec<usize>) =
            parts.iter().partition(|p| self.weights.terms(map.parts[**p].tensor).is_some());
        if sums.is_empty() {
            return Err(Error::failed(format!(
                "residual: nothing in the stage's classes ({}) was factored or hashed by an earlier stage",
                stage.classes.join(", ")
            )));
        }
        let reason = "it is neither factored nor hashed, so it has no residual";
        let left = tensors_of(map, &others).into_iter().map(|t| (t, reason.to_string())).collect();
        let residual = Some(self.residual(tensors_of(map, &sums))?);
        Ok(Subject { parts: sums, left, residual })
    }

    /// A stage does not change what is a sum of terms already.
    pub(super) fn refuse_sums(&self, parts: &[usize]) -> Result<()> {
        for part in parts {
            let tensor = self.plan.map.parts[*part].tensor;
            if let Some(terms) = self.weights.terms(tensor) {
                return Err(Error::failed(format!(
                    "\"{}\" is {} already, by an earlier stage; leave it out by \"classes\", or add a term for what it \
                     lacks by residual = true",
                    self.plan.model.tensors()[tensor].name,
                    terms.describe()
                )));
            }
        }
        Ok(())
    }

    /// The weights that the terms of these tensors stand for, minus what the terms give.
    fn residual(&self, tensors: Vec<TensorId>) -> Result<Weights<'p>> {
        let source = self.sources(&tensors)?;
        let new = NewValues::of(&self.weights, tensors.iter().copied(), self.plan.recipe.output()?)?;
        let total = tensors.iter().map(|t| self.plan.model.tensors()[*t].elements).sum();
        self.watch.progress.begin("taking the residual", total, Unit::Count);
        for tensor in &tensors {
            let info = &self.plan.model.tensors()[*tensor];
            let width = info.dtype.float_bytes().unwrap_or(4) as u64;
            let step = BLOCK_BYTES as u64 / width;
            try_map(0..info.elements.div_ceil(step) as usize, |block| {
                let first = block as u64 * step;
                let mut lacking = run(&source, *tensor, first, step.min(info.elements - first))?;
                let given = run(&self.weights, *tensor, first, lacking.len() as u64)?;
                lacking.iter_mut().zip(given).for_each(|(w, g)| *w -= g);
                let mut bytes = vec![0; lacking.len() * width as usize];
                from_f32(&info.dtype, &lacking, &mut bytes);
                new.write_bytes(*tensor, first * width, &bytes)?;
                self.watch.tick(lacking.len() as u64)
            })?;
        }
        self.watch.progress.end();
        let mut weights = self.weights.clone();
        new.states().for_each(|(tensor, state)| weights.tensors[tensor] = state);
        Ok(weights)
    }

    /// The weights with these encoded tensors as they were before the first encoding.
    fn sources(&self, tensors: &[TensorId]) -> Result<Weights<'p>> {
        let mut weights = self.weights.clone();
        for tensor in tensors {
            let source = self.weights.terms(*tensor).and_then(|t| t.source());
            weights.tensors[*tensor] = source.cloned().ok_or_else(|| {
                let name = &self.plan.model.tensors()[*tensor].name;
                Error::failed(format!("\"{name}\": the weights that it stands for are not there any more"))
            })?;
        }
        Ok(weights)
    }

    /// Takes up what has become of tensors: new values, terms, or further terms.
    fn adopt_new(&mut self, subject: &Subject<'p>, new: BTreeMap<TensorId, New>) -> Result<Changed> {
        let mut changed = Changed::new();
        for (tensor, new) in new {
            let info = &self.plan.model.tensors()[tensor];
            let place = |e: Error| e.at(format!("\"{}\"", info.name));
            let old = self.weights.tensors[tensor].clone();
            // The terms that are there keep the coding of their values.
            let coding = self.weights.terms(tensor).map_or(ValueCoding::Plain, |t| t.values());
            let (encoding, source) = match (&subject.residual, new) {
                (None, New::Values(state)) => {
                    changed.insert(tensor, old);
                    self.take(tensor, state.base)?;
                    continue;
                }
                (None, New::Terms(encoding)) => (encoding, old.clone()),
                (Some(residual), new) => {
                    let terms = self.weights.terms(tensor).ok_or_else(|| Error::failed("there are no terms"))?;
                    let source = terms.source().ok_or_else(|| Error::failed("there is no source"))?.clone();
                    let mut encoding = terms.encoding().clone();
                    match new {
                        New::Terms(more) => add(&mut encoding, more).map_err(place)?,
                        New::Values(state) => {
                            let mut values = residual.clone();
                            values.tensors[tensor] = state;
                            encoding.terms.push(nonzero_term(run(&values, tensor, 0, info.elements)?));
                        }
                    }
                    (encoding, source)
                }
            };
            changed.insert(tensor, source.clone());
            let source = self.plan.needs_source().then_some(source);
            let mut terms = Terms::new(encoding, &info.dtype, &info.shape, source).map_err(place)?;
            if coding != ValueCoding::Plain {
                terms = terms.recoded(coding).map_err(place)?;
            }
            self.weights.tensors[tensor] = TensorState::new(Base::Terms(Arc::new(terms)));
        }
        Ok(changed)
    }

    /// Compares what has changed with what it was, counts its zeros, and reports.
    fn changed_report(
        &mut self,
        stage: &MethodStage,
        subject: &Subject<'p>,
        selection: Option<Pruned>,
        changed: Changed,
        matrices: &[Matrix],
    ) -> Result<StageReport> {
        let mut before = self.weights.clone();
        changed.into_iter().for_each(|(tensor, state)| before.tensors[tensor] = state);
        let (mut counts, mut lines) = (Vec::new(), Vec::new());
        // Terms are those of a whole tensor, whichever of its parts the stage has worked on.
        let whole;
        let matrices = if stage.residual {
            let map = &self.plan.map;
            let tensors: BTreeSet<TensorId> = matrices.iter().map(|m| m.place.tensor).collect();
            let parts: Vec<usize> = tensors.into_iter().flat_map(|t| map.part_range(t)).collect();
            whole = crate::plan::encoding::matrices(&self.plan.model, map, &parts)?;
            &whole
        } else {
            matrices
        };
        let total = matrices.iter().map(|m| m.place.len()).sum();
        self.watch.progress.begin("comparing", total, Unit::Count);
        for matrix in matrices {
            let mut sum = Difference::default();
            for part in &matrix.parts {
                let one = self.difference(&before, *part)?;
                counts.push(PartCount {
                    part: *part,
                    weights: one.weights,
                    before: one.zeros_before,
                    pruned: one.zeros,
                });
                sum.add(&one);
            }
            lines.push(self.line(matrix, &sum));
        }
        self.watch.progress.end();
        // Zeros that a sum happens to have are no promise: another coding of its values, or training them, changes them.
        for count in &counts {
            let is_sum = self.weights.terms(self.plan.map.parts[count.part].tensor).is_some();
            self.pruned[count.part] = Some(count.pruned).filter(|_| !is_sum);
        }
        let mut done = selection.unwrap_or_default();
        // The amount of a residual is one of the residual: its zeros are not the tensor's.
        if !stage.residual {
            let sum = |parts: &[PartCount]| parts.iter().map(|p| p.pruned).sum::<u64>();
            let more = sum(&counts).saturating_sub(sum(&done.parts));
            if more > 0 && !done.parts.is_empty() {
                done.warnings
                    .push(format!("{more} weights that are kept are zero now: the method's values round to zero"));
            }
            done.parts = counts;
        }
        let mut report = self.stage_report(stage, &done, &subject.left);
        report.parts = lines;
        Ok(report)
    }

    fn line(&self, matrix: &Matrix, sum: &Difference) -> StagePart {
        let terms = self.weights.terms(matrix.place.tensor);
        StagePart {
            part: matrix.place.name.to_string(),
            layout: terms.map_or_else(|| "dense".into(), |t| t.describe()),
            weights: sum.weights,
            parameters: terms.map_or(sum.weights - sum.zeros, |t| t.parameters()),
            relative_error: sum.relative_error(),
        }
    }

    /// How a part differs from what it was.
    fn difference(&self, before: &Weights<'_>, part: usize) -> Result<Difference> {
        let place = &places(&self.plan.model, &self.plan.map, &[part])[0];
        let blocks: Vec<(u64, u64)> = cut_blocks(place.len()).collect();
        let block = |(start, len): &(u64, u64)| {
            let first = place.offset + start;
            let (was, is) = (run(before, place.tensor, first, *len)?, run(&self.weights, place.tensor, first, *len)?);
            if let Some(i) = is.iter().position(|v| !v.is_finite()) {
                let info = &self.plan.model.tensors()[place.tensor];
                return Err(Error::failed(format!(
                    "\"{}\": the method's values do not fit its type {}: the weight at index {} would be {}",
                    info.name,
                    info.dtype.name(),
                    first + i as u64,
                    is[i]
                )));
            }
            self.watch.tick(*len)?;
            Ok(Difference::of(&was, &is))
        };
        let each = try_map(&blocks, block)?;
        Ok(each.iter().fold(Difference::default(), |mut sum, one| {
            sum.add(one);
            sum
        }))
    }
}

/// The states of the tensors that a stage has changed, as they were before it; of a sum of terms what it stands for.
type Changed = BTreeMap<TensorId, TensorState>;

/// How weights differ from what they were. Sums of fixed blocks are added in order, whatever the threads.
#[derive(Default)]
struct Difference {
    weights: u64,
    zeros_before: u64,
    zeros: u64,
    squares_before: f64,
    squares: f64,
}

impl Difference {
    fn of(was: &[f32], is: &[f32]) -> Difference {
        let zeros = |v: &[f32]| v.iter().filter(|v| **v == 0.0).count() as u64;
        let square = |v: f64| v * v;
        Difference {
            weights: is.len() as u64,
            zeros_before: zeros(was),
            zeros: zeros(is),
            squares_before: was.iter().map(|v| square(f64::from(*v))).sum(),
            squares: was.iter().zip(is).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum(),
        }
    }

    fn add(&mut self, other: &Difference) {
        self.weights += other.weights;
        self.zeros_before += other.zeros_before;
        self.zeros += other.zeros;
        self.squares_before += other.squares_before;
        self.squares += other.squares;
    }

    /// ‖W − Ŵ‖ / ‖W‖, where W is not all zero.
    fn relative_error(&self) -> Option<f64> {
        (self.squares_before > 0.0).then(|| (self.squares / self.squares_before).sqrt())
    }
}

/// The tensors of parts, each once, in order.
fn tensors_of(map: &ClassMap, parts: &[usize]) -> Vec<TensorId> {
    let mut tensors: Vec<TensorId> = parts.iter().map(|p| map.parts[*p].tensor).collect();
    tensors.dedup();
    tensors
}

/// A run of a tensor's weights.
fn run(weights: &Weights<'_>, tensor: TensorId, first: u64, count: u64) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(count as usize);
    weights.visit(tensor, first, count, &mut |_, piece| {
        values.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(values)
}

/// Adds the terms of one encoding to another of the same matrix.
fn add(sum: &mut Encoding, more: Encoding) -> Result<()> {
    if (sum.rows, sum.cols) != (more.rows, more.cols) {
        let (rows, cols) = (more.rows, more.cols);
        return Err(Error::failed(format!(
            "terms of {rows} × {cols} cannot be added to terms of {} × {}",
            sum.rows, sum.cols
        )));
    }
    sum.terms.extend(more.terms);
    Ok(())
}
