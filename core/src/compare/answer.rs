//! The answer to the study's question in one sentence: the smallest file within the budget, beside what training alone
//! and chance alone reach.
//!
//! The file is chosen by its figures on validation, and reported with those on test where there is a test set: what is
//! chosen by a set looks better on it than it is.

use serde::Serialize;

use super::bootstrap::Interval;
use super::groups::{Group, Spread};
use super::plan::Kind;
use super::{loss_of, lower_is_better};
use crate::recipe::study::Budget;

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// In one sentence.
    pub sentence: String,
    /// The metric of the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The loss that it allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Whether a file smaller than the untouched model is within it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    /// The split that the file was chosen by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_on: Option<String>,
    /// The split that the figures are of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_on: Option<String>,
    /// The file that is meant: the smallest within the budget, or the nearest to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<Figure>,
    /// The untouched model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<Figure>,
    /// The dense model trained as the candidates are; the best of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_retrained: Option<Figure>,
    /// Random pruning at the same point of the sweep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random: Option<Figure>,
    /// The index of the group that is meant.
    #[serde(skip)]
    pub group: Option<usize>,
}

/// A group's figures on the split that is reported.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The candidate or control.
    pub candidate: String,
    /// The swept values.
    pub sweep: serde_json::Map<String, serde_json::Value>,
    /// Bytes.
    pub bytes: u64,
    /// Bytes as a share of the untouched model's.
    pub share: f64,
    /// The metric over the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Spread>,
    /// How much worse than the untouched model; negative = better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worse: Option<f64>,
    /// The difference in BLEU with its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// How a metric is written in sentences.
pub fn metric_name(metric: &str) -> &str {
    match metric {
        "bleu" => "BLEU",
        other => other,
    }
}

/// A metric's value in as many digits as are of use.
pub fn number(metric: &str, value: f64) -> String {
    match metric {
        _ if !value.is_finite() => "not finite".into(),
        "bleu" => format!("{value:.2}"),
        _ if value.abs() >= 1000.0 => format!("{value:.0}"),
        _ if value.abs() >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

struct View<'a> {
    groups: &'a [Group],
    metric: &'a str,
    split: &'a str,
}

impl View<'_> {
    fn figure(&self, group: &Group) -> Figure {
        let value = group.metric(self.split, self.metric);
        let base = self.groups[0].metric(self.split, self.metric);
        Figure {
            candidate: group.candidate.clone(),
            sweep: group.sweep.iter().map(|(n, v)| (n.clone(), crate::report::from_toml(v))).collect(),
            bytes: group.bytes,
            share: group.bytes as f64 / self.groups[0].bytes.max(1) as f64,
            value,
            worse: value.zip(base).map(|(v, b)| loss_of(self.metric, b.mean, v.mean)),
            interval: group.bleu.get(self.split).copied().filter(|_| self.metric == "bleu"),
        }
    }

    /// `BLEU 33.21 (0.16 worse, 95 % interval of the difference −0.60 to +0.25)`.
    fn quality(&self, group: &Group) -> String {
        let figure = self.figure(group);
        let name = metric_name(self.metric);
        let Some(value) = figure.value else { return format!("{name} unknown") };
        let mut text = format!("{name} {}", number(self.metric, value.mean));
        if let Some(deviation) = value.deviation {
            text += &format!(" ± {} over {} seeds", number(self.metric, deviation), value.seeds);
        }
        let mut more = Vec::new();
        if group.kind != Kind::Dense {
            more.extend(figure.worse.map(|worse| match worse {
                w if w > 0.0 => format!("{} worse", number(self.metric, w)),
                w if w < 0.0 => format!("{} better", number(self.metric, -w)),
                _ => "no difference".into(),
            }));
        }
        if let Some(i) = figure.interval {
            more.push(format!("95 % interval of the difference {} to {}", signed(i.low), signed(i.high)));
        }
        if more.is_empty() { text } else { format!("{text} ({})", more.join(", ")) }
    }

    /// What training alone and chance alone reach, for the end of the sentence.
    fn controls(&self, chosen: Option<&Group>) -> (String, Option<usize>, Option<usize>) {
        let best = |kind: Kind, fits: &dyn Fn(&Group) -> bool| {
            let of = |g: &Group| g.metric(self.split, self.metric).map(|s| s.mean);
            let mut found: Vec<(usize, f64)> = self
                .groups
                .iter()
                .enumerate()
                .filter(|(_, g)| g.kind == kind && fits(g))
                .filter_map(|(i, g)| Some((i, of(g)?)))
                .collect();
            let sign = if lower_is_better(self.metric) { 1.0 } else { -1.0 };
            found.sort_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)).then(a.0.cmp(&b.0)));
            found.first().map(|(i, _)| *i)
        };
        let trained = best(Kind::DenseRetrained, &|_| true);
        let near = chosen.and_then(|c| {
            best(Kind::Random, &|g| {
                let same = g.sweep.iter().all(|pair| c.sweep.contains(pair));
                let shared = g.sweep.iter().any(|pair| c.sweep.contains(pair)) || g.sweep.is_empty();
                same && shared && close(g.pruned, c.pruned)
            })
        });
        let random = near.or_else(|| best(Kind::Random, &|_| true));
        let first = match trained {
            Some(i) => format!(
                "the dense model trained for the same epochs (\"{}\") reaches {}",
                self.groups[i].candidate,
                self.quality(&self.groups[i])
            ),
            None => "nothing here retrains, so there is no dense model trained alike".into(),
        };
        let second = match random {
            Some(i) if near.is_some() => format!("random pruning of as much reaches {}", self.quality(&self.groups[i])),
            Some(i) => {
                let group = &self.groups[i];
                format!("random pruning reaches {} at best (\"{}\")", self.quality(group), group.label())
            }
            None => "there is no random pruning to hold it against".into(),
        };
        (format!("{first}; {second}"), trained, random)
    }
}

