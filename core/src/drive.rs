//! The run: stages in the order of the file, then masks, report and model, each whole or not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use compress_sdk::{Encoded, Evidence, EvidenceKind, Keep, Options, Part, Reach};

use crate::error::{Error, Result};
use crate::evidence::EvidenceFile;
use crate::files::clean_stale;
use crate::format::CreateOptions;
use crate::hash;
use crate::inspect::tensor_names;
use crate::mask::{MaskFile, MaskWriter};
use crate::output::{self, Written};
use crate::packing::{Becomes, Outlook, Packer};
use crate::plan::{EncodeWork, Plan, PruneWork, Work};
use crate::progress::Watch;
use crate::prune::{PartCount, Pruned, Pruning};
use crate::recipe::{MethodStage, Retrain, Schedule, Stage, Training};
use crate::registry::{Instance, Origin, Registered};
use crate::report::{
    self, Achieved, ClassReport, CompressReport, FactoredTensor, ModelReport, OutputReport, Report, StageClass,
    StageReport, Unreached, Untouched, asked,
};
use crate::state::State;
use crate::tensor::TensorId;
use crate::weights::{Bits, Rule, Scoring, Weights};

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Decide everything, write nothing.
    pub dry_run: bool,
    /// Replace what is there.
    pub force: bool,
    /// Where the JSON report goes; hashes are computed only then.
    pub report: Option<PathBuf>,
    /// Go on with an interrupted run.
    pub resume: bool,
    /// End an interrupted retraining with the best so far; implies `resume`.
    pub finish: bool,
}

/// Runs a plan to its end.
pub fn run(plan: &Plan<'_>, options: &RunOptions, watch: Watch<'_>) -> Result<Report> {
    if !options.dry_run {
        plan.clean()?;
    }
    std::thread::scope(|scope| {
        // The input's hash is computed beside the work, and only for a report.
        let hashing = (options.report.is_some() && !options.dry_run).then(|| {
            scope.spawn(|| hash::model_sha256(plan.model.files().map(|f| (f.name.as_str(), f.path.as_path())), watch))
        });
        let mut run = Run::new(plan, options, watch);
        if let Err(error) = run.stages() {
            // What cannot be gone on with is not left behind.
            if let Some(state) = run.state.take().filter(|s| !s.is_worth_keeping()) {
                state.remove()?;
            }
            return Err(error);
        }
        if options.dry_run {
            run.predict()?;
            return Ok(run.report);
        }
        let written = run.write()?;
        let masks = run.masks()?;
        let state = run.state.take();
        if let Some(hashing) = hashing {
            run.report.model.sha256 = hashing.join().map_err(|_| Error::failed("hashing the input failed"))??;
        }
        run.commit(written, masks)?;
        state.map_or(Ok(()), State::remove)?;
        Ok(run.report)
    })
}

impl Plan<'_> {
    /// Removes what killed runs with the same output left behind.
    fn clean(&self) -> Result<()> {
        for path in [&self.recipe.output, &self.recipe.mask].into_iter().flatten() {
            clean_stale(path)?;
        }
        Ok(())
    }
}

struct Run<'p> {
    plan: &'p Plan<'p>,
    options: &'p RunOptions,
    watch: Watch<'p>,
    weights: Weights<'p>,
    /// Pruned weights of each part, where a stage or the masks of the recipe have counted them.
    pruned: Vec<Option<u64>>,
    report: Report,
    /// Tensors that a stage or the recipe's masks have pruned: their zeros are held.
    held: BTreeSet<TensorId>,
    /// Made when the first stage needs it.
    state: Option<State>,
    /// What tensors become in the output.
    packer: Packer<'p>,
    /// What the next encode stages will do, where it was found out already.
    ahead: VecDeque<Vec<crate::packing::Encoded>>,
    /// Bytes that the output was predicted to have.
    predicted: Option<u64>,
    /// Rows, columns and rank of the output's tensors that are one product of factors.
    products: BTreeMap<String, [u64; 3]>,
}

