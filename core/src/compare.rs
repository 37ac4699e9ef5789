//! `compress compare`: which technique, how far, at what cost.
//!
//! ```text
//! Study ──cells, controls──▶ Placed ──each a process of its own──▶ Done (on disk, by key) ──▶ groups, answer, reports
//! ```
//!
//! A cell is one candidate at one point of the sweep with one seed: a recipe of its own, run in a process of its own, whose
//! model, report and metrics lie in a folder named by a hash of everything that decides them. A study that was broken
//! off, or that has grown, therefore computes what is missing and nothing else. What runs and measures a cell is the
//! command line's; here stands what is run, when, and what follows from the figures.

pub mod answer;
pub mod bootstrap;
pub mod cache;
pub mod cost;
pub mod figures;
pub mod groups;
pub mod machine;
pub mod plan;
pub mod report;
pub mod schedule;

pub use answer::Answer;
pub use cache::{Done, Place, Quality, Timing};
pub use groups::{Cellular, Group, Results};
pub use plan::{Comparison, Kind, Placed};

/// How a metric is read.
pub fn lower_is_better(metric: &str) -> bool {
    // A command may print metrics of its own; these are the common ones that grow as a model gets worse.
    const LOWER: [&str; 10] =
        ["loss", "perplexity", "ppl", "error", "wer", "cer", "ter", "mse", "mae", "training_loss"];
    LOWER.contains(&metric) || metric.ends_with("_loss") || metric.ends_with("_error")
}

/// How much worse `value` is than `base`: positive = worse.
pub fn loss_of(metric: &str, base: f64, value: f64) -> f64 {
    if lower_is_better(metric) { value - base } else { base - value }
}
