//! Methods that are called through an entry: built-in ones and loaded ones alike.

use std::sync::Arc;

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
        match self.caller.create(options, seed, self.listener.clone()) {
            Ok(instance) => Ok(Box::new(Made { instance, label })),
            Err(failure) => Err(error(&label, failure)),
        }
    }
}

struct Made {
    instance: caller::Instance,
    label: String,
}

impl Instance for Made {
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<()> {
        self.instance.score(part, evidence, out).map_err(|f| located(part, error(&self.label, f)))
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
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
