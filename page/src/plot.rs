//! Plots as SVG: points and lines over two axes, each linear or logarithmic, drawn once for wide windows and once for
//! narrow ones, so that labels can be read on both.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use crate::colour;

/// An axis.
pub struct Axis {
    /// What it shows, with its unit.
    pub name: String,
    /// Whether equal steps are equal factors.
    pub log: bool,
    /// How a value is written.
    pub format: fn(f64) -> String,
}

/// Points that belong together.
pub struct Series {
    /// Number of its colour and mark.
    pub number: usize,
    /// Where they lie.
    pub points: Vec<(f64, f64)>,
    /// Whether a line goes through them.
    pub line: bool,
}

/// A plot.
pub struct Plot {
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// What is shown.
    pub series: Vec<Series>,
    /// A line across, at the untouched model's value.
    pub across: Option<f64>,
    /// A front: points from left to right, joined by steps.
    pub front: Vec<(f64, f64)>,
}

const WIDE: (u32, u32) = (760, 420);
const NARROW: (u32, u32) = (360, 340);

impl Plot {
    /// Both sizes; empty where there is nothing to show.
    pub fn html(&self, title: &str) -> String {
        let both = [("wide", WIDE), ("narrow", NARROW)].map(|(class, size)| {
            let svg = self.draw(size).unwrap_or_default();
            let open = format!("<svg class=\"{class}\" role=\"img\" aria-label=\"{}\" ", crate::text::escaped(title));
            colour::with_variables(&svg).replacen("<svg ", &open, 1)
        });
        both.concat()
    }

    fn draw(&self, size: (u32, u32)) -> Option<String> {
        let all = || self.series.iter().flat_map(|s| s.points.iter()).chain(&self.front);
        let x = Scale::new(&self.x, all().map(|p| p.0))?;
        let y = Scale::new(&self.y, all().map(|p| p.1).chain(self.across))?;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            self.on(&root, size, &x, &y).ok()?;
            root.present().ok()?;
        }
        Some(svg)
    }

    fn on(
        &self,
        root: &DrawingArea<SVGBackend<'_>, Shift>,
        size: (u32, u32),
        x: &Scale,
        y: &Scale,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let narrow = size.0 < 500;
        let letters = |pixels: f64, colour: &RGBColor| ("sans-serif", pixels * 1.24).into_font().color(colour);
        let mut chart = ChartBuilder::on(root)
            .margin_right(14)
            .margin_top(10)
            .x_label_area_size(44)
            .y_label_area_size(if narrow { 52 } else { 66 })
            .build_cartesian_2d(
                Ruler { low: x.low, high: x.high, ticks: x.ticks(if narrow { 4 } else { 8 }) },
                Ruler { low: y.low, high: y.high, ticks: y.ticks(6) },
            )?;
        let (x_text, y_text) = (|v: &f64| (self.x.format)(x.value(*v)), |v: &f64| (self.y.format)(y.value(*v)));
        chart
            .configure_mesh()
            .bold_line_style(colour::GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(colour::SOFT)
            .label_style(letters(12.0, &colour::SOFT))
            .axis_desc_style(letters(13.0, &colour::FOREGROUND))
            .x_desc(&self.x.name)
            .y_desc(&self.y.name)
            .x_label_formatter(&x_text)
            .y_label_formatter(&y_text)
            .draw()?;
        let at = |p: &(f64, f64)| Some((x.at(p.0)?, y.at(p.1)?));
        if let Some(level) = self.across.and_then(|v| y.at(v)) {
            // Dashes: short lines side by side.
            let step = (x.high - x.low) / 60.0;
            chart.draw_series((0..30).map(|i| {
                let begin = x.low + f64::from(i) * 2.0 * step;
                PathElement::new(vec![(begin, level), (begin + step, level)], colour::FOREGROUND.stroke_width(1))
            }))?;
        }
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for point in self.front.iter().filter_map(at) {
            if let Some(last) = steps.last().copied() {
                steps.push((point.0, last.1));
            }
            steps.push(point);
        }
        if steps.len() > 1 {
            chart.draw_series([PathElement::new(steps, colour::SOFT.stroke_width(2))])?;
        }
        for series in &self.series {
            let colour = colour::series(series.number);
            let points: Vec<(f64, f64)> = series.points.iter().filter_map(at).collect();
            if series.line && points.len() > 1 {
                chart.draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?;
            }
            let radius = if narrow { 4 } else { 5 };
            match series.number / colour::SERIES % 3 {
                0 => chart.draw_series(points.iter().map(|p| Circle::new(*p, radius, colour.filled())))?,
                1 => chart.draw_series(points.iter().map(|p| TriangleMarker::new(*p, radius + 1, colour.filled())))?,
                _ => chart.draw_series(points.iter().map(|p| Cross::new(*p, radius, colour.stroke_width(2))))?,
            };
        }
        Ok(())
    }
}

