//! Low-rank factors by truncated singular value decomposition, plain and data-aware.
//!
//! Eckart & Young, "The approximation of one matrix by another of lower rank", Psychometrika 1 (1936): of all matrices
//! of rank r the first r singular triplets are nearest. Weighted by the layer's inputs as in Hsu et al., "Language model
//! compression with weighted low-rank factorization", ICLR 2022, arXiv 2207.00112 (a weight for each row), and Wang et
//! al., "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression", ICLR 2025, arXiv
//! 2403.07378 (whitening by a Cholesky factor).
//!
//! ```text
//! W ≈ U·V,   r·(m + n) < m·n                                                                (1)
//! E ‖(W − Ŵ)·x‖² = tr((W − Ŵ)·G·(W − Ŵ)ᵀ) = ‖(W − Ŵ)·L‖²,   G = E x·xᵀ = L·Lᵀ                (2)
//! W·L = P·Σ·Qᵀ;   Ŵ = P_r·Σ_r·Q_rᵀ·L⁻¹ = P_r·P_rᵀ·W                                        (3)
//! Σ_i d_i²·‖w_i − ŵ_i‖² = ‖D·(W − Ŵ)‖²;   D·W = P·Σ·Qᵀ;   Ŵ = D⁻¹·P_r·P_rᵀ·D·W             (4)
//! Σ_{i≤r} σ_i² ≥ energy · Σ_i σ_i²                                                          (5)
//! ```
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | W | `part`, `w` | m × n | the weights |
//! | r | `rank` | 1 | the rank |
//! | U, V | `u`, `v` | m × r, r × n | the factors, a term of [`Layout::Factored`] |
//! | G | `gram` | n × n | mean outer product of the layer's inputs, evidence `gram`; of groups their mean |
//! | L | `l` | n × n | its Cholesky factor, `damping` · mean diagonal added before |
//! | D | `d` | m | roots of how often each row was read, evidence `row_count`, damped alike |
//! | P, Σ, Q | `svd.u`, `svd.s`, `svd.v` | m × k, k, n × k | singular vectors and values of D·W·L |
//!
//! The right form of (3) needs no inverse: since P_rᵀ·(W·L) = Σ_r·Q_rᵀ, the factor V = Σ_r·Q_rᵀ·L⁻¹ is P_rᵀ·W. The roots of
//! Σ_r are given to both factors, so that both have values of one size, for codings with a scale.
//!
//! Small parts are decomposed in full, large ones by [`sketch`]: within a hundredth of the best error at that rank.

mod goal;
mod linear;
mod random;
mod sketch;
#[cfg(test)]
mod testing;

use compress_sdk::{
    Card, Encoded, Error, Evidence, EvidenceKind, Keep, Layout, Method, Need, OptionKind, OptionSpec, Options, Part,
    Result, Term, easy, host,
};
use faer::Mat;

use goal::Goal;
use linear::{Svd, product};

/// Factors parts.
pub struct LowRank {
    goal: Goal,
    whiten: bool,
    damping: f64,
    exact: bool,
    seed: u64,
}

impl Method for LowRank {
    const CARD: Card = Card {
        name: "low-rank",
        meaning: "a matrix becomes the product of two thin ones",
        citation: "Eckart & Young, The approximation of one matrix by another of lower rank, Psychometrika 1, 1936; \
                   randomised: Halko, Martinsson & Tropp, Finding Structure with Randomness, SIAM Review 53, 2011, \
                   arXiv:0909.4061; data-aware: Wang et al., SVD-LLM, ICLR 2025, arXiv:2403.07378",
        equation: "W ≈ U·V = P_r·P_rᵀ·W,  P·Σ·Qᵀ = W·L,  L·Lᵀ = G (plain: L = 1)",
        random: true,
        evidence: &[(EvidenceKind::Gram, Need::Optional), (EvidenceKind::RowCount, Need::Optional)],
        options: &[
            goal::OPTIONS[0],
            goal::OPTIONS[1],
            goal::OPTIONS[2],
            goal::OPTIONS[3],
            OptionSpec {
                name: "whiten",
                meaning: "nearest on the layer's inputs, by evidence gram (embeddings: row_count), not weight by weight",
                kind: OptionKind::Flag { default: false },
            },
            OptionSpec {
                name: "damping",
                meaning: "added to the diagonal of the evidence, as a share of its mean",
                kind: OptionKind::Float { default: 0.01, min: 1e-6, max: 1e6 },
            },
            OptionSpec {
                name: "exact",
                meaning: "decompose large parts in full too, which takes far longer",
                kind: OptionKind::Flag { default: false },
            },
        ],
        ..Card::ENCODES_PARTS
    };

