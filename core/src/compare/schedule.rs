//! Runs cells side by side, each in a process of its own, as threads and memory allow.
//!
//! A process ends with its parent: it holds the reading end of a pipe on its stdin, and stops when that closes. So Ctrl-C,
//! an error and even the death of this process leave no cell running behind.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::machine;
use super::plan::Placed;
use crate::error::{Error, Result};
use crate::progress::{Unit, Watch};

/// How to run the cells.
pub struct Schedule<'a> {
    /// Threads in all.
    pub threads: usize,
    /// What a cell may need before any was seen to end, in bytes.
    pub first_guess: u64,
    /// Most memory that a finished cell took.
    pub seen: u64,
    /// What a cell is expected to cost, in any unit: for the time that is left.
    pub weight: &'a dyn Fn(&Placed) -> u64,
    /// The command that does a cell with so many threads.
    pub command: &'a dyn Fn(&Placed, usize) -> Result<Command>,
}

/// A cell that failed, with what it said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Its label.
    pub label: String,
    /// The sentence.
    pub sentence: String,
}

struct Running<'a> {
    cell: &'a Placed,
    child: Child,
    threads: usize,
}

/// All that run.
#[derive(Default)]
struct Crew<'a>(Vec<Running<'a>>);

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        // All are asked before any is waited for. Closing the pipe asks: what can be gone on with is kept.
        self.0.iter_mut().for_each(|one| drop(one.child.stdin.take()));
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(20) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Schedule<'_> {
    /// Runs all; what failed is returned and does not stop the others.
    pub fn run(&self, cells: &[&Placed], watch: Watch<'_>) -> Result<Vec<Failure>> {
        let mut waiting: Vec<&Placed> = cells.iter().rev().copied().collect();
        let mut crew = Crew::default();
        let running = &mut crew.0;
        let mut failures = Vec::new();
        let mut seen = self.seen;
        let total = cells.iter().map(|c| (self.weight)(c)).sum();
        if !cells.is_empty() {
            watch.progress.begin(&format!("{} cells", cells.len()), total, Unit::Count);
        }
        while !(waiting.is_empty() && running.is_empty()) {
            watch.check()?;
            let mut ended = Vec::new();
            for (i, one) in running.iter_mut().enumerate() {
                let status = one.child.try_wait();
                let status = status.map_err(|e| Error::failed(format!("\"{}\": {e}", one.cell.label())))?;
                ended.extend(status.map(|status| (i, status)));
            }
            for (i, status) in ended.iter().rev() {
                let one = running.remove(*i);
                match one.cell.place.read() {
                    Some(done) if status.success() => seen = seen.max(done.peak_bytes),
                    // Both were told to stop.
                    _ if status.code() == Some(130) => return Err(Error::Interrupted),
                    _ => failures.push(Failure { label: one.cell.label(), sentence: one.cell.place.last_word() }),
                }
                watch.progress.advance((self.weight)(one.cell));
            }
            let changed = !ended.is_empty() | self.start(&mut waiting, running, seen)?;
            if changed {
                let names: Vec<String> = running.iter().map(|r| r.cell.label()).collect();
                watch.progress.note(&names.join(" · "));
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        watch.progress.end();
        Ok(failures)
    }

    /// Starts as many as there are threads and memory for, but always one.
    fn start<'a>(&self, waiting: &mut Vec<&'a Placed>, running: &mut Vec<Running<'a>>, seen: u64) -> Result<bool> {
        let mut started = false;
        loop {
            let free = self.threads.saturating_sub(running.iter().map(|r| r.threads).sum());
            if waiting.is_empty() || free == 0 || !(running.is_empty() || self.fits(running, seen)) {
                return Ok(started);
            }
            let Some(cell) = waiting.pop() else { return Ok(started) };
            // The last ones share what is there.
            let threads = free.div_ceil(free.min(waiting.len() + 1));
            let mut command = (self.command)(cell, threads)?;
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            let child = command.spawn().map_err(|e| Error::failed(format!("cannot start a cell's process: {e}")))?;
            running.push(Running { cell, child, threads });
            started = true;
        }
    }

    /// Whether one more fits beside those that run: what is free now, less what they may still grow by.
    fn fits(&self, running: &[Running<'_>], seen: u64) -> bool {
        let Some(available) = machine::available_bytes() else { return true };
        let need = if seen > 0 { seen + seen / 4 } else { self.first_guess };
        let growth: u64 =
            running.iter().map(|r| need.saturating_sub(machine::resident_bytes(r.child.id()).unwrap_or(0))).sum();
        available >= need + growth
    }
}
