//! The page of a comparison: one HTML file that needs nothing but itself, in light and dark, on a phone and on paper.
//!
//! It is made from [`Results`] and from [`Figures`] of the weights; nothing is computed here but where things are drawn.

use compress_core::compare::answer::{grouped, metric_name, number};
use compress_core::compare::figures::{Histogram, Map};
use compress_core::compare::groups::Spread;
use compress_core::compare::{Group, Kind, Results, loss_of, lower_is_better, report};
use serde_json::Value;

use plot::{Axis, Plot, Series, mark};
use text::{Table, escaped, percent, seconds, short};

mod colour;
mod image;
mod plot;
mod text;

/// Figures of the weights of some cells.
pub struct Figures {
    /// The cells, as [`shown`] chose them.
    pub cells: Vec<usize>,
    /// The untouched model's weights by class, with a threshold a cell.
    pub histograms: Vec<Histogram>,
    /// The maps of each cell.
    pub maps: Vec<Vec<Map>>,
}

/// Most cells whose weights are shown.
const SHOWN: usize = 4;

/// The cells whose weights are shown: the answer's, and those of other candidates that prune as much.
pub fn shown(results: &Results<'_>) -> Vec<usize> {
    let has_masks = |g: &&Group| {
        g.kind == Kind::Candidate
            && results.cells[g.cells[0]].place.masks().exists()
            && g.pruned.is_some_and(|p| p > 0.0)
    };
    let all: Vec<&Group> = results.groups.iter().filter(has_masks).collect();
    let answer = results.answer.group.map(|i| &results.groups[i]).filter(has_masks);
    let Some(first) = answer.or_else(|| all.get(all.len() / 2).copied()) else { return Vec::new() };
    let name = |g: &Group| family(&g.candidate, &g.sweep);
    let near = |g: &Group| g.pruned.zip(first.pruned).is_some_and(|(a, b)| (a - b).abs() < 0.02);
    let mut cells = vec![first.cells[0]];
    let mut names = vec![name(first)];
    for group in &all {
        if cells.len() < SHOWN && near(group) && !names.contains(&name(group)) {
            cells.push(group.cells[0]);
            names.push(name(group));
        }
    }
    cells
}

/// The page.
pub fn page(results: &Results<'_>, figures: &Figures) -> String {
    let title = results.study.path.file_stem().map_or("study".into(), |s| s.to_string_lossy().into_owned());
    let view = View { results, names: names(results) };
    let sections = [
        view.head(),
        view.all(),
        view.against_bytes(),
        view.against_share(),
        view.by_class(),
        view.only_class(),
        view.histograms(figures),
        view.maps(figures),
        view.times(),
        view.origin(),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>{} — compress compare</title><style>{}</style></head><body>\n{}\n\
         </body></html>\n",
        escaped(&title),
        include_str!("style.css"),
        sections.concat()
    )
}