fn close(a: Option<f64>, b: Option<f64>) -> bool {
    a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 0.02)
}

fn signed(x: f64) -> String {
    if x < 0.0 { format!("−{:.2}", -x) } else { format!("+{x:.2}") }
}

/// 1234567 as `1 234 567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{a0}');
        }
        out.push(c);
    }
    out
}

fn size(group: &Group, dense: &Group) -> String {
    let share = group.bytes as f64 / dense.bytes.max(1) as f64;
    let mut text = format!("{} bytes, {:.1} % of dense", grouped(group.bytes), 100.0 * share);
    if share < 0.95 {
        text += &format!(" ({:.1} × smaller)", 1.0 / share);
    }
    text
}

/// Answers the question of a study. `groups[0]` is dense; `metric` is the budget's, or what is plotted; `split` is what
/// is reported on.
pub fn answer(groups: &[Group], budget: Option<&Budget>, metric: Option<&str>, split: &str) -> Answer {
    let dense = &groups[0];
    let mut answer = Answer { metric: metric.map(str::to_string), loss: budget.map(|b| b.loss), ..Answer::default() };
    let smallest = groups.iter().enumerate().filter(|(_, g)| g.kind == Kind::Candidate).min_by_key(|(_, g)| g.bytes);
    let known = metric.filter(|m| dense.metric("validation", m).is_some() || dense.metric(split, m).is_some());
    let Some(metric) = known else {
        let because = match metric {
            Some(m) => format!("\"{m}\" was not measured of the untouched model"),
            None => "nothing measures the models' quality: only sizes are compared".into(),
        };
        let found = smallest.map(|(_, g)| format!("; the smallest candidate is \"{}\": {}", g.label(), size(g, dense)));
        answer.sentence = format!(
            "No answer, because {because} (give [data], or evaluate = {{ command = […] }}){}; neither a dense model \
             trained alike nor random pruning can be held against it.",
            found.unwrap_or_default()
        );
        answer.group = smallest.map(|(i, _)| i);
        return answer;
    };
    // Chosen on validation where that is measured.
    let choosing = if dense.metric("validation", metric).is_some() { "validation" } else { split };
    let view = View { groups, metric, split };
    answer.chosen_on = Some(choosing.into());
    answer.reported_on = Some(split.into());
    answer.dense = Some(view.figure(dense));
    let base = dense.metric(choosing, metric).map_or(f64::NAN, |s| s.mean);
    let worse = |g: &Group| g.metric(choosing, metric).map(|s| loss_of(metric, base, s.mean));
    // A file through zstd opens nowhere, so it is told of but is no answer. Of equal files the better one, and a
    // candidate before a control.
    let rank = |g: &Group| (g.bytes, g.kind != Kind::Candidate);
    let mut able: Vec<(usize, f64)> = groups
        .iter()
        .enumerate()
        .filter(|(_, g)| !matches!(g.kind, Kind::Dense | Kind::Zstd) && g.bytes < dense.bytes)
        .filter_map(|(i, g)| Some((i, worse(g)?)))
        .collect();
    able.sort_by(|a, b| rank(&groups[a.0]).cmp(&rank(&groups[b.0])).then(a.1.total_cmp(&b.1)).then(a.0.cmp(&b.0)));
    // 1e-9: what is exactly the loss in decimals is within it in binary too.
    let within = budget.and_then(|b| able.iter().find(|(_, w)| *w <= b.loss + 1e-9));
    let nearest = able.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let chosen = match budget {
        Some(_) => within.or(nearest),
        None => nearest,
    };
    let group = chosen.map(|(i, _)| &groups[*i]);
    let (controls, trained, random) = view.controls(group);
    let name = metric_name(metric);
    let figures =
        || format!("{name} {} on {split}", number(metric, dense.metric(split, metric).map_or(f64::NAN, |s| s.mean)));
    let about = |g: &Group| format!("\"{}\": {}, {}", g.label(), size(g, dense), view.quality(g));
    answer.sentence = match (budget, group) {
        (_, None) => format!(
            "No file is smaller than the untouched model ({}, {}): weights that are pruned are zeros in a file of the same \
             size until an encode stage packs them; {controls}.",
            figures(),
            size(dense, dense),
        ),
        (Some(b), Some(g)) if within.is_some() => {
            let mut text = format!(
                "The smallest file within {} {name} of the untouched model ({}) is {}",
                b.loss,
                figures(),
                about(g)
            );
            let here = g.metric(split, metric).zip(dense.metric(split, metric));
            if choosing != split
                && let Some((v, d)) = here
                && loss_of(metric, d.mean, v.mean) > b.loss + 1e-9
            {
                text += &format!(", chosen on {choosing}, where it is within the budget; on {split} it is not");
            }
            format!("{text}; {controls}.")
        }
        (Some(b), Some(g)) => format!(
            "Nothing meets the budget: no smaller file is within {} {name} of the untouched model ({}); the nearest is {}; \
             {controls}.",
            b.loss,
            figures(),
            about(g)
        ),
        (None, Some(g)) => format!(
            "No [budget] asks for a loss; the smaller file nearest to the untouched model ({}) is {}; {controls}.",
            figures(),
            about(g)
        ),
    };
    answer.met = budget.map(|_| within.is_some());
    answer.group = chosen.map(|(i, _)| *i);
    answer.best = group.map(|g| view.figure(g));
    answer.dense_retrained = trained.map(|i| view.figure(&groups[i]));
    answer.random = random.map(|i| view.figure(&groups[i]));
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn group(kind: Kind, name: &str, bytes: u64, validation: f64, test: Option<f64>) -> Group {
        let one = |v: f64| vec![("bleu".to_string(), Spread { mean: v, deviation: None, seeds: 1 })];
        let mut metrics = BTreeMap::from([("validation".to_string(), one(validation))]);
        metrics.extend(test.map(|t| ("test".to_string(), one(t))));
        Group {
            kind,
            candidate: name.into(),
            sweep: Vec::new(),
            cells: vec![0],
            bytes,
            zstd_bytes: bytes,
            pruned: None,
            metrics,
            bleu: BTreeMap::new(),
            pareto: false,
        }
    }

    fn groups() -> Vec<Group> {
        vec![
            group(Kind::Dense, "dense", 1000, 30.0, Some(31.0)),
            group(Kind::DenseRetrained, "dense retrained", 1000, 30.5, Some(31.5)),
            group(Kind::Random, "random", 200, 3.0, Some(3.5)),
            group(Kind::Zstd, "zstd only", 90, 30.0, Some(31.0)),
            group(Kind::Candidate, "a", 200, 29.7, Some(31.2)),
            group(Kind::Candidate, "b", 100, 29.0, Some(30.9)),
        ]
    }

    fn ask(groups: &[Group], loss: f64, split: &str) -> Answer {
        answer(groups, Some(&Budget { metric: "bleu".into(), loss }), Some("bleu"), split)
    }

    #[test]
    fn the_smallest_file_within_the_budget_with_both_controls() {
        let got = ask(&groups(), 0.3, "test");
        assert_eq!((got.met, got.best.as_ref().map(|b| b.candidate.as_str())), (Some(true), Some("a")));
        assert_eq!((got.chosen_on.as_deref(), got.reported_on.as_deref()), (Some("validation"), Some("test")));
        for words in [
            "within 0.3 BLEU of the untouched model (BLEU 31.00 on test) is \"a\": 200 bytes, 20.0 % of dense (5.0 × smaller)",
            "BLEU 31.20 (0.20 better)",
            "trained for the same epochs (\"dense retrained\") reaches BLEU 31.50",
            "random pruning of as much reaches BLEU 3.50 (27.50 worse)",
        ] {
            assert!(got.sentence.contains(words), "{words}\n{}", got.sentence);
        }
        assert_eq!(ask(&groups(), 1.0, "validation").best.unwrap().candidate, "b");
    }

    #[test]
    fn a_file_chosen_on_validation_that_fails_on_test_is_told() {
        let mut groups = groups();
        groups[4] = group(Kind::Candidate, "a", 200, 29.9, Some(28.0));
        let got = ask(&groups, 0.3, "test");
        assert!(got.sentence.contains("chosen on validation, where it is within the budget; on test it is not"));
    }

    #[test]
    fn nothing_meets_the_budget_and_nothing_is_smaller() {
        let got = ask(&groups(), 0.1, "validation");
        assert_eq!((got.met, got.best.unwrap().candidate.as_str()), (Some(false), "a"));
        assert!(got.sentence.starts_with("Nothing meets the budget"), "{}", got.sentence);
        let mut same = groups();
        same.iter_mut().for_each(|g| g.bytes = 1000);
        let got = ask(&same, 0.3, "validation");
        assert_eq!(got.met, Some(false));
        assert!(got.sentence.starts_with("No file is smaller than the untouched model"), "{}", got.sentence);
        assert!(got.sentence.contains("encode") && got.sentence.contains("random pruning"), "{}", got.sentence);
    }

    #[test]
    fn without_quality_only_sizes_are_told() {
        let mut groups = groups();
        groups.iter_mut().for_each(|g| g.metrics.clear());
        let got = answer(&groups, None, None, "validation");
        assert!(got.sentence.contains("only sizes are compared"), "{}", got.sentence);
        assert!(got.sentence.contains("\"b\": 100 bytes"), "{}", got.sentence);
    }

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(1, "1"), (999, "999"), (1000, "1\u{a0}000"), (31408070, "31\u{a0}408\u{a0}070")] {
            assert_eq!(grouped(n), text);
        }
    }
}
