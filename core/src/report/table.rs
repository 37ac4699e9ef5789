//! Plain text tables: columns aligned, two spaces between them, numbers without separators so that scripts can read
//! them.

use std::fmt;

/// A table under construction. Its first column is left-aligned, the others right-aligned.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    left: Vec<usize>,
    indent: usize,
}

impl Table {
    /// A table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Table {
        Table { rows: vec![headings.map(str::to_string).to_vec()], left: vec![0], indent: 0 }
    }

    /// A table with as many headings as there are.
    pub fn of(headings: Vec<String>) -> Table {
        Table { rows: vec![headings], left: vec![0], indent: 0 }
    }

    /// Left-aligns one more column.
    #[must_use]
    pub fn left(mut self, column: usize) -> Table {
        self.left.push(column);
        self
    }

    /// Puts spaces before every line.
    #[must_use]
    pub fn indent(mut self, spaces: usize) -> Table {
        self.indent = spaces;
        self
    }

    /// Adds a row. Cells that are missing at its end are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether it has no rows but the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Removes the columns that are empty in every row but the headings.
    #[must_use]
    pub fn without_empty_columns(mut self) -> Table {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        for column in (0..columns).rev() {
            if self.rows[1..].iter().all(|row| row.get(column).is_none_or(String::is_empty)) {
                self.rows.iter_mut().filter(|row| column < row.len()).for_each(|row| drop(row.remove(column)));
                self.left.retain(|c| *c != column);
                self.left.iter_mut().filter(|c| **c > column).for_each(|c| *c -= 1);
            }
        }
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                match self.left.contains(&column) {
                    true => line.push_str(&format!("{gap}{cell:<width$}")),
                    false => line.push_str(&format!("{gap}{cell:>width$}")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
