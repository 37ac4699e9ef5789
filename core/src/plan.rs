//! The plan: the recipe with everything resolved and checked, nothing done yet. Whatever can be refused is refused
//! here, before a byte is written.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use compress_sdk::{EvidenceKind, Options};

use crate::amount::Amount;
use crate::class::resolve::ClassMap;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::evidence::EvidenceFile;
use crate::files::refuse_if_input;
use crate::format::{Format, OpenOptions, PackedLayout, ValueCoding};
use crate::mask::MaskFile;
use crate::model::Model;
use crate::packing::encoder::value_coding;
use crate::population::Populations;
use crate::recipe::{
    Amounts, EncodeLayout, EncodeStage, EncodeValues, Evaluate, MethodStage, ModelPaths, Pattern, Recipe, Retrain,
    Stage, StageKind,
};
use crate::registry::{Registered, Registry};
use crate::tensor::{Dtype, TensorId};

pub mod encoding;

pub use encoding::{Choice, EncodeWork, Matrix};

/// What a plan is made with.
pub struct Setup<'a> {
    /// All formats.
    pub formats: &'a [&'a dyn Format],
    /// All methods.
    pub registry: &'a Registry,
    /// How to open models.
    pub open: OpenOptions,
    /// Replace an existing output.
    pub force: bool,
    /// What runs ONNX graphs, where it is built in.
    pub engine: Option<&'a dyn Engine>,
}

/// A recipe with everything resolved.
pub struct Plan<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The model.
    pub model: Model,
    /// Its classes.
    pub map: ClassMap,
    /// Masks of weights that are pruned already.
    pub from: Option<Arc<MaskFile>>,
    /// The stages.
    pub stages: Vec<Planned<'a>>,
    /// Warnings for the reader.
    pub warnings: Vec<String>,
    /// What runs the model.
    pub engine: Option<&'a dyn Engine>,
    /// The encode stage that a size implies where none follows it, and the index of the stage that implies it.
    pub implied: Option<(PackWork<'a>, usize)>,
}

/// A stage with what it needs.
pub struct Planned<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// What it does.
    pub work: Work<'a>,
}