/// What has a colour of its own, in order, candidates first: a candidate with those swept values that are no quantities
/// (a scheme, a method), so that a line goes over the amounts.
fn names(results: &Results<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for of in [true, false] {
        for group in results.groups.iter().filter(|g| (g.kind == Kind::Candidate) == of) {
            let name = family(&group.candidate, &group.sweep);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn family(candidate: &str, sweep: &[(String, toml::Value)]) -> String {
    let mut name = candidate.to_string();
    for word in sweep.iter().filter_map(|(_, v)| v.as_str()).filter(|v| !v.starts_with(|c: char| c.is_ascii_digit())) {
        name += &format!(", {word}");
    }
    name
}

struct View<'a> {
    results: &'a Results<'a>,
    names: Vec<String>,
}

fn section(title: &str, body: String) -> String {
    if body.is_empty() { body } else { format!("<section><h2>{}</h2>\n{body}</section>\n", escaped(title)) }
}

/// `33.21 ± 0.12`.
fn spread(metric: &str, spread: Option<Spread>) -> String {
    let Some(s) = spread else { return String::new() };
    match s.deviation {
        Some(d) => format!("{} <small>± {}</small>", number(metric, s.mean), number(metric, d)),
        None => number(metric, s.mean),
    }
}

/// Few digits for axes.
fn tick(v: f64) -> String {
    match v.abs() {
        a if a >= 1000.0 => short(v),
        a if a >= 100.0 => format!("{v:.0}"),
        a => {
            let text = format!("{v:.*}", if a >= 10.0 { 1 } else { 3 });
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

impl View<'_> {
    fn number_of(&self, name: &str) -> usize {
        self.names.iter().position(|n| n == name).unwrap_or(0)
    }

    fn split(&self) -> &str {
        self.results.split
    }

    fn head(&self) -> String {
        let results = self.results;
        let mut out = format!("<h1>{}</h1>\n", escaped(&self.title()));
        out += &format!("<p class=\"answer\">{}</p>\n", escaped(&results.answer.sentence));
        let notes: String = report::notes(results).iter().map(|n| format!("<li>{}</li>", escaped(n))).collect();
        let failed: String = results
            .failures
            .iter()
            .map(|f| format!("<li><strong>{} failed:</strong> {}</li>", escaped(&f.label), escaped(&f.sentence)))
            .collect();
        out + &format!("<ul class=\"soft\">{failed}{notes}</ul>\n")
    }

    fn title(&self) -> String {
        let dense = &self.results.cells[0];
        let model = dense.report.pointer("/model/path").and_then(Value::as_str).unwrap_or_default();
        let name = model.rsplit('/').next().unwrap_or(model);
        format!("{name}: which technique, how far, at what cost")
    }

    fn all(&self) -> String {
        let results = self.results;
        let dense = &results.groups[0];
        let metrics: Vec<&str> =
            dense.metrics.get(self.split()).into_iter().flatten().map(|(n, _)| n.as_str()).collect();
        let mut head = ["", "pruned", "bytes", "of dense", "after zstd"].map(String::from).to_vec();
        head.extend(metrics.iter().map(|m| escaped(metric_name(m))));
        head.extend(["BLEU against dense, 95 %".into(), "seeds".into(), "front".into()]);
        let mut table = Table::new(head);
        for (i, group) in results.groups.iter().enumerate() {
            let mut row = vec![
                format!(
                    "{}{}",
                    mark(self.number_of(&family(&group.candidate, &group.sweep)))
                        .replace("<svg ", "<svg class=\"key\" "),
                    escaped(&group.label())
                ),
                group.pruned.map_or(String::new(), percent),
                grouped(group.bytes),
                percent(group.bytes as f64 / dense.bytes.max(1) as f64),
                grouped(group.zstd_bytes),
            ];
            row.extend(metrics.iter().map(|m| spread(m, group.metric(self.split(), m))));
            row.push(group.bleu.get(self.split()).map_or(String::new(), |i| {
                format!("{:+.2} <small>({:+.2} … {:+.2})</small>", i.difference, i.low, i.high).replace('-', "−")
            }));
            row.push(if group.cells.len() > 1 { group.cells.len().to_string() } else { String::new() });
            row.push(if group.pareto { "●".into() } else { String::new() });
            let class = match (results.answer.group == Some(i), group.kind) {
                (true, _) => "best",
                (_, Kind::Candidate) => "",
                _ => "control",
            };
            table.row(class, row);
        }
        let level = results.cells[0].done.zstd_level;
        let note = format!(
            "<p class=\"soft\">Quality on {}. Sizes are of all files on disk; zstd at level {level}. The marked row is the \
             answer; ● = no other file is both smaller and better. Over several seeds: mean ± standard deviation, the largest \
             file.</p>",
            self.split()
        );
        section("All candidates and controls", note + &table.html())
    }

    fn legend(&self, names: &[&str]) -> String {
        let items = names.iter().map(|n| format!("<li>{}{}</li>", mark(self.number_of(n)), escaped(n)));
        format!("<ul class=\"legend\">{}</ul>", items.collect::<String>())
    }

    /// The axis of the metric that is plotted.
    fn quality_axis(&self, metric: &str) -> Axis {
        let values: Vec<f64> =
            self.results.groups.iter().filter_map(|g| g.metric(self.split(), metric)).map(|s| s.mean).collect();
        let (low, high) = values.iter().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        let log = lower_is_better(metric) && low > 0.0 && high / low > 20.0;
        let better = if lower_is_better(metric) { "lower is better" } else { "higher is better" };
        Axis { name: format!("{} on {} ({better})", metric_name(metric), self.split()), log, format: tick }
    }

    fn series(&self, place: impl Fn(&Group) -> Option<(f64, f64)>, line: bool) -> (Vec<Series>, Vec<&str>) {
        let (mut series, mut names) = (Vec::new(), Vec::new());
        for (number, name) in self.names.iter().enumerate() {
            let groups = self.results.groups.iter().filter(|g| family(&g.candidate, &g.sweep) == *name);
            let mut points: Vec<(f64, f64)> = groups.filter_map(&place).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
            if !points.is_empty() {
                names.push(name.as_str());
                series.push(Series { number, points, line });
            }
        }
        // The first candidates are drawn last, above the others.
        series.reverse();
        (series, names)
    }

    fn against_bytes(&self) -> String {
        let Some(metric) = self.results.metric.as_deref() else { return String::new() };
        let value = |g: &Group| g.metric(self.split(), metric).map(|s| s.mean);
        let (series, names) = self.series(|g| Some((g.bytes as f64, value(g)?)), false);
        let mut front: Vec<(f64, f64)> =
            self.results.groups.iter().filter(|g| g.pareto).filter_map(|g| Some((g.bytes as f64, value(g)?))).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        let plot = Plot {
            x: Axis { name: "bytes on disk".into(), log: true, format: short },
            y: self.quality_axis(metric),
            series,
            across: value(&self.results.groups[0]),
            front,
        };
        let title = format!("{} against bytes on disk", capital(metric_name(metric)));
        let caption = "<figcaption>Steps: the Pareto front. Dashes: the untouched model.</figcaption>";
        section(&title, format!("<figure>{}{}{caption}</figure>", self.legend(&names), plot.html(&title)))
    }

    fn against_share(&self) -> String {
        let Some(metric) = self.results.metric.as_deref() else { return String::new() };
        let value = |g: &Group| g.metric(self.split(), metric).map(|s| s.mean);
        let place = |g: &Group| {
            let shown = matches!(g.kind, Kind::Candidate | Kind::Random);
            (shown && !self.one_class(g)).then(|| Some((g.pruned.filter(|p| *p > 0.0)?, value(g)?))).flatten()
        };
        let (series, names) = self.series(place, true);
        if series.is_empty() {
            return String::new();
        }
        let plot = Plot {
            x: Axis {
                name: "share of the weights that are zero".into(),
                log: false,
                format: |v| format!("{:.0} %", 100.0 * v),
            },
            y: self.quality_axis(metric),
            series,
            across: value(&self.results.groups[0]),
            front: Vec::new(),
        };
        let title = format!("{} against the pruned share", capital(metric_name(metric)));
        let caption = "<figcaption>Dashes: the untouched model.</figcaption>";
        section(&title, format!("<figure>{}{}{caption}</figure>", self.legend(&names), plot.html(&title)))
    }

    fn classes<'g>(&'g self, group: &Group) -> Vec<(&'g str, u64, u64)> {
        let list = self.results.cells[group.cells[0]].report.get("classes").and_then(Value::as_array);
        let one =
            |c: &'g Value| Some((c.get("name")?.as_str()?, c.get("weights")?.as_u64()?, c.get("pruned")?.as_u64()?));
        list.into_iter().flatten().filter_map(one).collect()
    }

    fn by_class(&self) -> String {
        let dense = self.classes(&self.results.groups[0]);
        let mut head = vec![String::new()];
        head.extend(
            dense.iter().map(|(name, weights, _)| format!("{}<br><small>{}</small>", escaped(name), grouped(*weights))),
        );
        let mut table = Table::new(head);
        for group in &self.results.groups {
            let classes = self.classes(group);
            if group.kind != Kind::Candidate || classes.iter().all(|c| c.2 == 0) {
                continue;
            }
            let mut row = vec![escaped(&group.label())];
            for (name, ..) in &dense {
                let share = classes.iter().find(|c| c.0 == *name).map(|c| c.2 as f64 / c.1.max(1) as f64);
                row.push(share.map_or(String::new(), percent));
            }
            table.row("", row);
        }
        let any = self.results.groups.iter().any(|g| g.kind == Kind::Candidate && g.pruned.is_some_and(|p| p > 0.0));
        if !any {
            return String::new();
        }
        section(
            "Pruned by class",
            "<p class=\"soft\">Share of the class's weights that are zero.</p>".to_string() + &table.html(),
        )
    }

    /// Whether a group's method stages work on one class only.
    fn one_class(&self, group: &Group) -> bool {
        self.class_of(group).is_some()
    }

    fn class_of(&self, group: &Group) -> Option<String> {
        let report = &self.results.cells[group.cells[0]].report;
        let all = report.get("classes")?.as_array()?.len();
        let stages = report.get("stages")?.as_array()?;
        let mut found: Option<String> = None;
        for stage in stages.iter().filter(|s| s.get("kind").is_some_and(|k| k == "method")) {
            let classes = stage.get("classes")?.as_array()?;
            let [one] = classes.as_slice() else { return None };
            let name = one.get("name")?.as_str()?.to_string();
            if found.as_ref().is_some_and(|f| *f != name) {
                return None;
            }
            found = Some(name);
        }
        found.filter(|_| all > 1)
    }

    fn only_class(&self) -> String {
        let Some(metric) = self.results.metric.as_deref() else { return String::new() };
        let base = self.results.groups[0].metric(self.split(), metric);
        let head = ["class", "candidate", "pruned in it", metric_name(metric), "worse by"].map(String::from).to_vec();
        let mut table = Table::new(head);
        let mut any = false;
        for group in self.results.groups.iter().filter(|g| g.kind == Kind::Candidate) {
            let Some(class) = self.class_of(group) else { continue };
            any = true;
            let share = self.classes(group).iter().find(|c| c.0 == class).map(|c| c.2 as f64 / c.1.max(1) as f64);
            let value = group.metric(self.split(), metric);
            let worse = value.zip(base).map(|(v, b)| number(metric, loss_of(metric, b.mean, v.mean)).replace('-', "−"));
            table.row(
                "",
                vec![
                    escaped(&class),
                    escaped(&group.label()),
                    share.map_or(String::new(), percent),
                    spread(metric, value),
                    worse.unwrap_or_default(),
                ],
            );
        }
        if any { section("When only one class is pruned", table.html()) } else { String::new() }
    }

    fn histograms(&self, figures: &Figures) -> String {
        if figures.histograms.is_empty() {
            return String::new();
        }
        let of = |i: &usize| family(&self.results.cells[*i].candidate, &self.results.cells[*i].sweep);
        let cells: Vec<String> = figures.cells.iter().map(of).collect();
        let plots: String = figures
            .histograms
            .iter()
            .map(|h| {
                let lines: Vec<(usize, f64)> =
                    cells.iter().zip(&h.thresholds).filter_map(|(c, t)| Some((self.number_of(c), (*t)?))).collect();
                format!(
                    "<figure>{}<figcaption>{}: {} weights, σ = {:.4}</figcaption></figure>",
                    plot::histogram(&h.bins, h.limit, &lines),
                    escaped(&h.class),
                    grouped(h.weights),
                    h.sigma
                )
            })
            .collect();
        let which = match figures.cells.first() {
            Some(i) => format!(
                "The untouched weights, from −4σ to 4σ, counts on a logarithmic axis. Lines: the least |w| that is kept where {} of \
                 the weights are pruned.",
                compress_core::compare::groups::pruned(&self.results.cells[*i].report).map_or("some".into(), percent)
            ),
            None => "The untouched weights, from −4σ to 4σ, counts on a logarithmic axis.".into(),
        };
        let legend = if cells.is_empty() {
            String::new()
        } else {
            self.legend(&cells.iter().map(String::as_str).collect::<Vec<_>>())
        };
        section("Weights by class", format!("<p class=\"soft\">{which}</p>{legend}<div class=\"grid\">{plots}</div>"))
    }

    fn maps(&self, figures: &Figures) -> String {
        let mut out = String::new();
        for (i, (cell, maps)) in figures.cells.iter().zip(&figures.maps).enumerate() {
            let cell = &self.results.cells[*cell];
            let pictures: String = maps.iter().map(picture).collect();
            if pictures.is_empty() {
                continue;
            }
            let name = compress_core::compare::plan::label(&cell.candidate, &cell.sweep);
            let open = if i == 0 { " open" } else { "" };
            out += &format!(
                "<details{open}><summary>{}</summary><div class=\"grid\">{pictures}</div></details>",
                escaped(&name)
            );
        }
        if out.is_empty() {
            return out;
        }
        let note = "<p class=\"soft\">Where the kept weights of each matrix lie: rows are outputs, columns inputs; the more is \
                    kept, the more the picture stands out from the page. Each pixel is the share of kept weights of a block; \
                    lines part the sub-groups of an LSTM.</p>";
        section("Redundancy maps", format!("{note}{out}"))
    }

    fn times(&self) -> String {
        let results = self.results;
        let head = ["", "load", "CPU", "against dense", "run", "CPU", "against dense"].map(String::from).to_vec();
        let mut table = Table::new(head);
        let Some(base) = results.cells[0].timing else { return String::new() };
        for group in &results.groups {
            let Some(t) = results.cells[group.cells[0]].timing else { continue };
            let ratio = |a: f64, b: f64| if b > 0.0 { format!("{:.2} ×", a / b) } else { String::new() };
            table.row(
                if group.kind == Kind::Candidate { "" } else { "control" },
                vec![
                    escaped(&group.label()),
                    seconds(t.load_seconds),
                    seconds(t.load_cpu_seconds),
                    ratio(t.load_seconds, base.load_seconds),
                    t.run_seconds.map_or(String::new(), seconds),
                    t.run_cpu_seconds.map_or(String::new(), seconds),
                    t.run_seconds.zip(base.run_seconds).map_or(String::new(), |(a, b)| ratio(a, b)),
                ],
            );
        }
        let note = format!(
            "<p class=\"soft\">Measured by compress's own engine, one thread, one model after the other with nothing else running \
             from the study; medians of {} or more repeats, the file in the page cache. Load: opening the file and decoding every \
             weight. {} Other runtimes differ. Free sparsity is no faster: zeros are multiplied like any other \
             number.</p>",
            base.repeats,
            if base.examples > 0 {
                format!("Run: one batch of {} examples forwards.", base.examples)
            } else {
                String::new()
            }
        );
        section("Load and run time", note + &table.html())
    }

    fn origin(&self) -> String {
        let results = self.results;
        let dense = &results.cells[0].report;
        let text = |pointer: &str| dense.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        let mut out = format!(
            "<p>compress {} on {}. Model: {} bytes, SHA-256 <code>{}</code>.</p>",
            escaped(&text("/compress/version")),
            escaped(&text("/compress/cpu")),
            grouped(results.cells[0].done.bytes),
            escaped(&text("/model/sha256"))
        );
        let mut table = Table::new(["input", "SHA-256"].map(String::from).to_vec());
        for (path, hash) in &results.inputs {
            table.row("", vec![escaped(path), format!("<code>{}</code>", escaped(hash))]);
        }
        out += &format!("<details><summary>Inputs</summary>{}</details>", table.html());
        let mut table = Table::new(["cell", "seed", "folder", "took", "CPU", "memory"].map(String::from).to_vec());
        for cell in results.cells.iter().filter(|c| c.kind != Kind::Zstd) {
            table.row(
                "",
                vec![
                    escaped(&compress_core::compare::plan::label(&cell.candidate, &cell.sweep)),
                    cell.seed.to_string(),
                    format!("<code>cells/{}</code>", escaped(&cell.key)),
                    seconds(cell.done.seconds),
                    seconds(cell.done.cpu_seconds),
                    short(cell.done.peak_bytes as f64) + "B",
                ],
            );
        }
        out += &format!("<details><summary>Cells</summary>{}</details>", table.html());
        out += &format!("<details><summary>The study</summary><pre>{}</pre></details>", escaped(&results.study.text));
        section("Where this comes from", out)
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |c| c.to_uppercase().chain(letters).collect())
}

fn picture(map: &Map) -> String {
    // Dark where much is kept: the page turns the picture round in the dark.
    let pixels: Vec<u8> = map.kept.iter().map(|k| 255 - k).collect();
    let mut lines = String::new();
    for (at, name) in &map.groups {
        let top = 100.0 * at;
        lines +=
            &format!("<i style=\"top:{top:.2}%\"></i><b style=\"top:calc({top:.2}% + 2px)\">{}</b>", escaped(name));
    }
    let sorted = map.sorted.as_ref().map_or(String::new(), |s| format!("; {}", escaped(s)));
    format!(
        "<figure><div class=\"map\"><img alt=\"kept weights of {0}\" src=\"{1}\">{lines}</div><figcaption>{2} <small>{0}, {3} × \
         {4}{sorted}</small></figcaption></figure>",
        escaped(&map.tensor),
        image::grey(map.width, map.height, &pixels),
        escaped(&map.class),
        map.rows,
        map.cols
    )
}
