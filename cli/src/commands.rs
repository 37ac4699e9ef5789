//! One function a command: arguments in, core called, result printed.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::CommandFactory;
use compress_core::class::resolve::ClassMap;
use compress_core::decompress;
use compress_core::drive::{self, RunOptions};
use compress_core::error::{Error, Result, did_you_mean};
use compress_core::format::{Format, OpenOptions};
use compress_core::inspect;
use compress_core::mask;
use compress_core::model::Model;
use compress_core::plan::{Plan, Setup};
use compress_core::progress::{Progress, Silent, Watch};
use compress_core::recipe::{Evaluate, Metric, ModelPaths, Recipe, StageKind};
use compress_core::registry::{self, Listener, Registry};
use compress_core::report;

use crate::args::{
    Args, Command, DecompressArgs, GeneralArgs, MaskArgs, MaskCommand, OpenArgs, PluginArgs, PluginCommand, RunArgs,
};
use crate::bar::Bar;
use crate::{builtin, compare, emit, graph};

pub(crate) static CANCELLED: AtomicBool = AtomicBool::new(false);

/// What methods and programs are told and may say.
struct Ears;

impl Listener for Ears {
    fn cancelled(&self) -> bool {
        CANCELLED.load(Ordering::Relaxed)
    }

    fn log(&self, line: &str) {
        eprintln!("{line}");
    }
}

/// Does what the command line says.
pub fn dispatch(args: Args) -> Result<()> {
    match args.command {
        None => run(&args.run),
        Some(Command::Run(args)) => run(&args),
        Some(Command::Check { recipe, plugins, open }) => check(&recipe, &plugins, &open),
        Some(Command::Inspect { model, json, open, general }) => inspect(&model, json, &open, &general),
        Some(Command::Evaluate { recipe, model, translations, open, general }) => {
            evaluate(&recipe, model.as_deref(), translations.as_deref(), &open, &general)
        }
        Some(Command::Decompress(args)) => decompress(&args),
        Some(Command::Compare(args)) => compare::compare(&args),
        Some(Command::Cell(args)) => compare::cell::cell(&args),
        Some(Command::Mask { operation }) => masks(operation),
        Some(Command::Methods { name, json, plugins }) => methods(name.as_deref(), json, &plugins),
        Some(Command::Plugin { operation: PluginCommand::New { name } }) => {
            emit(&registry::scaffold::new_plugin(&name, Path::new("."))?)
        }
    }
}

fn run(args: &RunArgs) -> Result<()> {
    let path = args.recipe.as_deref().ok_or_else(|| Error::usage("a recipe is missing: compress pipeline.toml"))?;
    let recipe = load(path)?;
    let registry = registry_for(Some(&recipe), &args.plugins)?;
    let formats = builtin::formats();
    let setup = setup(&formats, &registry, &args.open, args.force);
    prepare(&args.general)?;
    let bar = progress(&args.general);
    let watch = Watch { progress: bar.as_ref(), cancelled: &CANCELLED };
    let plan = Plan::new(&setup, &recipe, true)?;
    if let Some(report) = &args.report {
        plan.check_report("--report", report)?;
    }
    let options = RunOptions {
        dry_run: args.dry_run,
        force: args.force,
        report: args.report.clone(),
        resume: args.resume || args.finish,
        finish: args.finish,
    };
    let report = drive::run(&plan, &options, watch).inspect_err(|e| {
        bar.end();
        if matches!(e, Error::Interrupted) && plan.state_is_kept() {
            eprintln!("go on with: compress {} --resume", path.display());
        }
    })?;
    for warning in report.warnings.iter().chain(report.stages.iter().flat_map(|s| &s.warnings)) {
        eprintln!("warning: {warning}");
    }
    if args.general.quiet { Ok(()) } else { emit(&report::render(&report)) }
}

fn check(path: &Path, plugins: &PluginArgs, open: &OpenArgs) -> Result<()> {
    let recipe = load(path)?;
    let registry = registry_for(Some(&recipe), plugins)?;
    let formats = builtin::formats();
    let setup = setup(&formats, &registry, open, true);
    let plan = Plan::new(&setup, &recipe, true)?;
    emit(&plan.describe())
}

fn inspect(paths: &[PathBuf], json: bool, open: &OpenArgs, general: &GeneralArgs) -> Result<()> {
    prepare(general)?;
    let formats = builtin::formats();
    let model = Model::open(&formats, paths, &open_options(open))?;
    let map = ClassMap::resolve(model.tensors(), model.roles(), &[], false)?;
    let bar = progress(general);
    let found = inspect::inspect(&model, &map, Watch { progress: bar.as_ref(), cancelled: &CANCELLED })
        .inspect_err(|_| bar.end())?;
    emit(&if json { found.to_json() } else { report::render_inspect(&found) })
}