/// What a planned stage does.
pub enum Work<'a> {
    /// Prunes by a method's scores.
    Prune(PruneWork<'a>),
    /// Encodes parts anew by a method.
    Encode(EncodeWork<'a>),
    /// Decides how tensors are written.
    Pack(PackWork<'a>),
    /// Runs the model, or a command that does.
    Model(&'a StageKind),
}

/// An encode stage with what it needs.
pub struct PackWork<'a> {
    /// The stage as written.
    pub stage: &'a EncodeStage,
    /// Its tensors in file order.
    pub tensors: Vec<TensorId>,
    /// The other tensors, with the reasons.
    pub untouched: Vec<(TensorId, String)>,
}

/// A pruning stage with what it needs.
pub struct PruneWork<'a> {
    /// The stage as written.
    pub stage: &'a MethodStage,
    /// The method.
    pub method: &'a Registered,
    /// Its options, checked.
    pub options: Options,
    /// Evidence for it.
    pub evidence: Option<Arc<EvidenceFile>>,
    /// Parts that it works on.
    pub parts: Vec<usize>,
}

impl<'a> Plan<'a> {
    /// Opens the model (headers only) and checks every stage. `writes` says whether the recipe's output is meant to
    /// be written.
    pub fn new(setup: &Setup<'a>, recipe: &'a Recipe, writes: bool) -> Result<Plan<'a>> {
        let model = open_model(setup, recipe)?;
        if writes {
            check_outputs(setup, recipe, &model).map_err(|e| e.at(recipe.path.display()))?;
        }
        let map = ClassMap::resolve(model.tensors(), model.roles(), &recipe.classes, recipe.include_1d)
            .map_err(|e| e.at(recipe.path.display()))?;
        let from = match &recipe.from {
            Some(path) => Some(Arc::new(open_masks(path, &model).map_err(|e| e.at("\"from\""))?)),
            None => None,
        };
        let warnings = model.warnings().cloned().collect();
        let mut plan =
            Plan { recipe, warnings, model, map, from, stages: Vec::new(), engine: setup.engine, implied: None };
        for stage in &recipe.stages {
            let work = plan.work(setup, stage).map_err(|e| e.at(stage).at(recipe.path.display()))?;
            plan.stages.push(Planned { stage, work });
        }
        plan.implied = plan.implied(setup)?;
        Ok(plan)
    }

    fn work(&mut self, setup: &Setup<'a>, stage: &'a Stage) -> Result<Work<'a>> {
        match &stage.kind {
            StageKind::Method(method) => self.method(setup, method),
            StageKind::Encode(encode) => self.pack(setup, encode).map(Work::Pack),
            StageKind::Reinitialise(_)
            | StageKind::Retrain(Retrain::Command { .. })
            | StageKind::Evaluate(Evaluate::Command(_)) => Ok(Work::Model(&stage.kind)),
            StageKind::Measure(_) | StageKind::Retrain(_) | StageKind::Evaluate(_) => {
                self.engine()?.check(&self.model, self.recipe, stage)?;
                if matches!(stage.kind, StageKind::Measure(_)) && self.recipe.evidence.is_none() {
                    return Err(Error::usage("\"evidence\" is missing: the file that measure writes"));
                }
                Ok(Work::Model(&stage.kind))
            }
        }
    }

    /// The engine, for models that have a graph.
    pub fn engine(&self) -> Result<&'a dyn Engine> {
        if self.model.format() != "onnx" {
            return Err(Error::usage(format!(
                "a {} model has no graph that could be run; train or evaluate it elsewhere by {{ command = [\"python3\", \
                 \"train.py\", \"{{weights}}\", \"{{mask}}\", \"{{output}}\"] }}",
                self.model.format()
            )));
        }
        self.engine.ok_or_else(|| {
            Error::usage(format!(
                "running the model is not built yet in version {}; train or evaluate it elsewhere by {{ command = […] }}",
                env!("CARGO_PKG_VERSION")
            ))
        })
    }

    /// `encode = "auto"`, where a stage aims at a size and no encode stage follows it.
    fn implied(&self, setup: &Setup<'_>) -> Result<Option<(PackWork<'a>, usize)>> {
        static AUTO: LazyLock<EncodeStage> = LazyLock::new(|| EncodeStage {
            layout: EncodeLayout::Auto,
            values: EncodeValues::AsTheyAre,
            classes: vec!["*".into()],
        });
        let aims =
            |p: &Planned<'_>| matches!(&p.stage.kind, StageKind::Method(m) if m.amount.as_ref().is_some_and(sizes));
        let Some(index) = self.stages.iter().position(aims) else { return Ok(None) };
        if self.stages[index..].iter().any(|p| matches!(p.work, Work::Pack(_))) {
            return Ok(None);
        }
        Ok(Some((self.pack(setup, &AUTO)?, index)))
    }

    /// A tensor is packed as a whole, so all of its parts must be meant.
    fn pack(&self, setup: &Setup<'_>, stage: &'a EncodeStage) -> Result<PackWork<'a>> {
        let (map, infos) = (&self.map, self.model.tensors());
        let values = value_coding(stage.values).unwrap_or(ValueCoding::Plain);
        let format = setup.formats.iter().find(|f| f.name() == self.model.format());
        let layouts: &[PackedLayout] = match stage.layout {
            EncodeLayout::Dense => &[PackedLayout::Dense],
            _ => &[PackedLayout::Mask, PackedLayout::Deltas, PackedLayout::Rice],
        };
        if !layouts.iter().any(|l| format.is_some_and(|f| f.stores(*l, values))) {
            return Err(Error::usage(format!(
                "{} cannot store {} values in a {} layout; take other \"values\"",
                self.model.format(),
                stage.values,
                stage.layout.name()
            )));
        }
        let selected: BTreeSet<usize> = map.select(&stage.classes)?.into_iter().collect();
        let (mut tensors, mut untouched) = (Vec::new(), map.untouched.clone());
        for (id, info) in infos.iter().enumerate() {
            let parts = map.part_range(id);
            let meant = parts.clone().filter(|p| selected.contains(p)).count();
            let classes = stage.classes.join(", ");
            if parts.is_empty() {
                continue;
            } else if meant == 0 {
                let class = map.class_of_tensor(id).unwrap_or_default();
                untouched.push((id, format!("its class \"{class}\" is not among the stage's classes ({classes})")));
            } else if meant < parts.len() {
                untouched.push((
                    id,
                    format!(
                        "a tensor is packed as a whole, and only {meant} of its {} parts are among the stage's classes \
                         ({classes})",
                        parts.len()
                    ),
                ));
            } else if info.dtype == Dtype::F64 && stage.values == EncodeValues::F32 {
                return Err(Error::usage(format!(
                    "\"{}\" is F64, and F32 would lose digits: take values = \"f16\", \"bf16\" or \"int8\", leave \
                     \"values\" out, or leave the tensor out by \"classes\"",
                    info.name
                )));
            } else {
                tensors.push(id);
            }
        }
        if tensors.is_empty() {
            return Err(Error::usage(format!(
                "no tensor lies in the classes {} with all of its parts, and a tensor is packed as a whole",
                stage.classes.join(", ")
            )));
        }
        Ok(PackWork { stage, tensors, untouched })
    }

    fn method(&self, setup: &Setup<'a>, stage: &'a MethodStage) -> Result<Work<'a>> {
        let method = setup.registry.get(&stage.method)?;
        if let Some(Retrain::Engine(_)) = &stage.retrain {
            let whole =
                self.recipe.stages.iter().find(|s| matches!(&s.kind, StageKind::Method(m) if std::ptr::eq(m, stage)));
            if let Some(whole) = whole {
                self.engine()?.check(&self.model, self.recipe, whole)?;
            }
        }
        if stage.residual && stage.retrain.is_some() {
            return Err(Error::usage("\"residual\" adds its term once: give \"retrain\" a stage of its own"));
        }
        check_allow_empty(stage, &self.model)?;
        if method.card().encodes || stage.residual {
            refuse_size(stage)?;
        }
        if method.card().encodes {
            return self.encoding(setup, stage, method);
        }
        let options = method.check_options(&stage.options)?;
        let parts = self.map.select(&stage.classes)?;
        self.check_amount(stage, &parts)?;
        self.refuse_packed_sums(&parts, stage.residual)?;
        let evidence = self.evidence(method, &options, &parts)?;
        Ok(Work::Prune(PruneWork { stage, method, options, evidence, parts }))
    }

    /// Whether the stage says how much is to be pruned, in a way that these parts allow.
    fn check_amount(&self, stage: &MethodStage, parts: &[usize]) -> Result<()> {
        match (&stage.pattern, &stage.amount) {
            (Pattern::NofM { .. }, _) => Ok(()),
            (_, None) => Err(Error::usage("\"amount\" is missing: how much to prune, such as \"80%\"")),
            (_, Some(amounts)) if sizes(amounts) => {
                let none = Amounts::All(Amount::from_integer(0)?);
                Populations::new(&self.map, parts, stage.scheme, &none).map(|_| ())
            }
            (_, Some(amounts)) => Populations::new(&self.map, parts, stage.scheme, amounts).map(|_| ()),
        }
    }

    fn evidence(&self, method: &Registered, options: &Options, parts: &[usize]) -> Result<Option<Arc<EvidenceFile>>> {
        let card = method.card();
        if card.evidence.is_empty() {
            return Ok(None);
        }
        let Some(path) = &self.recipe.evidence else {
            return match card.lacks(options, |_| false) {
                Some(kinds) => Err(Error::usage(format!(
                    "\"{}\" needs evidence {kinds}: name a file by \"evidence\" that has it, or that a stage before it \
                     writes ({})",
                    card.name,
                    measure_hint(&kinds)
                ))),
                None => Ok(None),
            };
        };
        if let Some(last) = self.stages.iter().rev().find(|s| matches!(s.stage.kind, StageKind::Measure(_))) {
            let at = last.stage;
            let measured = measured_up_to(self.stages.iter().map(|s| s.stage), at.number);
            return match card.lacks(options, |kind| measured.contains(&kind)) {
                Some(kinds) => Err(Error::usage(format!(
                    "\"{}\" needs evidence {kinds}, which {at} does not measure ({})",
                    card.name,
                    measure_hint(&kinds)
                ))),
                None => Ok(None),
            };
        }
        // What it can do without may be measured by a later stage.
        if !path.exists() && card.lacks(options, |_| false).is_none() {
            return Ok(None);
        }
        let file = EvidenceFile::open(path, self.model.tensors())?;
        self.check_evidence(method, options, &file, parts)?;
        Ok(Some(Arc::new(file)))
    }

    /// Whether a file has the evidence that a method must have for these parts, in their shapes.
    pub fn check_evidence(
        &self,
        method: &Registered,
        options: &Options,
        file: &EvidenceFile,
        parts: &[usize],
    ) -> Result<()> {
        let card = method.card();
        if card.evidence.iter().any(|(kind, _)| *kind == EvidenceKind::Gram) {
            let places = crate::population::places(&self.model, &self.map, parts);
            file.check_grams(places.iter().map(|p| (p, self.model.tensors()[p.tensor].elements)))?;
        }
        for part in parts {
            let name = &self.model.tensors()[self.map.parts[*part].tensor].name;
            if let Some(kinds) = card.lacks(options, |kind| file.has(name, kind)) {
                return Err(Error::usage(format!(
                    "\"{}\" needs evidence {kinds} for \"{name}\", which \"{}\" does not have; measure it ({}), or leave \
                     the tensor out by \"classes\"",
                    card.name,
                    file.path().display(),
                    measure_hint(&kinds)
                )));
            }
        }
        Ok(())
    }

    /// Whether a stage before this one measures evidence.
    pub fn is_measured_before(&self, stage: &MethodStage) -> bool {
        let this = |s: &&Planned<'_>| matches!(&s.stage.kind, StageKind::Method(m) if std::ptr::eq(m, stage));
        self.stages.iter().take_while(|s| !this(s)).any(|s| matches!(s.stage.kind, StageKind::Measure(_)))
    }
}