/// The mark of a series, for legends.
pub fn mark(number: usize) -> String {
    let colour = colour::variable(number);
    let shape = match number / colour::SERIES % 3 {
        0 => format!("<circle cx=\"8\" cy=\"8\" r=\"5\" fill=\"{colour}\"/>"),
        1 => format!("<path d=\"M8 2l6 11H2z\" fill=\"{colour}\"/>"),
        _ => format!("<path d=\"M3 3l10 10M13 3L3 13\" stroke=\"{colour}\" stroke-width=\"2\"/>"),
    };
    format!("<svg viewBox=\"0 0 16 16\" aria-hidden=\"true\">{shape}</svg>")
}

/// Where values lie on an axis: as they are, or their logarithms.
struct Scale {
    log: bool,
    low: f64,
    high: f64,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Option<Scale> {
        let scale = Scale { log: axis.log, low: 0.0, high: 0.0 };
        let placed: Vec<f64> = values.filter_map(|v| scale.at(v)).collect();
        let low = placed.iter().copied().min_by(f64::total_cmp)?;
        let high = placed.iter().copied().max_by(f64::total_cmp)?;
        let room = ((high - low) * 0.06).max(if axis.log { 0.02 } else { high.abs().max(1e-9) * 0.02 });
        Some(Scale { low: low - room, high: high + room, ..scale })
    }

    fn at(&self, value: f64) -> Option<f64> {
        match self.log {
            _ if !value.is_finite() => None,
            true => (value > 0.0).then(|| value.log10()),
            false => Some(value),
        }
    }

    fn value(&self, at: f64) -> f64 {
        if self.log { 10f64.powf(at) } else { at }
    }

    /// About this many round values.
    fn ticks(&self, about: usize) -> Vec<f64> {
        if !self.log {
            return round_steps(self.low, self.high, about);
        }
        let (low, high) = (self.value(self.low), self.value(self.high));
        if high / low < 10.0 {
            return round_steps(low, high, about).into_iter().filter_map(|v| self.at(v)).collect();
        }
        let within = |digits: &[f64]| {
            let decades = self.low.floor() as i32..=self.high.ceil() as i32;
            let all = decades.flat_map(|d| digits.iter().map(move |m| (m * 10f64.powi(d)).log10()));
            all.filter(|t| (self.low..=self.high).contains(t)).collect::<Vec<f64>>()
        };
        let sets = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]];
        let fits = sets.iter().map(|digits| within(digits)).find(|t| t.len() <= about + 1);
        fits.unwrap_or_else(|| within(&[1.0]))
    }
}

