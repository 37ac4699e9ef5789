//! `compress compare study.toml`: cells are planned, those that are missing are run side by side in processes of their
//! own, then models are timed alone, and the reports are written.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use compress_core::class::resolve::ClassMap;
use compress_core::compare::answer::{metric_name, number};
use compress_core::compare::cost::{self, Rates};
use compress_core::compare::schedule::{Failure, Schedule};
use compress_core::compare::{Comparison, Group, Kind, Placed, Results, report};
use compress_core::drive::write_report;
use compress_core::error::{Error, Result};
use compress_core::evidence::EvidenceFile;
use compress_core::model::Model;
use compress_core::plan::Setup;
use compress_core::progress::{Unit, Watch};
use compress_core::recipe::{Recipe, Retrain, StageKind, Study};
use compress_core::report::Table;
use compress_page::{Figures, page};

use crate::args::{CompareArgs, OpenArgs};
use crate::commands::{CANCELLED, prepare, progress, registry_for, setup};
use crate::{builtin, emit};

pub mod cell;
mod engine;

/// Compares.
pub fn compare(args: &CompareArgs) -> Result<()> {
    let study = Study::load(&args.study)?;
    let dense = study.dense("dense")?;
    let registry = registry_for(Some(&dense.recipe), &args.plugins)?;
    let formats = builtin::formats();
    let setup = setup(&formats, &registry, &args.open, true);
    prepare(&args.general)?;
    let bar = progress(&args.general);
    let watch = Watch { progress: bar.as_ref(), cancelled: &CANCELLED };
    let comparison = Comparison::new(&study, &setup, &args.plugins.plugin, watch)?;
    let threads = args.general.threads.map_or_else(cores, usize::from);
    let open = args.dry_run || args.force || comparison.cells.iter().any(|c| c.place.read().is_none());
    let rates =
        if open { engine::rates(&comparison, &setup, watch).inspect_err(|_| bar.end())? } else { Rates::default() };
    if args.dry_run {
        return emit(&dry_run(&comparison, &rates, threads));
    }
    let _lock = claim(&study, args)?;
    let work = Work { args, study: &study, comparison: &comparison, threads, rates };
    let done = work.run(&setup, watch).inspect_err(|e| {
        bar.end();
        if matches!(e, Error::Interrupted) {
            eprintln!("go on with: compress compare {} --resume", args.study.display());
        }
    })?;
    if !args.general.quiet {
        emit(&done.text)?;
    }
    match done.failures.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::failed(format!("the cell \"{}\" failed: {}", one.label, one.sentence))),
        all => {
            let labels: Vec<String> = all.iter().map(|f| format!("\"{}\"", f.label)).collect();
            let first = &all[0].sentence;
            Err(Error::failed(format!("{} cells failed ({}); the first: {first}", all.len(), labels.join(", "))))
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The study's folder, held as long as the file that is returned is open.
fn claim(study: &Study, args: &CompareArgs) -> Result<File> {
    let output = &study.output;
    let cells = output.join("cells");
    if args.resume && !cells.exists() {
        return Err(Error::usage(format!("--resume: there is no interrupted study in \"{}\"", output.display())));
    }
    let foreign =
        output.exists() && !cells.exists() && std::fs::read_dir(output).map_or(true, |mut d| d.next().is_some());
    if foreign && !args.force {
        return Err(Error::usage(format!(
            "\"{}\" exists already and holds no study: give \"output\" another name, or --force writes into it",
            output.display()
        )));
    }
    std::fs::create_dir_all(&cells).map_err(|e| Error::io("create", &cells, &e))?;
    let path = cells.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::io("open", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::failed(format!("\"{}\" is being compared by another process", output.display()))),
    }
}

struct Work<'a> {
    args: &'a CompareArgs,
    study: &'a Study,
    comparison: &'a Comparison<'a>,
    threads: usize,
    rates: Rates,
}

/// What a comparison came to.
struct Outcome {
    text: String,
    failures: Vec<Failure>,
}