/// What the measure stages that follow each other up to stage `number` write: one file, as long as nothing but evaluations
/// stands between them.
pub(crate) fn measured_up_to<'s>(stages: impl Iterator<Item = &'s Stage>, number: usize) -> Vec<EvidenceKind> {
    let mut kinds = Vec::new();
    for stage in stages.take_while(|s| s.number <= number) {
        match &stage.kind {
            StageKind::Measure(measure) => kinds.extend(&measure.kinds),
            StageKind::Evaluate(_) => {}
            _ => kinds.clear(),
        }
    }
    kinds
}

/// The stage that measures the kinds that [`crate::registry::MethodCard::lacks`] names.
fn measure_hint(kinds: &str) -> String {
    format!("a stage with measure = [{}]", kinds.replace(" or ", ", "))
}

fn sizes(amounts: &Amounts) -> bool {
    match amounts {
        Amounts::All(amount) => amount.is_size(),
        Amounts::ByClass(list) => list.iter().any(|(_, a)| a.is_size()),
    }
}

/// A size is solved for by trying counts, which needs nothing but scores.
fn refuse_size(stage: &MethodStage) -> Result<()> {
    match &stage.amount {
        Some(amounts) if sizes(amounts) => Err(Error::usage(format!(
            "a size as \"amount\" goes with methods that only score weights, and without \"residual\"; give \"{}\" a \
             share such as \"80%\"",
            stage.method
        ))),
        _ => Ok(()),
    }
}