    fn create(options: &Options, seed: u64) -> Result<Self> {
        Ok(LowRank {
            goal: Goal::of(options)?,
            whiten: options.flag("whiten"),
            damping: options.float("damping"),
            exact: options.flag("exact"),
            seed,
        })
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        let (rows, cols) = (part.rows, part.cols);
        let most = goal::most(rows, cols);
        let dense = |why: String| {
            if rows * cols > 0 {
                host::log(&format!("\"{}\" stays dense: {why}", part.name));
            }
            let all = (0..rows * cols).map(|i| part.at(i / cols, i % cols)).collect();
            easy::encoded(part, keep, vec![Term { layout: Layout::Dense, values: all }])
        };
        if most == 0 {
            return dense(format!("no product of factors is smaller than its {rows} × {cols} weights"));
        }
        if let Some(rank) = self.goal.rank(rows, cols).filter(|rank| *rank > most) {
            return dense(format!("factors of rank {rank} gain nothing over its {rows} × {cols} weights"));
        }
        let (w, scale) = scaled(part)?;
        let weighting = if self.whiten { Weighting::of(part, evidence, self.damping)? } else { Weighting::default() };
        let a = weighting.apply(&w);
        let energy = linear::energy(a.as_ref());
        let Some((rank, svd)) = self.decompose(part, a, energy, most)? else {
            return dense(format!("a rank above {most} would be needed, which gains nothing"));
        };
        let kept: f64 = svd.s[..rank].iter().map(|s| f64::from(*s).powi(2)).sum();
        let percent = |x: f64| 100.0 * x.min(1.0);
        host::log(&format!(
            "\"{}\" of {rows} × {cols} has rank {rank} now: {:.1} % of its values keep {:.2} % of its energy{}",
            part.name,
            percent((rank * (rows + cols)) as f64 / (rows * cols) as f64),
            percent(if energy > 0.0 { kept / energy } else { 1.0 }),
            weighting.words(),
        ));
        let values = factors(&w, &svd, rank, &weighting, scale);
        easy::encoded(part, keep, vec![Term { layout: Layout::Factored { rank }, values }])
    }
}

impl LowRank {
    /// The rank and a decomposition up to there, at least; `None` where the rank would be above `most`.
    fn decompose(&self, part: &Part<'_>, a: Mat<f32>, energy: f64, most: usize) -> Result<Option<(usize, Svd)>> {
        let known = self.goal.rank(part.rows, part.cols);
        let share = if let Goal::Energy(share) = self.goal { share } else { 1.0 };
        let found = |svd: Svd, known: Option<usize>| {
            let rank = known.or_else(|| goal::reaching(&svd.s, energy, share)); // eq. 5
            rank.filter(|rank| *rank <= most.min(svd.s.len())).map(|rank| (rank, svd))
        };
        let large = sketch::Large { a, energy };
        let seed = random::seed_of(self.seed, part.name);
        let mut guess = known.unwrap_or(32);
        while !self.exact && is_large(part.rows, part.cols, guess) {
            let svd = sketch::leading(&large, guess, seed)?;
            // Beyond the guess the values are not near enough to the best.
            let reached = known.or_else(|| goal::reaching(&svd.s[..guess], energy, share));
            if reached.is_some() {
                return Ok(found(svd, reached));
            }
            if guess >= most {
                return Ok(None);
            }
            guess = (2 * guess).min(most);
        }
        Ok(found(linear::decompose(large.a.as_ref())?, known))
    }
}

/// Whether random products are quicker than the full decomposition.
fn is_large(rows: usize, cols: usize, rank: usize) -> bool {
    let least = rows.min(cols);
    least >= 256 && sketch::width(rank) <= least / 3
}

/// The weights over a power of 4 that brings the largest to about 1, and the root of that power.
fn scaled(part: &Part<'_>) -> Result<(Mat<f32>, f32)> {
    let most = part.data.iter().fold(0f32, |most, w| if w.is_finite() { most.max(w.abs()) } else { f32::NAN });
    if !most.is_finite() {
        return Err(Error::new("a weight is NaN or infinite"));
    }
    let root = if most > 0.0 { 2f32.powi((most.log2() / 2.0).round() as i32) } else { 1.0 };
    // Twice, since the square of a root may be no f32.
    let w = Mat::from_fn(part.rows, part.cols, |r, c| part.at(r, c) / root / root);
    Ok((w, root))
}