impl<'p> Run<'p> {
    fn new(plan: &'p Plan<'p>, options: &'p RunOptions, watch: Watch<'p>) -> Run<'p> {
        let model = &plan.model;
        let mut weights = Weights::new(model);
        let mut held = BTreeSet::new();
        if let Some(masks) = &plan.from {
            for (id, info) in model.tensors().iter().enumerate() {
                if masks.has(&info.name) && !plan.map.part_range(id).is_empty() {
                    let bits = MaskBits { file: masks.clone(), name: info.name.clone() };
                    weights.tensors[id].add(Rule::Bits(Arc::new(bits)));
                    held.insert(id);
                }
            }
        }
        let report = Report {
            model: ModelReport {
                path: model.paths().iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
                format: model.format().into(),
                files: model.files().map(|f| f.name.clone()).collect(),
                sha256: None,
                bytes: model.bytes(),
                weights: plan.map.weights(),
                elements: model.tensors().iter().map(|t| t.elements).sum(),
            },
            warnings: plan.warnings.clone(),
            dry_run: options.dry_run,
            compress: CompressReport::new(plan.recipe),
            ..Report::default()
        };
        let output = plan.recipe.output.as_deref().unwrap_or(Path::new("output"));
        Run {
            plan,
            options,
            watch,
            weights,
            pruned: vec![None; plan.map.parts.len()],
            report,
            held,
            state: None,
            packer: Packer::new(model, output),
            ahead: VecDeque::new(),
            predicted: None,
            products: BTreeMap::new(),
        }
    }

    fn stages(&mut self) -> Result<()> {
        let plan = self.plan;
        if plan.needs_state() && !self.options.dry_run {
            let resume = self.options.resume || self.options.finish;
            self.state = Some(State::open(plan, resume, self.options.force, self.watch)?);
        } else if self.options.resume && !self.options.dry_run {
            return Err(Error::usage("--resume: no stage of this recipe can be interrupted and gone on with"));
        }
        let skipped = self.restore()?;
        for planned in plan.stages.iter().skip(skipped) {
            self.watch.check()?;
            let started = Instant::now();
            let place = |e: Error| e.at(planned.stage).at(plan.recipe.path.display());
            let mut report = match &planned.work {
                Work::Prune(PruneWork { stage, .. }) | Work::Encode(EncodeWork { stage, .. }) => {
                    self.method(&planned.work, stage, planned.stage).map_err(place)?
                }
                Work::Pack(work) => self.pack(work).map_err(place)?,
                Work::Model(kind) => self.run_model(kind, planned.stage).map_err(place)?,
            };
            report.kind = planned.stage.kind_name().into();
            report.name = planned.stage.name();
            let mut given = asked(planned.stage);
            given.extend(std::mem::take(&mut report.asked));
            report.asked = given;
            report.seconds = Some(started.elapsed().as_secs_f64());
            self.report.stages.push(report);
            self.keep(planned.stage.number)?;
        }
        if let Some((work, after)) = &plan.implied {
            let report = self.pack(work)?;
            if let Some(stage) = self.report.stages.get_mut(*after) {
                stage.tensors = report.tensors;
            }
        }
        Ok(())
    }

    /// A method's stage, in steps with a retraining after each where it says so.
    fn method(&mut self, work: &Work<'p>, method: &MethodStage, stage: &Stage) -> Result<StageReport> {
        let seed = self.plan.recipe.seed_of(stage);
        let steps = method.schedule.map_or(1, |s| s.steps);
        let Some(retrain) = method.retrain.as_ref().filter(|_| !self.options.dry_run) else {
            return self.step(work, seed, 1.0);
        };
        let mut report = StageReport::default();
        let (mut epochs, mut warnings, mut before) = (Vec::new(), Vec::new(), None);
        let recovery = match (retrain, method.schedule) {
            (Retrain::Engine(training), Some(Schedule { recover, .. })) if recover > 0 => {
                Some(Training { epochs: f64::from(recover), ..training.clone() })
            }
            _ => None,
        };
        for step in 1..=steps {
            let portion = method.schedule.map_or(1.0, |s| s.portion(step));
            report = self.step(work, seed, portion)?;
            let achieved = report.achieved.as_ref();
            before = before.or(achieved.map(|a| a.pruned.saturating_sub(a.newly)));
            let trained = match retrain {
                // Under a schedule the rate falls only while the model recovers from the last step.
                Retrain::Engine(training) if recovery.is_some() => {
                    let steady = Retrain::Engine(Training { decay: None, ..training.clone() });
                    self.train(&steady, stage, step as usize, false)?
                }
                _ => self.train(retrain, stage, step as usize, step == steps)?,
            };
            epochs.extend(trained.epochs);
            add_new(&mut warnings, trained.warnings);
        }
        if let Some(training) = recovery {
            let trained = self.train(&Retrain::Engine(training), stage, steps as usize + 1, true)?;
            epochs.extend(trained.epochs);
            add_new(&mut warnings, trained.warnings);
        }
        if let (Some(achieved), Some(before)) = (&mut report.achieved, before) {
            achieved.newly = achieved.pruned.saturating_sub(before);
        }
        report.epochs = epochs;
        report.warnings.extend(warnings);
        Ok(report)
    }

    fn step(&mut self, work: &Work<'p>, seed: u64, portion: f64) -> Result<StageReport> {
        match work {
            Work::Prune(work) => self.prune(work, seed, portion),
            Work::Encode(work) => self.reencode(work, seed, portion),
            Work::Pack(_) | Work::Model(_) => Err(Error::failed("not a method's stage")),
        }
    }

    fn prune(&mut self, work: &PruneWork<'p>, seed: u64, portion: f64) -> Result<StageReport> {
        if self.is_unmeasured(work) {
            return Ok(encoding::unmeasured());
        }
        if work.stage.residual {
            return self.prune_residual(work, seed);
        }
        self.refuse_sums(&work.parts)?;
        let job = self.pruning(work, &self.weights, &work.parts, seed, portion)?;
        let (pruned, solved) = match self.target_bytes(work) {
            Some((amount, bytes)) => self.prune_to_size(work, &job, amount, bytes)?,
            None => (job.run()?, None),
        };
        let mut report = self.stage_report(work.stage, &pruned, &[]);
        if let Some(solved) = solved {
            report.asked.extend(solved.asked);
            report.warnings.extend(solved.warnings);
            self.ahead = solved.ahead;
        }
        self.adopt_rules(pruned);
        self.tell_unreached(&mut report, work.method, &work.options, &work.evidence, &work.parts)?;
        Ok(report)
    }

    /// What a method's scores select among the parts of some weights.
    fn selected(
        &self,
        work: &PruneWork<'_>,
        weights: &Weights<'_>,
        parts: &[usize],
        seed: u64,
        portion: f64,
    ) -> Result<Pruned> {
        self.pruning(work, weights, parts, seed, portion)?.run()
    }

    /// A selection that is ready to run.
    fn pruning<'a>(
        &'a self,
        work: &PruneWork<'a>,
        weights: &'a Weights<'a>,
        parts: &'a [usize],
        seed: u64,
        portion: f64,
    ) -> Result<Pruning<'a>> {
        let card = work.method.card();
        let instance = Several::create(work.method, &work.options, seed)?;
        let evidence = self.evidence_for(work.method, &work.options, &work.evidence, parts)?;
        Ok(Pruning {
            weights,
            map: &self.plan.map,
            stage: work.stage,
            parts,
            scoring: Arc::new(Scoring::new(Box::new(instance), card.reach, card.random, evidence)),
            reach: card.reach,
            units: card.units,
            output: self.plan.recipe.output()?,
            portion,
            watch: self.watch,
        })
    }

    /// Prunes what was selected.
    fn adopt_rules(&mut self, pruned: Pruned) {
        for count in &pruned.parts {
            self.pruned[count.part] = Some(count.pruned);
            self.held.insert(self.plan.map.parts[count.part].tensor);
        }
        for (tensor, rule) in pruned.rules {
            self.weights.tensors[tensor].add(rule);
        }
        for (tensor, blocks) in pruned.blocks {
            self.weights.tensors[tensor].set_pruned_blocks(blocks);
        }
    }

    /// The evidence that a method reads, planned or measured meanwhile.
    fn evidence_for(
        &self,
        method: &Registered,
        options: &Options,
        planned: &Option<Arc<EvidenceFile>>,
        parts: &[usize],
    ) -> Result<Option<(Arc<EvidenceFile>, Vec<EvidenceKind>)>> {
        let kinds = method.card().reads(options);
        let file = match (planned, &self.plan.recipe.evidence) {
            (Some(file), _) => file.clone(),
            (None, Some(path)) if !kinds.is_empty() && path.exists() => {
                let file = EvidenceFile::open(path, self.plan.model.tensors())?;
                self.plan.check_evidence(method, options, &file, parts)?;
                Arc::new(file)
            }
            _ => return Ok(None),
        };
        Ok(Some((file, kinds)))
    }

    /// Lists the rows that go first because the data of the evidence never reached them.
    fn tell_unreached(
        &self,
        report: &mut StageReport,
        method: &Registered,
        options: &Options,
        planned: &Option<Arc<EvidenceFile>>,
        parts: &[usize],
    ) -> Result<()> {
        let Some((file, kinds)) = self.evidence_for(method, options, planned, parts)? else { return Ok(()) };
        let tensors: BTreeSet<TensorId> = parts.iter().map(|p| self.plan.map.parts[*p].tensor).collect();
        let infos = tensors.iter().map(|t| &self.plan.model.tensors()[*t]);
        report.unreached = crate::unreached::unreached(&file, &kinds, infos)?;
        report.warnings.extend(report.unreached.iter().map(Unreached::describe));
        Ok(())
    }

    /// Whether a dry run lacks evidence that an earlier stage would measure.
    fn is_unmeasured(&self, work: &PruneWork<'_>) -> bool {
        self.lacks_evidence(work.stage, work.method, &work.evidence)
    }

    fn lacks_evidence(&self, stage: &MethodStage, method: &Registered, planned: &Option<Arc<EvidenceFile>>) -> bool {
        let reads = !method.card().evidence.is_empty();
        self.options.dry_run && reads && planned.is_none() && self.plan.is_measured_before(stage)
    }

    fn stage_report(&self, stage: &MethodStage, done: &Pruned, left: &[(TensorId, String)]) -> StageReport {
        let map = &self.plan.map;
        let sum = |f: fn(&PartCount) -> u64| done.parts.iter().map(f).sum::<u64>();
        let (weights, pruned, before) = (sum(|p| p.weights), sum(|p| p.pruned), sum(|p| p.before));
        let mut classes: Vec<StageClass> = Vec::new();
        for (index, class) in map.classes.iter().enumerate() {
            let mine: Vec<&PartCount> = done.parts.iter().filter(|p| map.parts[p.part].class == index).collect();
            if !mine.is_empty() {
                let pruned: u64 = mine.iter().map(|p| p.pruned).sum();
                classes.push(StageClass {
                    name: class.name.clone(),
                    weights: mine.iter().map(|p| p.weights).sum(),
                    pruned,
                    newly: Some(pruned.saturating_sub(mine.iter().map(|p| p.before).sum())),
                    ..StageClass::default()
                });
            }
        }
        let mut asked = serde_json::Map::new();
        if let Some(count) = done.asked {
            asked.insert("count".into(), count.into());
        }
        StageReport {
            asked,
            achieved: Some(Achieved::new(pruned, pruned.saturating_sub(before), weights)),
            classes,
            untouched: self.untouched(stage, done, left),
            warnings: done.warnings.clone(),
            ..StageReport::default()
        }
    }

    /// Every tensor that the stage left alone, with the reason, in file order.
    fn untouched(&self, stage: &MethodStage, done: &Pruned, left: &[(TensorId, String)]) -> Vec<Untouched> {
        let map = &self.plan.map;
        let mut reasons: Vec<(TensorId, String)> = map.untouched.iter().chain(left).cloned().collect();
        let mut touched: BTreeSet<TensorId> = done.parts.iter().map(|p| map.parts[p.part].tensor).collect();
        touched.extend(left.iter().map(|(tensor, _)| *tensor));
        let mut others: Vec<TensorId> = map.parts.iter().map(|p| p.tensor).filter(|t| !touched.contains(t)).collect();
        others.dedup();
        for tensor in others {
            let class = map.class_of_tensor(tensor).unwrap_or_default();
            let reason = if done.without_amount.iter().any(|p| map.parts[*p].tensor == tensor) {
                format!("its class \"{class}\" has no amount")
            } else {
                format!("its class \"{class}\" is not among the stage's classes ({})", stage.classes.join(", "))
            };
            reasons.push((tensor, reason));
        }
        reasons.sort();
        let tensors = self.plan.model.tensors();
        reasons.into_iter().map(|(id, reason)| Untouched { tensor: tensors[id].name.clone(), reason }).collect()
    }

    /// What a dry run knows of the result.
    fn predict(&mut self) -> Result<()> {
        let outlook = self.outlook()?;
        self.report.output = self.plan.recipe.output.as_ref().map(|path| OutputReport {
            path: path.display().to_string(),
            format: self.plan.model.format().into(),
            predicted_bytes: Some(outlook.bytes),
            ..OutputReport::default()
        });
        let pruned = self.pruned.iter().map(|p| p.unwrap_or(0)).collect::<Vec<_>>();
        self.report.classes = self.class_reports(&pruned, &outlook.tensors);
        Ok(())
    }

    /// What formats are told of any output of this run.
    fn like(&self) -> Result<CreateOptions> {
        let recipe = Some(self.plan.recipe.portable_text()?);
        Ok(CreateOptions { force: self.options.force, recipe, ..CreateOptions::default() })
    }

    fn outlook(&self) -> Result<Outlook> {
        Outlook::of(&self.packer, &self.weights, &self.like()?, self.watch)
    }

    fn write(&mut self) -> Result<Written> {
        let recipe = self.plan.recipe;
        let outlook = self.outlook()?;
        self.predicted = Some(outlook.bytes);
        for (becomes, info) in outlook.becomes.iter().zip(self.plan.model.tensors()) {
            if let Becomes::Terms(held) = becomes
                && let Some(sizes) = held.pieces().outline().product()
            {
                self.products.insert(info.name.clone(), sizes);
            }
        }
        let written = output::write(&self.weights, &self.plan.map, recipe.output()?, &outlook, self.watch)?;
        self.report.warnings.extend(written.warnings());
        for (part, meant) in self.pruned.iter().enumerate() {
            if let Some(meant) = meant
                && *meant != written.zeros[part]
            {
                return Err(Error::failed(format!(
                    "\"{}\": {} zeros were read again where {meant} were meant; nothing was put under the output's name",
                    self.plan.map.parts[part].name, written.zeros[part]
                )));
            }
        }
        self.report.classes = self.class_reports(&written.zeros, &written.stored_bytes);
        Ok(written)
    }

    fn class_reports(&self, pruned: &[u64], stored: &[u64]) -> Vec<ClassReport> {
        let (map, model) = (&self.plan.map, &self.plan.model);
        map.classes
            .iter()
            .map(|class| {
                // Bytes of a tensor that holds parts of several classes are shared out by weights.
                let bytes = |of: &dyn Fn(TensorId) -> u64| {
                    class
                        .parts
                        .iter()
                        .map(|p| {
                            let part = &map.parts[*p];
                            let whole = model.tensors()[part.tensor].elements.max(1);
                            (u128::from(of(part.tensor)) * u128::from(part.spec.weights()) / u128::from(whole)) as u64
                        })
                        .sum()
                };
                ClassReport {
                    name: class.name.clone(),
                    weights: class.weights,
                    pruned: class.parts.iter().map(|p| pruned[*p]).sum(),
                    bytes_before: Some(bytes(&|t| model.tensors()[t].stored_bytes)),
                    bytes_after: Some(bytes(&|t| stored[t])),
                    tensors: tensor_names(model, map, &class.parts),
                }
            })
            .collect()
    }

    /// Writes the masks of all tensors that a stage or the recipe's masks have pruned: 1 where the weight is not zero.
    fn masks(&mut self) -> Result<Option<MaskWriter>> {
        let Some(path) = &self.plan.recipe.mask else { return Ok(None) };
        let tensors = self.plan.model.tensors();
        let ids: Vec<TensorId> = self.held.iter().copied().collect();
        let shapes: Vec<(String, Vec<u64>)> =
            ids.iter().map(|id| (tensors[*id].name.clone(), tensors[*id].shape.clone())).collect();
        let writer = MaskWriter::create(path, &shapes)?;
        for (index, id) in ids.iter().enumerate() {
            writer.write(index, &|first, out| self.weights.nonzero_bits(*id, first, out))?;
        }
        self.report.mask = Some(path.display().to_string());
        writer.sync()?;
        Ok(Some(writer))
    }

    /// A factored tensor of the output; what its products take is measured now, when nothing else runs.
    fn factored(&self, tensor: &str, multiplies: bool) -> FactoredTensor {
        let mut factored = FactoredTensor::new(tensor, multiplies);
        if let (true, Some([rows, cols, rank]), Ok(engine)) =
            (multiplies, self.products.get(tensor), self.plan.engine())
        {
            factored.seconds = Some(engine.product_seconds(*rows as usize, *cols as usize, *rank as usize));
        }
        factored
    }

    /// Masks and report first, then the model: its rename is the moment at which the run has happened.
    fn commit(&mut self, written: Written, masks: Option<MaskWriter>) -> Result<()> {
        let recipe = self.plan.recipe;
        let output = recipe.output()?;
        let files = written.files();
        let mut report = OutputReport {
            path: output.display().to_string(),
            format: self.plan.model.format().into(),
            files: files.iter().map(|f| f.name.clone()).collect(),
            sha256: None,
            bytes: Some(written.bytes()),
            predicted_bytes: self.predicted,
            factored: written.factored.iter().map(|(tensor, faster)| self.factored(tensor, *faster)).collect(),
        };
        if self.options.report.is_some() {
            let named = files.iter().map(|f| (f.name.as_str(), f.path.as_path()));
            report.sha256 = hash::model_sha256(named, self.watch)?;
        }
        self.report.output = Some(report);
        self.watch.check()?;
        if let Some(masks) = masks {
            masks.commit()?;
        }
        if let Some(path) = &self.options.report {
            self.report.written_at = report::now();
            write_report(path, &self.report.to_json())?;
        }
        written.commit()
    }
}

