//! The command `compress`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use compress_core::error::{Error, Result};

mod args;
mod bar;
mod builtin;
mod commands;
mod graph;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => return usage(&e),
    };
    match commands::dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(
                std::io::stderr(),
                "{}: {e}",
                if std::io::stderr().is_terminal() { "\x1b[31merror\x1b[0m" } else { "error" }
            );
            ExitCode::from(e.status())
        }
    }
}

/// Help and version are results; everything else that clap says is a mistake in the command line.
fn usage(e: &clap::Error) -> ExitCode {
    // `compress inspct model.onnx`: clap takes the first word for a recipe and complains of the second.
    let first = std::env::args().nth(1).filter(|word| !word.starts_with('-'));
    match first.and_then(|word| commands::unknown_word(std::path::Path::new(&word))) {
        Some(error) if e.kind() != ErrorKind::DisplayHelp => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
        }
        _ => {
            let _ = e.print();
        }
    }
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

/// Prints a result on stdout. A reader that has gone away (`| head`) is no failure.
fn emit(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let done =
        out.write_all(text.as_bytes()).and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    match done.and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot print the result: {e}")))
        }
        _ => Ok(()),
    }
}
