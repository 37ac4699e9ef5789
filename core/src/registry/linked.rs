//! Methods that are called through an entry: built-in ones and loaded ones alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use compress_sdk::caller::{self, Caller, Failure, Listener};
use compress_sdk::{Encoded, Evidence, Keep, Options, Part};

use super::{Instance, Maker, Registered};
use crate::error::{Error, Result};

pub(super) struct Linked {
    caller: Caller,
    listener: Arc<dyn Listener>,
}

impl Linked {
    pub(super) fn new(caller: Caller, listener: &Arc<dyn Listener>) -> Linked {
        Linked { caller, listener: listener.clone() }
    }
}

impl Maker for Linked {
    fn make(&self, method: &Registered, options: &Options, seed: u64) -> Result<Box<dyn Instance>> {
        let label = method.label();
        let sharing = Arc::new(Sharing { listener: self.listener.clone(), at_work: AtomicUsize::new(0) });
        match self.caller.create(options, seed, sharing.clone()) {
            Ok(instance) => Ok(Box::new(Made { instance, label, sharing })),
            Err(failure) => Err(error(&label, failure)),
        }
    }
}

struct Made {
    instance: caller::Instance,
    label: String,
    sharing: Arc<Sharing>,
}

/// Shares the run's threads among the encodings that are at work.
struct Sharing {
    listener: Arc<dyn Listener>,
    at_work: AtomicUsize,
}

impl Sharing {
    fn enter(&self) -> Leave<'_> {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        Leave(&self.at_work)
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener for Sharing {
    fn cancelled(&self) -> bool {
        self.listener.cancelled()
    }

    fn progress(&self, fraction: f64) {
        self.listener.progress(fraction);
    }

    fn log(&self, line: &str) {
        self.listener.log(line);
    }

    /// Called on the thread of a call, which is one of the run's pool.
    fn threads(&self) -> usize {
        (rayon::current_num_threads() / self.at_work.load(Ordering::Relaxed).max(1)).max(1)
    }
}

impl Instance for Made {
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<()> {
        self.instance.score(part, evidence, out).map_err(|f| located(part, error(&self.label, f)))
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        let _leave = self.sharing.enter();
        self.instance.encode(part, keep, evidence).map_err(|f| located(part, error(&self.label, f)))
    }
}

/// Names the tensor, and the part where it is not the whole tensor.
pub(super) fn located(part: &Part<'_>, error: Error) -> Error {
    if part.name == part.tensor {
        error.at(format_args!("\"{}\"", part.tensor))
    } else {
        error.at(format_args!("\"{}\" ({})", part.tensor, part.name))
    }
}

pub(super) fn error(label: &str, failure: Failure) -> Error {
    match failure {
        Failure::Failed(text) => Error::failed(format!("{label}: {text}")),
        Failure::Panicked(text) => {
            Error::failed(format!("{label} panicked: {text}; this is a mistake in the method, tell its author"))
        }
        Failure::Cancelled => Error::Interrupted,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_of_the_run_are_shared_among_the_encodings_at_work() {
        let sharing = Sharing { listener: Arc::new(caller::Deaf), at_work: AtomicUsize::new(0) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| {
            let first = sharing.enter();
            assert_eq!(sharing.threads(), 4);
            let others = [sharing.enter(), sharing.enter()];
            assert_eq!(sharing.threads(), 1);
            drop(others);
            assert_eq!(sharing.threads(), 4);
            drop(first);
            assert_eq!(sharing.threads(), 4);
        });
    }
}