/// Adds what has not been said yet.
fn add_new(said: &mut Vec<String>, more: Vec<String>) {
    for text in more {
        if !said.contains(&text) {
            said.push(text);
        }
    }
}

/// Writes a text file, whole or not at all.
pub fn write_report(path: &Path, text: &str) -> Result<()> {
    clean_stale(path)?;
    let temp = crate::files::TempFile::create(path)?;
    temp.write_all_at(text.as_bytes(), 0)?;
    temp.sync()?;
    temp.persist(path)
}

mod encoding;
mod model;
mod pack;
mod size;
pub use model::evaluate;
pub use pack::CodingRecord;

/// A method's state for a stage: of a program that answers one call at a time, one process a thread.
struct Several(Vec<Box<dyn Instance>>);

/// Most processes of one program.
const MAX_PROCESSES: usize = 4;

impl Several {
    fn create(method: &Registered, options: &Options, seed: u64) -> Result<Several> {
        let copies = match method.origin() {
            Origin::Program(_) if method.card().reach != Reach::Part => {
                rayon::current_num_threads().clamp(1, MAX_PROCESSES)
            }
            _ => 1,
        };
        (0..copies).map(|_| method.create(options, seed)).collect::<Result<_>>().map(Several)
    }

    fn mine(&self) -> &dyn Instance {
        self.0[rayon::current_thread_index().unwrap_or(0) % self.0.len()].as_ref()
    }
}

impl Instance for Several {
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<()> {
        self.mine().score(part, evidence, out)
    }

    fn block_weights(&self) -> usize {
        self.0[0].block_weights()
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        self.mine().encode(part, keep, evidence)
    }
}

/// The recipe's masks as bits.
struct MaskBits {
    file: Arc<MaskFile>,
    name: String,
}

impl Bits for MaskBits {
    fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_bits(&self.name, first, out)
    }
}