fn check_allow_empty(stage: &MethodStage, model: &Model) -> Result<()> {
    for pattern in &stage.allow_empty {
        if !model.tensors().iter().any(|t| crate::glob::matches(pattern, &t.name)) {
            let hint = crate::error::did_you_mean(pattern, model.tensors().iter().map(|t| t.name.as_str()));
            return Err(Error::usage(format!("allow_empty: the glob \"{pattern}\" matches no tensor{hint}")));
        }
    }
    Ok(())
}

/// Opens the recipe's model.
pub fn open_model(setup: &Setup<'_>, recipe: &Recipe) -> Result<Model> {
    for path in recipe.model.all() {
        if !path.exists() {
            return Err(Error::usage(format!(
                "{}: the model \"{}\" does not exist; \"model\" is a path relative to the recipe",
                recipe.path.display(),
                path.display()
            )));
        }
    }
    Model::open(setup.formats, recipe.model.all(), &setup.open)
}

fn open_masks(path: &Path, model: &Model) -> Result<MaskFile> {
    let masks = MaskFile::open(path)?;
    masks.check_against(model.tensors())?;
    Ok(masks)
}

/// Every file that a run reads.
fn inputs<'a>(recipe: &'a Recipe, model: &'a Model) -> Vec<&'a Path> {
    let mut inputs: Vec<&Path> = model.files().map(|f| f.path.as_path()).collect();
    inputs.extend(recipe.model.all().iter().map(|p| p.as_path()));
    inputs.extend(recipe.from.as_deref());
    inputs.push(&recipe.path);
    if let Some(data) = &recipe.data {
        inputs.extend(data.files());
    }
    inputs.extend(recipe.teachers());
    inputs
}