impl Work<'_> {
    fn run(&self, setup: &Setup<'_>, watch: Watch<'_>) -> Result<Outcome> {
        let cells = &self.comparison.cells;
        if self.args.force {
            cells.iter().try_for_each(|c| c.place.clear())?;
        }
        let mut missing: Vec<&Placed> = cells.iter().filter(|c| c.place.read().is_none()).collect();
        // The question first: a study that is broken off has the candidates, and what they are held against.
        missing.sort_by_key(|c| match c.kind {
            Kind::Dense => 0,
            Kind::Candidate => 1,
            _ => 2,
        });
        for cell in &missing {
            self.prepare(cell)?;
        }
        let schedule = Schedule {
            threads: self.threads,
            first_guess: first_guess(&self.rates, &missing),
            seen: cells.iter().filter_map(|c| c.place.read()).map(|d| d.peak_bytes).max().unwrap_or(0),
            // Milliseconds: what is shown as left is what the weights say.
            weight: &|cell| (1000.0 * self.rates.of(&cell.cell.recipe)) as u64 + 1,
            command: &|cell, threads| self.command(cell, threads, false),
        };
        let failures = schedule.run(&missing, watch)?;
        let dense = self.comparison.dense();
        if dense.place.read().is_none() {
            let why = failures.first().map_or_else(|| dense.place.last_word(), |f| f.sentence.clone());
            return Err(Error::failed(format!("the untouched model cannot be measured: {why}")));
        }
        self.time(watch)?;
        let unpack = cell::unpack_seconds(&dense.place.model(&dense.cell.recipe.model))?;
        let results = Results::read(self.comparison, failures.clone(), Some(unpack))
            .ok_or_else(|| Error::failed("the untouched model's cell is damaged; --force computes it anew"))?;
        self.write(&results, setup, watch)?;
        Ok(Outcome { text: self.table(&results), failures })
    }

    /// A cell's folder, empty but for its recipe, unless a run was broken off there.
    fn prepare(&self, placed: &Placed) -> Result<()> {
        let mut recipe = placed.cell.recipe.clone();
        placed.place.direct(&mut recipe);
        if placed.place.begun(&recipe) && placed.place.recipe().exists() {
            return Ok(());
        }
        placed.place.clear()?;
        let folder = &placed.place.folder;
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
        let text = format!(
            "# {}, seed {}: a cell of {}. Paths are relative to the study; the output lies here.\n{}",
            placed.label(),
            placed.cell.seed,
            self.args.study.display(),
            placed.cell.recipe.text
        );
        write_report(&placed.place.recipe(), &text)
    }

    /// This program again, for one cell.
    fn command(&self, placed: &Placed, threads: usize, time: bool) -> Result<Command> {
        let own = std::env::current_exe().map_err(|e| Error::failed(format!("cannot find this program: {e}")))?;
        let log = File::options().create(true).append(true).open(placed.place.log());
        let log = log.map_err(|e| Error::io("write", &placed.place.log(), &e))?;
        let mut command = Command::new(own);
        command.arg("cell").arg("--study").arg(&self.args.study).arg("--folder").arg(&placed.place.folder);
        command.arg("--threads").arg(threads.to_string());
        for library in &self.args.plugins.plugin {
            command.arg("--plugin").arg(library);
        }
        let OpenArgs { follow_links, max_expand } = &self.args.open;
        command.arg("--max-expand").arg(max_expand.to_string());
        command.args(follow_links.then_some("--follow-links")).args(time.then_some("--time"));
        // A group of its own: Ctrl-C reaches this process only, which then asks the cells to stop.
        command.stderr(Stdio::from(log)).process_group(0);
        Ok(command)
    }

    /// Times all models one after the other with nothing else running, in one session: figures of several days are not
    /// to be compared.
    fn time(&self, watch: Watch<'_>) -> Result<()> {
        let cells: Vec<&Placed> = self.comparison.cells.iter().filter(|c| c.place.read().is_some()).collect();
        if cells.iter().all(|c| c.place.read_timing().is_some()) {
            return Ok(());
        }
        watch.progress.begin("load and run times", cells.len() as u64, Unit::Count);
        for cell in cells {
            let mut child = self.command(cell, 1, true)?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
            let child = child.as_mut().map_err(|e| Error::failed(format!("cannot start a process: {e}")))?;
            let status = loop {
                if watch.check().is_err() {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Error::Interrupted);
                }
                match child.try_wait() {
                    Ok(Some(status)) => break status,
                    Ok(None) => std::thread::sleep(std::time::Duration::from_millis(2)),
                    Err(e) => return Err(Error::failed(format!("\"{}\": {e}", cell.label()))),
                }
            };
            if !status.success() {
                let why = cell.place.last_word();
                return Err(Error::failed(format!("\"{}\" cannot be timed: {why}", cell.label())));
            }
            watch.progress.advance(1);
        }
        watch.progress.end();
        Ok(())
    }

    fn write(&self, results: &Results<'_>, setup: &Setup<'_>, watch: Watch<'_>) -> Result<()> {
        let output = &self.study.output;
        let json = report::json(results);
        let figures = self.figures(results, setup, watch)?;
        write_report(&output.join("report.csv"), &report::csv(results))?;
        write_report(&output.join("report.html"), &page(results, &figures))?;
        write_report(&output.join("report.json"), &json)?;
        self.args.report.as_ref().map_or(Ok(()), |path| write_report(path, &json))
    }

    /// Histograms and maps of the weights, of the cells that are shown.
    fn figures(&self, results: &Results<'_>, setup: &Setup<'_>, watch: Watch<'_>) -> Result<Figures> {
        use compress_core::compare::figures::{histograms, maps};
        let recipe = &self.comparison.dense().cell.recipe;
        let model = Model::open(setup.formats, recipe.model.all(), &setup.open)?;
        let map = ClassMap::resolve(model.tensors(), model.roles(), &recipe.classes, recipe.include_1d)?;
        let shown = compress_page::shown(results);
        let masks: Vec<_> = shown.iter().map(|i| results.cells[*i].place.masks()).collect();
        let paths: Vec<&Path> = masks.iter().map(|p| p.as_path()).collect();
        let histograms = histograms(&model, &map, &paths)?;
        let counts = engine::row_counts(&model, recipe, &self.study.output, watch)?;
        let counts = counts.map(|path| EvidenceFile::open(&path, model.tensors())).transpose()?;
        let maps = paths.iter().map(|p| maps(&model, &map, p, counts.as_ref())).collect::<Result<Vec<_>>>()?;
        Ok(Figures { cells: shown, histograms, maps })
    }

    fn table(&self, results: &Results<'_>) -> String {
        let metrics = results.groups[0].metrics.get(results.split);
        let metrics: Vec<&str> = metrics.into_iter().flatten().map(|(name, _)| name.as_str()).take(4).collect();
        let mut head: Vec<String> = ["", "", "pruned", "bytes", "of dense", "zstd"].map(str::to_string).to_vec();
        head.extend(metrics.iter().map(|m| metric_name(m).to_string()));
        head.extend(["load", "run"].map(str::to_string));
        let mut table = Table::of(head).left(1);
        for (index, group) in results.groups.iter().enumerate() {
            table.row(self.row(results, index, group, &metrics));
        }
        let mut out = table.without_empty_columns().to_string();
        out += &format!(
            "\nquality on {}; load and run against dense, alone, one thread; * is the answer\n",
            results.split
        );
        report::notes(results).iter().for_each(|note| out += &format!("note: {note}\n"));
        results.failures.iter().for_each(|f| out += &format!("failed: {}: {}\n", f.label, f.sentence));
        out += &format!("\n{}\n\n{}\n", results.answer.sentence, self.study.output.join("report.html").display());
        out
    }

    fn row(&self, results: &Results<'_>, index: usize, group: &Group, metrics: &[&str]) -> Vec<String> {
        let dense = &results.groups[0];
        let mark = match results.answer.group {
            Some(best) if best == index => "*",
            _ => "",
        };
        let mut row = vec![
            mark.to_string(),
            group.label(),
            group.pruned.map_or(String::new(), |p| format!("{:.1} %", 100.0 * p)),
            group.bytes.to_string(),
            format!("{:.1} %", 100.0 * group.bytes as f64 / dense.bytes.max(1) as f64),
            group.zstd_bytes.to_string(),
        ];
        for metric in metrics {
            row.push(group.metric(results.split, metric).map_or(String::new(), |s| number(metric, s.mean)));
        }
        let times = |c: usize| results.cells[c].timing;
        let (own, base) = (times(group.cells[0]), times(dense.cells[0]));
        let ratio = |a: Option<f64>, b: Option<f64>| {
            a.zip(b).filter(|(_, b)| *b > 0.0).map_or(String::new(), |(a, b)| format!("{:.2} ×", a / b))
        };
        row.push(ratio(own.map(|t| t.load_seconds), base.map(|t| t.load_seconds)));
        row.push(ratio(own.and_then(|t| t.run_seconds), base.and_then(|t| t.run_seconds)));
        row
    }
}

