//! Weights as a method sees them: rows × cols of f32, whatever the file stores.

/// A block of a part, rows × cols, rows = outputs, cols = inputs (embeddings: rows = ids). Weight (r, c) lies at
/// `data[r · row_stride + c · col_stride]`. The block holds all of the part for `Reach::Part`, whole rows for
/// `Reach::Row`, and any slice (rows = 1) for `Reach::Weight`.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The tensor's name.
    pub tensor: &'a str,
    /// The part's name; the tensor's where it is not split.
    pub name: &'a str,
    /// The weight class.
    pub class: &'a str,
    /// Rows of this block.
    pub rows: usize,
    /// Columns of this block.
    pub cols: usize,
    /// Step from one row to the next, in elements.
    pub row_stride: usize,
    /// Step from one column to the next, in elements.
    pub col_stride: usize,
    /// The weights. One of the strides is 1 and the block has no gaps: `rows · cols` elements.
    pub data: &'a [f32],
    /// First row of this block within the part (`Reach::Row`), else 0.
    pub first_row: usize,
    /// Position of this block's first element within the part as stored (`Reach::Weight`), else 0. A score that
    /// draws random numbers derives them from the seed, the part's name and this position alone.
    pub first_element: u64,
    /// Rows of the whole part.
    pub part_rows: usize,
    /// Columns of the whole part.
    pub part_cols: usize,
}

impl<'a> Part<'a> {
    /// A whole part, row-major, of the class `"*"`: for tests and examples.
    pub fn whole(name: &'a str, rows: usize, cols: usize, data: &'a [f32]) -> Part<'a> {
        Part {
            tensor: name,
            name,
            class: "*",
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
            data,
            first_row: 0,
            first_element: 0,
            part_rows: rows,
            part_cols: cols,
        }
    }

    /// Weight (r, c).
    pub fn at(&self, r: usize, c: usize) -> f32 {
        self.data[r * self.row_stride + c * self.col_stride]
    }

    /// Row r as a slice, where columns lie side by side.
    pub fn row(&self, r: usize) -> Option<&'a [f32]> {
        (self.col_stride == 1).then(|| &self.data[r * self.row_stride..][..self.cols])
    }
}

/// Where a method writes its scores: one f32 a weight, with the strides of the block it was given.
#[derive(Debug)]
pub struct Scores<'a> {
    /// Score of weight (r, c) at `data[r · row_stride + c · col_stride]`, as in the [`Part`].
    pub data: &'a mut [f32],
    /// Step from one row to the next, in elements.
    pub row_stride: usize,
    /// Step from one column to the next, in elements.
    pub col_stride: usize,
}

impl Scores<'_> {
    /// Sets the score of weight (r, c).
    pub fn set(&mut self, r: usize, c: usize, score: f32) {
        self.data[r * self.row_stride + c * self.col_stride] = score;
    }
}