/// No output is an input or another output, under any of its names, or exists already without `--force`.
fn check_outputs(setup: &Setup<'_>, recipe: &Recipe, model: &Model) -> Result<()> {
    let output = recipe.output()?;
    let outputs: Vec<(&str, &Path)> = [("output", Some(output)), ("mask", recipe.mask.as_deref())]
        .into_iter()
        .filter_map(|(k, p)| Some((k, p?)))
        .collect();
    let inputs = inputs(recipe, model);
    for (key, path) in &outputs {
        refuse_if_input(path, inputs.iter().copied()).map_err(|e| e.at(format!("\"{key}\"")))?;
        let folder = crate::files::folder_of(path);
        if !folder.is_dir() {
            return Err(Error::usage(format!(
                "\"{key}\": the folder \"{}\" does not exist; create it first",
                folder.display()
            )));
        }
        if path.exists() && !setup.force {
            return Err(Error::usage(format!("\"{key}\": \"{}\" exists already; --force replaces it", path.display())));
        }
    }
    if let Some(mask) = &recipe.mask {
        apart("\"mask\"", mask, "\"output\"", output)?;
        if mask.is_dir() {
            return Err(Error::usage(format!("\"mask\": \"{}\" is a folder: name a file", mask.display())));
        }
    }
    for (key, path) in &outputs {
        if let Some(evidence) = &recipe.evidence {
            apart(&format!("\"{key}\""), path, "\"evidence\"", evidence)?;
        }
    }
    let other = |f: &&&dyn Format| f.name() != model.format() && output.extension().is_some_and(|e| e == f.name());
    if let Some(other) = setup.formats.iter().find(other) {
        return Err(Error::usage(format!(
            "\"output\": \"{}\" is named like a file of format {}, but the model is of format {} and stays so: give it \
             that ending",
            output.display(),
            other.name(),
            model.format()
        )));
    }
    if matches!(recipe.model, ModelPaths::Many(_)) && output.is_file() {
        return Err(Error::usage(format!(
            "\"output\": a model of several files becomes a folder, but \"{}\" is a file",
            output.display()
        )));
    }
    Ok(())
}

