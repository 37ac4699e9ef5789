//! What a run tells while it works, and how it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Shows progress; implemented by the command line. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A piece of work begins: what, and how many units it has (bytes or steps).
    fn begin(&self, what: &str, total: u64, unit: Unit);
    /// Units done since the last call.
    fn advance(&self, units: u64);
    /// A short text beside the bar: loss, perplexity, tokens a second.
    fn note(&self, text: &str) {
        let _ = text;
    }
    /// The piece of work is over.
    fn end(&self);
    /// A line for the user that is neither a result nor an error.
    fn say(&self, line: &str) {
        let _ = line;
    }
}

/// Units of progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Steps, cells, examples.
    Count,
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Progress and cancellation together: what every long piece of work is given.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// Set by the first Ctrl-C.
    pub cancelled: &'a AtomicBool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Watch<'static> {
    /// Shows nothing and is never cancelled.
    pub fn silent() -> Watch<'static> {
        Watch { progress: &Silent, cancelled: &NEVER }
    }
}

impl Watch<'_> {
    /// Counts units as done; an error where the run was interrupted.
    pub fn tick(&self, units: u64) -> Result<()> {
        self.progress.advance(units);
        self.check()
    }

    /// An error where the run was interrupted.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