/// The metrics that the recipe's evaluate stages name; without one all that its [data] allows.
fn evaluate(
    path: &Path,
    model: Option<&Path>,
    translations: Option<&Path>,
    open: &OpenArgs,
    general: &GeneralArgs,
) -> Result<()> {
    let mut recipe = load(path)?;
    if let Some(model) = model {
        recipe.model = ModelPaths::One(model.to_path_buf());
    }
    let mut metrics: Vec<Metric> = Vec::new();
    for stage in &recipe.stages {
        if let StageKind::Evaluate(Evaluate::Metrics(named)) = &stage.kind {
            metrics.extend(named.iter().filter(|m| !metrics.contains(m)).copied().collect::<Vec<_>>());
        }
    }
    if metrics.is_empty() {
        metrics = vec![Metric::Loss, Metric::Perplexity, Metric::Accuracy];
        metrics.extend(recipe.data.iter().filter(|d| d.bleu.is_some()).map(|_| Metric::Bleu));
    }
    recipe.stages.clear();
    prepare(general)?;
    let registry = Registry::new();
    let formats = builtin::formats();
    let setup = setup(&formats, &registry, open, true);
    let bar = progress(general);
    let watch = Watch { progress: bar.as_ref(), cancelled: &CANCELLED };
    let plan = Plan::new(&setup, &recipe, false)?;
    if let Some(file) = translations {
        plan.check_report("--translations", file)?;
        let lines = graph::translations(&plan.model, &recipe, watch).inspect_err(|_| bar.end())?;
        drive::write_report(file, &lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    }
    let found = drive::evaluate(&plan, &metrics, watch).inspect_err(|_| bar.end())?;
    emit(&report::render_metrics(&found))
}

fn decompress(args: &DecompressArgs) -> Result<()> {
    // No method has a say in what a file means, but one that cannot be loaded is a mistake all the same.
    registry_for(None, &args.plugins)?;
    prepare(&args.general)?;
    let formats = builtin::formats();
    let model = Model::open(&formats, &args.model, &open_options(&args.open))?;
    let bar = progress(&args.general);
    let watch = Watch { progress: bar.as_ref(), cancelled: &CANCELLED };
    let options = decompress::Options { dry_run: args.dry_run, force: args.force };
    let done = decompress::decompress(&model, &args.output, &options, watch).inspect_err(|_| bar.end())?;
    done.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let text = report::render_decompressed(&done, &args.output.display().to_string());
    if args.general.quiet { Ok(()) } else { emit(&text) }
}

fn masks(operation: MaskCommand) -> Result<()> {
    let (args, what): (MaskArgs, mask::Algebra) = match operation {
        MaskCommand::And(args) => (args, mask::Algebra::And),
        MaskCommand::Or(args) => (args, mask::Algebra::Or),
        MaskCommand::Diff(args) => (args, mask::Algebra::Diff),
        MaskCommand::Overlap(args) => return overlap(&args),
    };
    let output = args.output.as_deref().ok_or_else(|| Error::usage("-o is missing: where to write the mask"))?;
    if output.exists() && !args.force {
        return Err(Error::usage(format!("\"{}\" exists already; --force replaces it", output.display())));
    }
    emit(&mask::combine(what, &args.a, &args.b, output)?.to_string())
}

fn overlap(args: &MaskArgs) -> Result<()> {
    if args.output.is_some() {
        return Err(Error::usage("overlap prints figures and writes no mask; leave -o out"));
    }
    emit(&mask::overlap(&args.a, &args.b)?.to_string())
}

fn methods(name: Option<&str>, json: bool, plugins: &PluginArgs) -> Result<()> {
    let registry = registry_for(None, plugins)?;
    match (name, json) {
        (None, false) => emit(&registry::print::list(&registry)),
        (Some(name), false) => emit(&registry::print::detail(registry.get(name)?)),
        (None, true) => emit(&pretty(&registry::print::json(&registry))),
        (Some(name), true) => emit(&pretty(&registry::print::json_of(registry.get(name)?))),
    }
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Reads the recipe; a word that is no file may be a mistyped command.
fn load(path: &Path) -> Result<Recipe> {
    unknown_word(path).map_or_else(|| Recipe::load(path), Err)
}

/// The error for a word that is neither a command nor could be a recipe.
pub fn unknown_word(path: &Path) -> Option<Error> {
    let commands: Vec<String> = Args::command().get_subcommands().map(|c| c.get_name().to_string()).collect();
    let word = path.display().to_string();
    if path.exists() || path.extension().is_some() || commands.contains(&word) {
        return None;
    }
    let hint = did_you_mean(&word, commands.iter().map(String::as_str));
    Some(Error::usage(format!("\"{word}\" is neither a command nor a recipe that exists{hint}; see compress --help")))
}

/// The built-in methods, those of the recipe, and those of the command line.
pub(crate) fn registry_for(recipe: Option<&Recipe>, plugins: &PluginArgs) -> Result<Registry> {
    let mut registry = builtin::registry(Arc::new(Ears))?;
    if let Some(recipe) = recipe {
        for library in &recipe.plugins.libraries {
            registry.load_library(library)?;
        }
        let folder = match recipe.folder() {
            folder if folder.as_os_str().is_empty() => Path::new("."),
            folder => folder,
        };
        for (name, argv) in &recipe.plugins.programs {
            registry.add_program(name, argv, folder, recipe.plugins.timeout)?;
        }
    }
    for library in &plugins.plugin {
        registry.load_library(library)?;
    }
    Ok(registry)
}

/// What plans are made with.
pub(crate) fn setup<'a>(
    formats: &'a [&'a dyn Format],
    registry: &'a Registry,
    open: &OpenArgs,
    force: bool,
) -> Setup<'a> {
    Setup { formats, registry, open: open_options(open), force, engine: builtin::engine() }
}

/// How models are opened.
pub(crate) fn open_options(args: &OpenArgs) -> OpenOptions {
    OpenOptions { follow_links: args.follow_links, max_expand: args.max_expand }
}

/// Threads, and Ctrl-C: the first asks the run to stop, the second ends it at once.
pub(crate) fn prepare(general: &GeneralArgs) -> Result<()> {
    let threads = general.threads.map_or(0, usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| Error::failed(format!("cannot start threads: {e}")))?;
    ctrlc::set_handler(|| {
        if CANCELLED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::failed(format!("cannot handle Ctrl-C: {e}")))
}

pub(crate) fn progress(general: &GeneralArgs) -> Box<dyn Progress> {
    if general.quiet || !std::io::stderr().is_terminal() { Box::new(Silent) } else { Box::new(Bar::default()) }
}
