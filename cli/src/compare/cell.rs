//! One cell in a process of its own: the run, the quality of the file that it wrote, the file's size after zstd; and,
//! later and alone, how long it loads and runs.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use compress_core::compare::cache::write_json;
use compress_core::compare::{Done, Place, Quality, Timing, machine};
use compress_core::drive::{self, RunOptions};
use compress_core::error::{Error, Result};
use compress_core::format::BLOCK_BYTES;
use compress_core::model::Model;
use compress_core::plan::Plan;
use compress_core::progress::{Silent, Watch};
use compress_core::recipe::Recipe;
use compress_core::report::{Metrics, Report};
use compress_engine::engine::{AsStored, BATCH};

use super::engine;
use crate::args::CellArgs;
use crate::builtin;
use crate::commands::{CANCELLED, open_options, prepare, registry_for, setup};

/// zstd's level: level 19 is ten times as slow and 2 % smaller on a pruned model of 31 MB, no smaller on a dense one.
pub const ZSTD_LEVEL: i32 = 9;

/// Does a cell, or times it.
pub fn cell(args: &CellArgs) -> Result<()> {
    prepare(&args.general)?;
    stop_with_parent();
    let place = Place { folder: args.folder.clone() };
    let path = place.recipe();
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
    let mut recipe = Recipe::parse(&text, &args.study)?;
    place.direct(&mut recipe);
    if args.time { time(args, &place, &recipe) } else { run(args, &place, &recipe) }
}

/// Stops this process as Ctrl-C would when the one that started it closes the pipe, or dies.
fn stop_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        CANCELLED.store(true, Ordering::SeqCst);
    });
}

fn run(args: &CellArgs, place: &Place, recipe: &Recipe) -> Result<()> {
    let watch = Watch { progress: &Silent, cancelled: &CANCELLED };
    let started = Instant::now();
    let registry = registry_for(Some(recipe), &args.plugins)?;
    let formats = builtin::formats();
    let setup = setup(&formats, &registry, &args.open, true);
    let plan = Plan::new(&setup, recipe, true)?;
    let mut options =
        RunOptions { force: true, report: Some(place.report()), resume: place.begun(recipe), ..RunOptions::default() };
    let report = match drive::run(&plan, &options, watch) {
        // What was broken off belongs to another version: begun anew.
        Err(Error::Usage(_)) if options.resume => {
            options.resume = false;
            drive::run(&plan, &options, watch)?
        }
        other => other?,
    };
    let model = Model::open(&formats, &place.written(&recipe.model), &setup.open)?;
    let known = Quality { metrics: last_metrics(&report), ..Quality::default() };
    let quality = engine::quality(&model, recipe, known, watch)?;
    let files: Vec<PathBuf> = model.files().map(|f| f.path.clone()).collect();
    let mut zstd_bytes = 0;
    for file in &files {
        watch.check()?;
        zstd_bytes += packed(file, std::io::sink())?;
    }
    let done = Done {
        bytes: report.output.as_ref().and_then(|o| o.bytes).unwrap_or_else(|| model.bytes()),
        zstd_bytes,
        zstd_level: ZSTD_LEVEL,
        metrics: quality.metrics,
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: machine::cpu_time().as_secs_f64(),
        peak_bytes: machine::peak_bytes().unwrap_or(0),
    };
    place.finish(&done, &quality.bleu)
}

/// The metrics of the evaluations after the last stage that changed anything: they are those of the file.
fn last_metrics(report: &Report) -> Metrics {
    let mut found = Metrics::default();
    for stage in report.stages.iter().rev().take_while(|s| s.kind == "evaluate") {
        let Some(metrics) = &stage.metrics else { continue };
        for (list, more) in [(&mut found.validation, &metrics.validation), (&mut found.test, &metrics.test)] {
            let new: Vec<_> = more.iter().filter(|(n, _)| !list.iter().any(|(m, _)| m == n)).cloned().collect();
            list.extend(new);
        }
    }
    found
}

