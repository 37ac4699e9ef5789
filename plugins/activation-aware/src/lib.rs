//! Activation-aware magnitude.
//!
//! Sun, Liu, Bair & Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR 2024, arXiv
//! 2306.11695, section 3: a weight is as dispensable as its product with what it is multiplied with is small.
//!
//! s_ij = |w_ij| · ‖x_j‖   (eq. 1)
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | w | `part` | rows × cols | the weights |
//! | G | `gram` | cols × cols | mean over positions of x·xᵀ, x the layer's input (of each group: groups × cols × cols) |
//! | ‖x_j‖ | `norms[j]` | cols | root mean square of input j: √G_jj |
//! | n | `row_count` | rows | how often each row of an embedding was read |
//! | s | `out` | rows × cols | the scores, low = dispensable |
//!
//! The paper's ‖x_j‖ is a sum over the positions, ours a mean: within a layer the constant factor changes nothing, and
//! across layers the mean does not depend on how many positions each was measured on. An embedding is a layer whose
//! input is one-hot, so its ‖x‖ of row i is √(n_i / Σn).
//!
//! The paper compares weights within each row (output) only. `compare = "row"` does that under any scheme, by scoring
//! the rank within the row; the default leaves the comparison to the stage's scheme.

use compress_sdk::{
    Array, Card, Error, Evidence, EvidenceKind, Method, Need, OptionKind, OptionSpec, Options, Part, Reach, Result,
    Scores,
};

/// Scores weights by their size times the size of their input.
pub struct ActivationAware {
    within_rows: bool,
}

impl Method for ActivationAware {
    const CARD: Card = Card {
        name: "activation-aware",
        meaning: "the smallest weights times their inputs' norms go first (Wanda)",
        citation: "Sun, Liu, Bair & Kolter, A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024, \
                   arXiv:2306.11695",
        equation: "s_ij = |w_ij| · ‖x_j‖,  ‖x_j‖ = √G_jj",
        reach: Reach::Part,
        evidence: &[(EvidenceKind::Gram, Need::OneOf), (EvidenceKind::RowCount, Need::OneOf)],
        options: &[OptionSpec {
            name: "compare",
            meaning: "with which weights a weight is compared: those that the scheme says, or those of its row (output), as \
                      the paper does",
            kind: OptionKind::Choice { default: "scheme", choices: &["scheme", "row"] },
        }],
        ..Card::SCORES_WEIGHTS
    };

    fn create(options: &Options, _: u64) -> Result<Self> {
        Ok(ActivationAware { within_rows: options.text("compare") == "row" })
    }

    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        let inputs = Inputs::of(part, evidence)?;
        let mut ranks: Vec<(f32, usize)> = Vec::with_capacity(part.cols);
        for r in 0..part.rows {
            let score = |c: usize| part.at(r, c).abs() * inputs.norm(r, c); // eq. 1
            if !self.within_rows {
                (0..part.cols).for_each(|c| out.set(r, c, score(c)));
                continue;
            }
            ranks.clear();
            ranks.extend((0..part.cols).map(|c| (score(c), c)));
            ranks.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for (rank, (score, c)) in ranks.iter().enumerate() {
                let shown = if score.is_finite() { (rank as f32 + 0.5) / part.cols as f32 } else { *score };
                out.set(r, *c, shown);
            }
        }
        Ok(())
    }
}

/// Root mean squares of the inputs.
enum Inputs {
    /// Of each column, for each group of rows.
    Columns { norms: Vec<f32>, cols: usize, rows_a_group: usize },
    /// Of each row of an embedding.
    Rows(Vec<f32>),
}

impl Inputs {
    /// From `gram` where there is one: a matrix that is an embedding too is judged as a layer.
    fn of(part: &Part<'_>, evidence: &Evidence<'_>) -> Result<Inputs> {
        match (evidence.get(EvidenceKind::Gram), evidence.get(EvidenceKind::RowCount)) {
            (Some(gram), _) => Inputs::of_gram(part, gram),
            (None, Some(row_count)) => Inputs::of_counts(row_count),
            (None, None) => Err(Error::new(
                "there is no evidence \"gram\" or \"row_count\" (of an embedding) for it; measure it by a stage with \
                 measure = [\"gram\", \"row_count\"], or leave the tensor out by \"classes\"",
            )),
        }
    }

    fn of_gram(part: &Part<'_>, gram: &Array<'_>) -> Result<Inputs> {
        let cols = part.part_cols;
        let groups = if let [groups, _, _] = gram.shape { *groups as usize } else { 1 };
        if !part.part_rows.is_multiple_of(groups.max(1)) {
            return Err(Error::new(format!(
                "its evidence \"gram\" has {groups} groups, which do not divide its {} rows",
                part.part_rows
            )));
        }
        let mut norms = Vec::with_capacity(groups * cols);
        for i in 0..groups * cols {
            let mean_square = gram.data[i * cols + i % cols];
            if !(mean_square >= 0.0 && mean_square.is_finite()) {
                return Err(Error::new(format!(
                    "its evidence \"gram\" is {mean_square} on the diagonal at {}; a mean square is at least 0: measure it \
                     again",
                    i % cols
                )));
            }
            norms.push(mean_square.sqrt());
        }
        Ok(Inputs::Columns { norms, cols, rows_a_group: (part.part_rows / groups.max(1)).max(1) })
    }

    fn of_counts(row_count: &Array<'_>) -> Result<Inputs> {
        if let Some(r) = row_count.data.iter().position(|n| !(*n >= 0.0 && n.is_finite())) {
            return Err(Error::new(format!(
                "its evidence \"row_count\" is {} at {r}: measure it again",
                row_count.data[r]
            )));
        }
        let all = row_count.data.iter().map(|n| f64::from(*n)).sum::<f64>().max(1.0);
        Ok(Inputs::Rows(row_count.data.iter().map(|n| (f64::from(*n) / all).sqrt() as f32).collect()))
    }

    fn norm(&self, r: usize, c: usize) -> f32 {
        match self {
            Inputs::Columns { norms, cols, rows_a_group } => norms[r / rows_a_group * cols + c],
            Inputs::Rows(norms) => norms[r],
        }
    }
}

compress_sdk::export_method!(ActivationAware);
