//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Makes trained networks smaller and says truthfully what that cost.
///
/// `compress pipeline.toml` runs a recipe: it reads an ONNX or safetensors model, prunes it stage by stage, writes the
/// result whole or not at all, reads it again and reports exact counts.
#[derive(Parser, Debug)]
#[command(name = "compress", version, args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true)]
#[command(
    after_help = "Exit status: 0 done; 1 the run failed; 2 the command line or the recipe is wrong; 130 interrupted."
)]
pub struct Args {
    /// What to do; without it the recipe is run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run of a recipe.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a recipe (the same as `compress pipeline.toml`)
    Run(RunArgs),
    /// Show the plan of a recipe: classes and what each stage would do; writes no file
    Check {
        /// The recipe
        #[arg(value_name = "pipeline.toml")]
        recipe: PathBuf,
        #[command(flatten)]
        plugins: PluginArgs,
        #[command(flatten)]
        open: OpenArgs,
    },
    /// List a model's classes, tensors, sizes and zeros
    Inspect {
        /// A .onnx or .safetensors file, or a folder with model.safetensors.index.json; several are one model
        #[arg(value_name = "MODEL", required = true)]
        model: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        open: OpenArgs,
        #[command(flatten)]
        general: GeneralArgs,
    },
    /// Print the metrics of a recipe's [data], and nothing else
    Evaluate {
        /// The recipe
        #[arg(value_name = "pipeline.toml")]
        recipe: PathBuf,
        /// Evaluate this model with the recipe's data
        #[arg(long, value_name = "FILE")]
        model: Option<PathBuf>,
        /// Write the translations of `validation` there, a sentence a line
        #[arg(long, value_name = "FILE")]
        translations: Option<PathBuf>,
        #[command(flatten)]
        open: OpenArgs,
        #[command(flatten)]
        general: GeneralArgs,
    },
    /// Write a packed model plain and dense again, exactly what the small file means
    ///
    /// Reads the legacy formats sparse-bitmask and sparse-24-bitmask of compressed-tensors too.
    Decompress(DecompressArgs),
    /// Compare candidates of a study at equal bytes and equal quality, with controls; finished cells are kept
    Compare(CompareArgs),
    /// One cell of a study, for `compare` itself
    #[command(hide = true)]
    Cell(CellArgs),
    /// Algebra of mask files
    Mask {
        #[command(subcommand)]
        operation: MaskCommand,
    },
    /// List the methods, or show one with its equation, options and paper
    Methods {
        /// A method's name
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        plugins: PluginArgs,
    },
    /// Make a new method
    Plugin {
        #[command(subcommand)]
        operation: PluginCommand,
    },
}

/// The arguments of `decompress`.
#[derive(ClapArgs, Debug)]
pub struct DecompressArgs {
    /// A .onnx or .safetensors file, or a folder with model.safetensors.index.json; several are one model
    #[arg(value_name = "MODEL", required = true)]
    pub model: Vec<PathBuf>,
    /// Where it is written: a file, or a folder where the model is a folder or several files
    #[arg(short = 'o', long = "output", value_name = "FILE", required = true)]
    pub output: PathBuf,
    /// Decode everything and print what would be written, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Nothing is kept of an interrupted decompression: this starts anew, as without it
    #[arg(long)]
    pub resume: bool,
    /// As --resume
    #[arg(long)]
    pub finish: bool,
    #[command(flatten)]
    pub plugins: PluginArgs,
    #[command(flatten)]
    pub open: OpenArgs,
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// Operations on masks (1 = kept).
#[derive(Subcommand, Debug)]
pub enum MaskCommand {
    /// Kept in A and in B
    And(MaskArgs),
    /// Kept in A or in B
    Or(MaskArgs),
    /// Kept in A but not in B
    Diff(MaskArgs),
    /// How far A and B agree, by tensor and in all
    Overlap(MaskArgs),
}

/// Two masks and where the result goes.
#[derive(ClapArgs, Debug)]
pub struct MaskArgs {
    /// The first mask file
    pub a: PathBuf,
    /// The second mask file
    pub b: PathBuf,
    /// Where the result is written
    #[arg(short = 'o', long = "output", value_name = "C")]
    pub output: Option<PathBuf>,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
}

/// Operations on plugins.
#[derive(Subcommand, Debug)]
pub enum PluginCommand {
    /// Write a crate that builds and passes the conformance suite
    New {
        /// The method's name: lower case letters, digits and hyphens
        name: String,
    },
}

/// The arguments of a run.
#[derive(ClapArgs, Debug)]
pub struct RunArgs {
    /// The recipe
    #[arg(value_name = "pipeline.toml", required = true)]
    pub recipe: Option<PathBuf>,
    /// Decide everything and print exact counts, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Go on with an interrupted run
    #[arg(long)]
    pub resume: bool,
    /// End an interrupted retraining with the best state so far
    #[arg(long)]
    pub finish: bool,
    /// Write the JSON report here
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub plugins: PluginArgs,
    #[command(flatten)]
    pub open: OpenArgs,
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// The arguments of a comparison.
#[derive(ClapArgs, Debug)]
pub struct CompareArgs {
    /// The study
    #[arg(value_name = "study.toml")]
    pub study: PathBuf,
    /// Print the cells and how long they would take, run none
    #[arg(long)]
    pub dry_run: bool,
    /// Compute all cells anew
    #[arg(long)]
    pub force: bool,
    /// Go on with an interrupted study (what is finished is never computed again, with or without this)
    #[arg(long)]
    pub resume: bool,
    /// Write report.json here too
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub plugins: PluginArgs,
    #[command(flatten)]
    pub open: OpenArgs,
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// The arguments of one cell.
#[derive(ClapArgs, Debug)]
pub struct CellArgs {
    /// The study that its paths are relative to
    #[arg(long)]
    pub study: PathBuf,
    /// The cell's folder, with its recipe
    #[arg(long)]
    pub folder: PathBuf,
    /// Measure how long its model loads and runs
    #[arg(long)]
    pub time: bool,
    #[command(flatten)]
    pub plugins: PluginArgs,
    #[command(flatten)]
    pub open: OpenArgs,
    #[command(flatten)]
    pub general: GeneralArgs,
}

/// Where methods come from.
#[derive(ClapArgs, Debug, Default)]
pub struct PluginArgs {
    /// Load methods from a shared library (trusted code); may be repeated
    #[arg(long = "plugin", value_name = "FILE")]
    pub plugin: Vec<PathBuf>,
}

/// How models are opened.
#[derive(ClapArgs, Debug, Default)]
pub struct OpenArgs {
    /// Follow links to external data that stay inside one Hugging Face cache tree
    #[arg(long)]
    pub follow_links: bool,
    /// Refuse packed tensors that unfold to more than this many times their stored bytes
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_expand: u64,
}

/// Threads and talk.
#[derive(ClapArgs, Debug, Default)]
pub struct GeneralArgs {
    /// Threads to use; the result does not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print no progress and no table
    #[arg(long)]
    pub quiet: bool,
}
