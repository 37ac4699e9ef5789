//! A running program and the lines that are exchanged with it.
#![allow(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Listener;
use super::lines::{LONGEST, Lines, Next};
use crate::error::{Error, Result};

/// A program that answers a line with a line.
pub struct Talk {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines,
    timeout: Duration,
    label: String,
    listener: Arc<dyn Listener>,
    /// Number of the last question. Answers carry it, so that a line too many is noticed.
    asked: u64,
    /// Why it was ended; every later question gets the same answer.
    over: Option<String>,
}

impl Talk {
    /// Starts a program. Its stderr is ours.
    pub fn start(
        argv: &[String],
        cwd: &Path,
        timeout: Duration,
        label: &str,
        listener: Arc<dyn Listener>,
    ) -> Result<Talk> {
        let Some((program, words)) = argv.split_first() else {
            return Err(Error::usage(format!("{label} has no command; give its words as a list")));
        };
        let cwd = if cwd.as_os_str().is_empty() { Path::new(".") } else { cwd };
        let mut command = Command::new(program);
        command.args(words).current_dir(cwd).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own: Ctrl-C is for us to hand on, and what it starts itself ends with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|e| {
            let why = Error::io("start", Path::new(program), &e);
            Error::usage(format!("{label}: {why}; is it installed, and is its path right from \"{}\"?", cwd.display()))
        })?;
        let to = child.stdin.take();
        let from = Lines::new(child.stdout.take().expect("it was asked for"));
        Ok(Talk { child, to, from, timeout, label: label.into(), listener, asked: 0, over: None })
    }

    /// Asks, and waits for the answer's `"ok"`.
    pub fn ask(&mut self, mut question: Value) -> Result<Value> {
        if let Some(text) = &self.over {
            return Err(self.error(text));
        }
        self.asked += 1;
        question["id"] = self.asked.into();
        let mut line = question.to_string();
        line.push('\n');
        // A program that ended cannot read this; what it did is said below.
        let _ = self.to.as_mut().map(|to| to.write_all(line.as_bytes()).and_then(|()| to.flush()));
        let line = self.line()?;
        let text = String::from_utf8_lossy(&line);
        let mut answer = match serde_json::from_str::<Value>(text.trim()) {
            Ok(Value::Object(answer)) => answer,
            _ => {
                let start: String = text.trim_end().chars().take(60).collect();
                return Err(self.end(format!(
                    "it wrote {start:?} on stdout, which is for its answers alone; print to stderr instead"
                )));
            }
        };
        if answer.get("id").and_then(Value::as_u64) != Some(self.asked) {
            let asked = self.asked;
            return Err(
                self.end(format!("its answer {:?} does not have the \"id\" {asked} of the call", text.trim_end()))
            );
        }
        match (answer.remove("ok"), answer.get("error").and_then(Value::as_str)) {
            (Some(ok), None) => Ok(ok),
            (None, Some(text)) => Err(self.error(text)),
            _ => Err(self.end(format!("its answer {:?} has neither \"ok\" nor \"error\"", text.trim_end()))),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        let start = Instant::now();
        loop {
            let left = self.timeout.saturating_sub(start.elapsed());
            match self.from.next(left.min(Duration::from_millis(100))) {
                Next::Line(line) => return Ok(line),
                Next::TooLong => {
                    return Err(self.end(format!("it wrote a line of more than {LONGEST} bytes on stdout")));
                }
                Next::End => return Err(self.ended()),
                Next::Later if self.listener.cancelled() => {
                    self.end("it was interrupted".into());
                    return Err(Error::Interrupted);
                }
                Next::Later if start.elapsed() >= self.timeout => {
                    return Err(self.end(format!(
                        "it gave no answer for {} s and was ended; raise [plugins] timeout if it needs longer",
                        self.timeout.as_secs_f64()
                    )));
                }
                Next::Later => {}
            }
        }
    }

    /// It closed its stdout: how did it end?
    fn ended(&mut self) -> Error {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                _ if start.elapsed() > Duration::from_secs(1) => break "stdout closed".into(),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        self.end(format!("it ended before it answered ({status}); what it said on stderr stands above"))
    }

    /// Ends the program and says why.
    fn end(&mut self, text: String) -> Error {
        self.kill();
        let error = self.error(&text);
        self.over = Some(text);
        error
    }

    fn error(&self, text: &str) -> Error {
        Error::failed(format!("{}: {text}", self.label))
    }

    fn kill(&mut self) {
        #[cfg(unix)]
        if let (Ok(None), Ok(group)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            // SAFETY: no memory is passed. The child was not waited for, so its id is still its group's and no other's.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Talk {
    /// Tells it that there is nothing more, and ends it if it does not go.
    fn drop(&mut self) {
        self.to = None;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill();
    }
}
