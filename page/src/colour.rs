//! Colours that follow the reader's light or dark: the plots are drawn with colours that stand for something, and the
//! page's style says which colours those are.

use plotters::style::RGBColor;

/// How many series have a colour of their own; the next ones begin again, with another mark.
pub const SERIES: usize = 8;

/// What a colour is for, and the variable of the style that has it.
const NAMED: [(u8, &str); 3] = [(100, "--fg"), (101, "--soft"), (102, "--grid")];

/// Text and axes.
pub const FOREGROUND: RGBColor = stand_in(100);
/// Labels of axes.
pub const SOFT: RGBColor = stand_in(101);
/// The grid.
pub const GRID: RGBColor = stand_in(102);

/// No colour that a plot would have by itself.
const fn stand_in(number: u8) -> RGBColor {
    RGBColor(250, 1, number)
}

/// The colour of a series.
pub fn series(index: usize) -> RGBColor {
    stand_in((index % SERIES) as u8)
}

/// The style's variable for the colour of a series.
pub fn variable(index: usize) -> String {
    format!("var(--s{})", index % SERIES)
}

/// Puts the style's variables in place of the colours that stand for them.
pub fn with_variables(svg: &str) -> String {
    let series = (0..SERIES as u8).map(|i| (i, format!("--s{i}")));
    let named = NAMED.iter().map(|(i, name)| (*i, name.to_string()));
    series.chain(named).fold(svg.to_string(), |svg, (number, name)| {
        svg.replace(&format!("\"#FA01{number:02X}\""), &format!("\"var({name})\""))
    })
}