/// Refuses a file that would be written over another one, however it is spelt, or into a folder that is replaced.
fn apart(key: &str, path: &Path, other_key: &str, other: &Path) -> Result<()> {
    let real = |p: &Path| Some(crate::files::folder_of(p).canonicalize().ok()?.join(p.file_name()?));
    let (Some(a), Some(b)) = (real(path), real(other)) else { return Ok(()) };
    if a == b || crate::files::same_file(path, other) {
        let text = format!("{key} is the same file as {other_key}, \"{}\": give it a path of its own", path.display());
        return Err(Error::usage(text));
    }
    if a.starts_with(&b) {
        return Err(Error::usage(format!(
            "{key}: \"{}\" lies in {other_key}, \"{}\", a folder that is replaced as a whole: put it elsewhere",
            path.display(),
            other.display()
        )));
    }
    Ok(())
}

impl Plan<'_> {
    /// Refuses a place for what `option` has written beside the model (a report, translations) where it would cost an input, the output or the masks.
    pub fn check_report(&self, option: &str, report: &Path) -> Result<()> {
        let recipe = self.recipe;
        refuse_if_input(report, inputs(recipe, &self.model)).map_err(|e| e.at(option))?;
        for (key, path) in
            [("\"output\"", &recipe.output), ("\"mask\"", &recipe.mask), ("\"evidence\"", &recipe.evidence)]
        {
            if let Some(path) = path {
                apart(option, report, key, path)?;
            }
        }
        let folder = crate::files::folder_of(report);
        if !folder.is_dir() {
            return Err(Error::usage(format!("{option}: the folder \"{}\" does not exist", folder.display())));
        }
        if report.is_dir() {
            return Err(Error::usage(format!("{option}: \"{}\" is a folder: name a file", report.display())));
        }
        Ok(())
    }

    /// The plan in words: what `compress check` prints.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        let model = &self.model;
        let paths: Vec<String> = model.paths().iter().map(|p| p.display().to_string()).collect();
        out += &format!(
            "model   {} ({}, {} tensors, {} bytes)\n",
            paths.join(", "),
            model.format(),
            model.tensors().len(),
            model.bytes()
        );
        if let Some(output) = &self.recipe.output {
            out += &format!("output  {}\n", output.display());
        }
        if let Some(mask) = &self.recipe.mask {
            out += &format!("mask    {}\n", mask.display());
        }
        out += "\nclasses\n";
        let width = self.map.classes.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        for class in &self.map.classes {
            let tensors = crate::inspect::tensor_names(model, &self.map, &class.parts);
            out += &format!("  {:width$}  {:>12} weights  {}\n", class.name, class.weights, shorten(&tensors));
        }
        out += &format!("  {:width$}  {:>12} weights\n", "all", self.map.weights());
        if !self.map.untouched.is_empty() {
            out += "\nleft alone\n";
            for (id, reason) in &self.map.untouched {
                out += &format!("  {}: {reason}\n", model.tensors()[*id].name);
            }
        }
        out += "\nstages\n";
        for planned in &self.stages {
            out += &format!("  {}: {}\n", planned.stage, planned.work.describe(self));
        }
        if self.stages.is_empty() {
            out += "  none: the output is the input, tensor by tensor\n";
        }
        if self.implied.is_some() {
            out += "  then: encode = \"auto\", which the size implies\n";
        }
        for warning in &self.warnings {
            out += &format!("\nwarning: {warning}\n");
        }
        out
    }
}

