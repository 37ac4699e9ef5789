//! Methods that are programs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use compress_sdk::Options;

use super::{Instance, Listener, Maker, MethodCard, Registered};
use crate::error::{Error, Result};

pub(super) struct Program;

pub(super) fn describe(
    name: &str,
    argv: &[String],
    cwd: &Path,
    timeout: Duration,
    listener: &Arc<dyn Listener>,
) -> Result<(MethodCard, Program)> {
    let _ = (argv, cwd, timeout, listener);
    Err(Error::usage(format!("program \"{name}\" cannot be started yet")))
}

impl Maker for Program {
    fn make(&self, method: &Registered, _: &Options, _: u64) -> Result<Box<dyn Instance>> {
        Err(Error::usage(format!("{} cannot be started yet", method.label())))
    }
}