/// Puts a file through zstd; returns the bytes that come out.
fn packed(path: &Path, out: impl Write) -> Result<u64> {
    struct Counting<W>(W, u64);
    impl<W: Write> Write for Counting<W> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = self.0.write(bytes)?;
            self.1 += n as u64;
            Ok(n)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    let io = |e: std::io::Error| Error::io("compress with zstd", path, &e);
    let mut file = compress_core::files::open(path)?;
    let mut encoder = zstd::Encoder::new(Counting(out, 0), ZSTD_LEVEL).map_err(io)?;
    std::io::copy(&mut file, &mut encoder).map_err(io)?;
    Ok(encoder.finish().map_err(io)?.1)
}

/// Seconds of undoing zstd of a model's file, the median of three; 0 of a folder.
pub fn unpack_seconds(path: &Path) -> Result<f64> {
    if !path.is_file() {
        return Ok(0.0);
    }
    let mut small = Vec::new();
    packed(path, &mut small)?;
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        zstd::stream::copy_decode(small.as_slice(), std::io::sink())
            .map_err(|e| Error::io("read zstd's output of", path, &e))?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(median(&mut seconds))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Least and most repeats, and the time after which no more are begun.
const REPEATS: (usize, usize) = (3, 9);
const ENOUGH: Duration = Duration::from_millis(250);

/// Repeats a piece of work; medians of wall and processor seconds, and how often.
fn repeated(mut work: impl FnMut() -> Result<()>) -> Result<(f64, f64, usize)> {
    let begun = Instant::now();
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    while wall.len() < REPEATS.0 || (wall.len() < REPEATS.1 && begun.elapsed() < ENOUGH) {
        let (started, used) = (Instant::now(), machine::cpu_time());
        work()?;
        wall.push(started.elapsed().as_secs_f64());
        cpu.push(machine::cpu_time().saturating_sub(used).as_secs_f64());
    }
    Ok((median(&mut wall), median(&mut cpu), wall.len()))
}

/// Loading: opening the file and decoding every weight, by the engine where it can run the model, so that what depends on
/// weights alone is computed too. Running: one batch forwards.
fn time(args: &CellArgs, place: &Place, recipe: &Recipe) -> Result<()> {
    let formats = builtin::formats();
    let output = place.written(&recipe.model);
    let options = open_options(&args.open);
    let load = || -> Result<()> {
        let model = Model::open(&formats, &output, &options)?;
        match engine::open(&model, recipe)? {
            Some(engine) => engine.load(&AsStored, BATCH).map(drop),
            None => read_all(&model),
        }
    };
    load()?; // the file into the page cache
    let (load_seconds, load_cpu_seconds, repeats) = repeated(load)?;
    let mut timing = Timing { load_seconds, load_cpu_seconds, repeats: repeats as u64, ..Timing::default() };
    let model = Model::open(&formats, &output, &options)?;
    if let Some(engine) = engine::open(&model, recipe)? {
        let loaded = engine.load(&AsStored, BATCH)?;
        engine.run(&loaded)?;
        let (wall, cpu, _) = repeated(|| engine.run(&loaded))?;
        (timing.run_seconds, timing.run_cpu_seconds) = (Some(wall), Some(cpu));
        timing.examples = loaded.examples() as u64;
    }
    write_json(&place.timing(), &timing)
}

fn read_all(model: &Model) -> Result<()> {
    let mut buffer = vec![0; BLOCK_BYTES];
    for (id, info) in model.tensors().iter().enumerate() {
        let bytes = info.dense_bytes();
        for offset in (0..bytes).step_by(BLOCK_BYTES) {
            let n = (bytes - offset).min(BLOCK_BYTES as u64) as usize;
            model.read_at(id, offset, &mut buffer[..n])?;
        }
    }
    Ok(())
}
