//! Text for the page.

/// Text between tags and in attributes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A count in few letters: 950, 12k, 3.4M.
pub fn short(n: f64) -> String {
    let digits = |x: f64| format!("{:.1}", x).trim_end_matches(".0").to_string();
    match n {
        n if n >= 999_500_000.0 => digits(n / 1e9) + "G",
        n if n >= 999_500.0 => digits(n / 1e6) + "M",
        n if n >= 999.5 => digits(n / 1e3) + "k",
        n => format!("{n:.0}"),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Seconds with three digits.
pub fn seconds(s: f64) -> String {
    match s {
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s => format!("{:.3} ms", 1e3 * s).replace(".000", ""),
    }
}

/// A table. Cells are HTML already.
pub struct Table {
    head: Vec<String>,
    rows: Vec<(&'static str, Vec<String>)>,
}

impl Table {
    /// A table with these headings.
    pub fn new(head: Vec<String>) -> Table {
        Table { head, rows: Vec::new() }
    }

    /// Adds a row with a class of the style.
    pub fn row(&mut self, class: &'static str, cells: Vec<String>) {
        self.rows.push((class, cells));
    }

    /// As HTML, columns that are empty in every row left out.
    pub fn html(&self) -> String {
        let used: Vec<bool> = (0..self.head.len())
            .map(|c| c == 0 || self.rows.iter().any(|(_, row)| row.get(c).is_some_and(|cell| !cell.is_empty())))
            .collect();
        let line = |tag: &str, cells: &[String]| {
            let shown = cells.iter().zip(&used).filter(|(_, used)| **used);
            shown.map(|(cell, _)| format!("<{tag}>{cell}</{tag}>")).collect::<String>()
        };
        let mut out = format!("<div class=\"scroll\"><table><thead><tr>{}</tr></thead><tbody>", line("th", &self.head));
        for (class, row) in &self.rows {
            let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
            out += &format!("<tr{class}>{}</tr>", line("td", row));
        }
        out + "</tbody></table></div>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_are_short() {
        for (n, text) in [(0.0, "0"), (950.0, "950"), (1000.0, "1k"), (12_340.0, "12.3k"), (3.4e6, "3.4M"), (2e9, "2G")]
        {
            assert_eq!(short(n), text);
        }
        for (s, text) in [(12.34, "12.3 s"), (1.234, "1.23 s"), (0.0123, "12.300 ms"), (0.002, "2 ms")] {
            assert_eq!(seconds(s), text);
        }
    }

    #[test]
    fn empty_columns_are_left_out() {
        let mut table = Table::new(["a", "b", "c"].map(String::from).to_vec());
        table.row("best", ["1", "", "3"].map(String::from).to_vec());
        let html = table.html();
        assert!(html.contains("<tr><th>a</th><th>c</th></tr>"), "{html}");
        assert!(html.contains("<tr class=\"best\"><td>1</td><td>3</td></tr>"), "{html}");
    }
}