/// What a cell may need: the engine keeps a weight, its gradient, both moments, and the best so far.
fn first_guess(rates: &Rates, cells: &[&Placed]) -> u64 {
    let trains = |recipe: &Recipe| {
        recipe.stages.iter().any(|stage| match &stage.kind {
            StageKind::Retrain(Retrain::Engine(_)) => true,
            StageKind::Method(m) => m.retrain.is_some(),
            _ => false,
        })
    };
    let copies = if cells.iter().any(|c| trains(&c.cell.recipe)) { 8 } else { 3 };
    (256 << 20) + copies * rates.bytes
}

/// The cells, what is finished of them, and how long the rest takes.
fn dry_run(comparison: &Comparison<'_>, rates: &Rates, threads: usize) -> String {
    let head = ["", "seed", "state", "key", "about"].map(str::to_string).to_vec();
    let mut table = Table::of(head).left(2).left(3);
    let (seconds, finished) = cost::wall_seconds(&comparison.cells, rates, threads);
    let mut missing = 0;
    for cell in &comparison.cells {
        let state = match cell.place.read() {
            Some(done) => ["finished".to_string(), format!("took {:.0} s", done.seconds)],
            None => {
                missing += 1;
                ["to run".to_string(), format!("{:.0} s of one thread", rates.of(&cell.cell.recipe).max(1.0))]
            }
        };
        let [state, about] = state;
        table.row([cell.label(), cell.cell.seed.to_string(), state, cell.key.clone(), about]);
    }
    let mut out = table.to_string();
    let how = match (rates.forward > 0.0, finished) {
        (false, _) => {
            "from the model's bytes only: nothing here can run it, and what commands take is not known".into()
        }
        (true, 0) => "from what one batch costs here; what methods compute and commands do is not in it".to_string(),
        (true, n) => format!("from what one batch costs here and what {n} finished cells took of that"),
    };
    comparison.notes.iter().for_each(|note| out += &format!("note: {note}\n"));
    out += &format!(
        "\n{missing} of {} cells to run: about {:.2} hours on {threads} threads, {how}\n",
        comparison.cells.len(),
        seconds / 3600.0
    );
    out
}