/// A linear axis with these ticks.
struct Ruler {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Ranged for Ruler {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn round_steps(low: f64, high: f64, about: usize) -> Vec<f64> {
    let rough = (high - low) / about.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(power);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A histogram with lines at some thresholds (series number, |w|), in one size.
pub fn histogram(bins: &[u64], limit: f64, thresholds: &[(usize, f64)]) -> String {
    let draw = || -> Result<String, Box<dyn std::error::Error>> {
        let mut svg = String::new();
        let high = bins.iter().copied().max().unwrap_or(1).max(1) as f64;
        let height = |n: f64| (1.0 + n).log10();
        {
            let root = SVGBackend::with_string(&mut svg, (340, 170)).into_drawing_area();
            let letters = ("sans-serif", 12.0 * 1.24).into_font().color(&colour::SOFT);
            let ticks: Vec<f64> = (0..9).map(|d| height(10f64.powi(d))).filter(|t| *t <= height(high)).collect();
            let mut chart = ChartBuilder::on(&root)
                .margin_right(10)
                .margin_top(8)
                .x_label_area_size(24)
                .y_label_area_size(40)
                .build_cartesian_2d(
                    Ruler { low: -limit, high: limit, ticks: round_steps(-limit, limit, 4) },
                    Ruler { low: 0.0, high: height(high) * 1.05, ticks },
                )?;
            chart
                .configure_mesh()
                .bold_line_style(colour::GRID)
                .light_line_style(TRANSPARENT)
                .axis_style(colour::SOFT)
                .label_style(letters)
                .x_label_formatter(&|v| format!("{v:.2}").trim_end_matches('0').trim_end_matches('.').to_string())
                .y_label_formatter(&|v| crate::text::short(10f64.powf(*v) - 1.0))
                .draw()?;
            let width = 2.0 * limit / bins.len().max(1) as f64;
            chart.draw_series(bins.iter().enumerate().map(|(i, n)| {
                let left = -limit + i as f64 * width;
                Rectangle::new([(left, 0.0), (left + width * 0.9, height(*n as f64))], colour::SOFT.filled())
            }))?;
            for (number, t) in thresholds.iter().filter(|(_, t)| *t < limit) {
                let line = |x: f64| {
                    let style = colour::series(*number).stroke_width(2);
                    PathElement::new(vec![(x, 0.0), (x, height(high) * 1.05)], style)
                };
                chart.draw_series([line(-t), line(*t)])?;
            }
            root.present()?;
        }
        Ok(svg)
    };
    colour::with_variables(&draw().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        for (log, low, high, expected) in [
            (false, 0.0, 1.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (false, 28.4, 33.7, vec![29.0, 30.0, 31.0, 32.0, 33.0]),
            (true, 1.0, 1000.0, vec![1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]),
            (true, 4.0, 6.0, vec![4.0, 4.5, 5.0, 5.5, 6.0]),
        ] {
            let scale = Scale {
                log,
                low: if log { f64::log10(low) } else { low },
                high: if log { f64::log10(high) } else { high },
            };
            let ticks: Vec<String> = scale.ticks(6).iter().map(|t| format!("{:.4}", scale.value(*t))).collect();
            assert_eq!(ticks, expected.iter().map(|t| format!("{t:.4}")).collect::<Vec<_>>(), "{low} {high}");
        }
    }

    #[test]
    fn a_plot_has_both_sizes_and_only_colours_of_the_style() {
        let axis = |log| Axis { name: "a <b>".into(), log, format: |v| format!("{v:.1}") };
        let plot = Plot {
            x: axis(true),
            y: axis(false),
            series: (0..20)
                .map(|number| Series { number, points: vec![(1.0, 2.0), (10.0, f64::NAN), (100.0, 3.0)], line: true })
                .collect(),
            across: Some(2.5),
            front: vec![(1.0, 2.0), (100.0, 3.0)],
        };
        let html = plot.html("bytes");
        assert_eq!(html.matches("<svg ").count(), 2);
        assert!(html.contains("var(--s7)") && html.contains("var(--grid)") && html.contains("a &lt;b&gt;"));
        assert!(!html.contains("#FA01") && !html.contains("NaN"), "{html}");
        assert!(!html.contains("=\"#"), "a colour that the style does not know: {html}");
        let nothing = Plot { series: Vec::new(), across: None, front: Vec::new(), ..plot };
        assert_eq!(nothing.html("bytes"), "");
    }
}