/// D and L; none is the identity.
#[derive(Default)]
struct Weighting {
    d: Option<Vec<f32>>,
    l: Option<Mat<f32>>,
    /// Whether the data never reached the layer.
    unreached: bool,
}

impl Weighting {
    fn of(part: &Part<'_>, evidence: &Evidence<'_>, damping: f64) -> Result<Weighting> {
        let (gram, counts) = (evidence.get(EvidenceKind::Gram), evidence.get(EvidenceKind::RowCount));
        if gram.is_none() && counts.is_none() {
            return Err(Error::new(
                "\"whiten\" needs evidence \"gram\" (of an embedding: \"row_count\"), which there is not for this weight; \
                 put a stage measure = [\"gram\", \"row_count\"] before, or leave \"whiten\" out",
            ));
        }
        let mut weighting = Weighting::default();
        if let Some(counts) = counts {
            let mean = counts.data.iter().map(|n| f64::from(*n)).sum::<f64>() / counts.data.len().max(1) as f64;
            weighting.unreached |= mean <= 0.0;
            // Relative to the mean, so that energies have the size that they have without.
            let root = |n: &f32| ((f64::from(*n) / mean + damping).sqrt()) as f32;
            weighting.d = (mean > 0.0).then(|| counts.data.iter().map(root).collect());
        }
        if let Some(gram) = gram {
            let n = part.part_cols;
            let groups = gram.data.len() / (n * n).max(1);
            let at = |r: usize, c: usize| -> f64 {
                (0..groups).map(|g| f64::from(gram.data[(g * n + r) * n + c])).sum::<f64>() / groups.max(1) as f64
            };
            let mean = (0..n).map(|i| at(i, i)).sum::<f64>() / n.max(1) as f64;
            weighting.unreached |= mean <= 0.0;
            if mean > 0.0 {
                let damped = Mat::from_fn(n, n, |r, c| at(r, c) / mean + if r == c { damping } else { 0.0 });
                weighting.l = Some(linear::cholesky(damped)?);
            }
        }
        Ok(weighting)
    }

    /// D·W·L.
    fn apply(&self, w: &Mat<f32>) -> Mat<f32> {
        let w = match &self.d {
            Some(d) => Mat::from_fn(w.nrows(), w.ncols(), |r, c| d[r] * w[(r, c)]),
            None => w.clone(),
        };
        match &self.l {
            Some(l) => product(w.as_ref(), l.as_ref()),
            None => w,
        }
    }

    fn words(&self) -> &'static str {
        match (self.unreached, self.d.is_some() || self.l.is_some()) {
            (true, _) => " (unweighted: the data that was measured never reached it)",
            (false, true) => " on the data that was measured",
            (false, false) => "",
        }
    }
}

/// U and V, row-major, one after the other.
fn factors(w: &Mat<f32>, svd: &Svd, rank: usize, weighting: &Weighting, scale: f32) -> Vec<f32> {
    let (rows, cols) = (w.nrows(), w.ncols());
    let p = svd.u.as_ref().subcols(0, rank);
    // P_rᵀ·D·W; without weights that is Σ_r·Q_rᵀ.
    let v = match (&weighting.d, &weighting.l) {
        (None, None) => Mat::from_fn(rank, cols, |k, c| svd.s[k] * svd.v[(c, k)]),
        (Some(d), _) => {
            let pd = Mat::from_fn(rank, rows, |k, r| p[(r, k)] * d[r]);
            product(pd.as_ref(), w.as_ref()) // eq. 4
        }
        (None, Some(_)) => product(p.transpose(), w.as_ref()), // eq. 3
    };
    // The root of σ, of the size of V's rows where they were weighted.
    let roots: Vec<f32> = (0..rank)
        .map(|k| {
            let norm = (0..cols).map(|c| f64::from(v[(k, c)]).powi(2)).sum::<f64>().sqrt();
            norm.sqrt() as f32
        })
        .collect();
    let mut values = Vec::with_capacity(rank * (rows + cols));
    for r in 0..rows {
        let d = weighting.d.as_ref().map_or(1.0, |d| d[r]);
        values.extend((0..rank).map(|k| p[(r, k)] * roots[k] / d * scale));
    }
    for (k, root) in roots.iter().enumerate() {
        let divide = |x: f32| if *root > 0.0 { x / root } else { 0.0 };
        values.extend((0..cols).map(|c| divide(v[(k, c)]) * scale));
    }
    values
}

compress_sdk::export_method!(LowRank);