fn shorten(names: &[String]) -> String {
    match names {
        [a, b, c, _, ..] => format!("{a}, {b}, {c} and {} more", names.len() - 3),
        _ => names.join(", "),
    }
}

impl Work<'_> {
    fn describe(&self, plan: &Plan<'_>) -> String {
        match self {
            Work::Prune(work) => work.describe(plan),
            Work::Pack(work) => work.describe(plan),
            Work::Encode(work) => work.describe(plan),
            Work::Model(StageKind::Measure(_)) => "runs the model over the training data and writes evidence".into(),
            Work::Model(StageKind::Retrain(_)) => "trains with the masks held".into(),
            Work::Model(StageKind::Evaluate(_)) => "computes metrics; changes nothing".into(),
            Work::Model(_) => "draws new weights under the masks".into(),
        }
    }
}

impl PackWork<'_> {
    fn describe(&self, plan: &Plan<'_>) -> String {
        let infos = plan.model.tensors();
        let bytes: u64 = self.tensors.iter().map(|t| infos[*t].dense_bytes()).sum();
        let layout = match self.stage.layout {
            EncodeLayout::Dense => "dense",
            EncodeLayout::Sparse => "as mask, deltas or Rice code",
            EncodeLayout::Auto => "as is smallest",
        };
        let values = match self.stage.values {
            EncodeValues::AsTheyAre => String::new(),
            values => format!(", values {values}"),
        };
        format!("writes {} tensors of {bytes} dense bytes {layout}{values}", self.tensors.len())
    }
}

impl PruneWork<'_> {
    fn describe(&self, plan: &Plan<'_>) -> String {
        let mut text = self.target(plan);
        if self.method.card().reach == compress_sdk::Reach::Part {
            let largest = self.parts.iter().map(|p| plan.map.parts[*p].spec.weights()).max().unwrap_or(0);
            text += &format!("; sees whole parts, so up to {} MB of memory a thread", largest * 12 / 1_000_000);
        }
        text + "; free sparsity makes no runtime faster by itself"
    }

    /// How much is pruned, in words.
    fn target(&self, plan: &Plan<'_>) -> String {
        if self.stage.residual {
            // Which tensors that will be only the stages before can tell.
            let amount = match &self.stage.amount {
                Some(Amounts::All(amount)) => format!("prunes {amount}"),
                _ => "prunes".to_string(),
            };
            return format!("{amount} of what factored or hashed tensors lack; what it keeps becomes a sparse term");
        }
        let weights: u64 = self.parts.iter().map(|p| plan.map.parts[*p].spec.weights()).sum();
        let mut text = match (&self.stage.pattern, &self.stage.amount) {
            (Pattern::NofM { n, m }, _) => format!("keeps {n} of each {m} weights along the inputs of {weights}"),
            (_, Some(Amounts::All(amount))) if amount.is_size() => {
                let bytes = amount.target_bytes(plan.model.bytes()).unwrap_or(0);
                format!(
                    "prunes of {weights} weights as many as must go for an output of at most {bytes} bytes, {}",
                    self.stage.scheme.name()
                )
            }
            (_, Some(amounts)) => {
                let populations = Populations::new(&plan.map, &self.parts, self.stage.scheme, amounts)
                    .map(|p| p.list)
                    .unwrap_or_default();
                let target: u64 = populations.iter().map(|p| p.target).sum();
                let n = populations.len();
                let among = if n == 1 { String::new() } else { format!(" in {n} populations") };
                format!("prunes to {target} of {weights} weights, {}{among}", self.stage.scheme.name())
            }
            (_, None) => "nothing".to_string(),
        };
        match self.stage.pattern {
            Pattern::Row => text += ", whole rows",
            Pattern::Column => text += ", whole columns",
            Pattern::Block { rows, cols } => text += &format!(", blocks of {rows}x{cols}"),
            Pattern::Free | Pattern::NofM { .. } => {}
        }
        text
    }
}
