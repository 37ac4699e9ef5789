//! Optimal Brain Surgeon, layer by layer.
//!
//! Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992 (Advances in Neural
//! Information Processing Systems 5, 1993). Taking weight q away and letting the others make up for it as well as they can
//! costs
//!
//! L_q = w_q² / (2 [H⁻¹]_qq)   (eq. 5, cost)      δw = −w_q / [H⁻¹]_qq · H⁻¹ e_q   (eq. 5, update)
//!
//! Here the loss is that of one layer, ‖W X − Ŵ X‖², so H is the same for each row of W and rows do not touch each other:
//!
//! H = 2 G + λ I,   λ = damping · mean_j 2 G_jj   (eq. 1)
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | W | `weights` | rows × cols | the weights; Ŵ after pruning, ΔW = W − Ŵ is `delta` |
//! | G | `gram` | cols × cols | mean over positions of x·xᵀ, x the layer's inputs (of each group: groups × cols × cols) |
//! | H | `h` | cols × cols | curvature of a row's loss |
//! | H⁻¹ | `h_inv` | cols × cols | its inverse |
//! | R | `r` | cols × cols | upper, H = R·Rᵀ (`factor`) |
//! | λ | `lambda` | | damping |
//! | n | `row_count` | rows | how often each row of an embedding was read |
//!
//! Two forms: [`exact`] takes the weight of least cost again and again (Frantar & Alistarh, "Optimal Brain Compression",
//! NeurIPS 2022, arXiv 2208.11580), which costs rows · cols³ / 6; [`blocked`] goes through the columns once (Frantar & Alistarh,
//! "SparseGPT", ICML 2023, arXiv 2301.00774), cols³ / 3 + rows · cols². An embedding's inputs are one-hot, so that H is
//! diagonal and nothing makes up for anything: [`embedding`].
//!
//! Losses of different layers do not compare. So the host decides how many weights of each part go, by the scores of
//! the method that the option `allocate` names, and this method chooses which. Where magnitude at the same count does
//! better on tr(ΔW·G·ΔWᵀ), without damping, magnitude's choice is kept and said.

use compress_sdk::{
    Array, Bitmap, Card, Encoded, Encoding, Error, Evidence, EvidenceKind, Keep, Layout, Method, Need, OptionKind,
    OptionSpec, Options, Part, Result, Term, host,
};

pub mod blocked;
pub mod embedding;
pub mod exact;
pub mod factor;
pub mod hessian;
mod kernels;
pub mod layer;
pub mod loss;
pub mod magnitude;
pub mod select;
mod slices;

use hessian::Inputs;
use layer::{Choice, Layer, Quota};

/// Chooses weights and updates the others, within a quota.
pub struct Obs {
    form: Option<Form>,
    damping: f64,
    block: usize,
}

/// How weights are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Exact,
    Blocked,
}

/// `form = "auto"` is exact up to rows · cols³ of this: seconds on two cores.
const EXACT_MOST_WORK: u128 = 1 << 38;

impl Method for Obs {
    const CARD: Card = Card {
        name: "obs",
        meaning: "the weights of least cost go, and the others of their row make up for them: Optimal Brain Surgeon, layer \
                  by layer",
        citation: "Hassibi & Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, NIPS 1992; Frantar & \
                   Alistarh, Optimal Brain Compression, NeurIPS 2022, arXiv:2208.11580, and SparseGPT, ICML 2023, \
                   arXiv:2301.00774",
        equation: "L_q = w_q² / (2 [H⁻¹]_qq),  δw = −w_q / [H⁻¹]_qq · H⁻¹ e_q,  H = 2 G + λ I",
        selects: true,
        evidence: &[(EvidenceKind::Gram, Need::OneOf), (EvidenceKind::RowCount, Need::OneOf)],
        options: &[
            OptionSpec {
                name: "form",
                meaning: "exact takes the weight of least cost again and again, blocked goes through the columns once; auto \
                          is exact where rows · cols³ is at most 2^38",
                kind: OptionKind::Choice { default: "auto", choices: &["auto", "exact", "blocked"] },
            },
            OptionSpec {
                name: "damping",
                meaning: "what is added to the diagonal of 2 G, as a share of its mean",
                kind: OptionKind::Float { default: 0.01, min: 0.0, max: 1e6 },
            },
            OptionSpec {
                name: "block",
                meaning: "columns whose weights the blocked form chooses at once",
                kind: OptionKind::Integer { default: 128, min: 1, max: 65536 },
            },
            OptionSpec {
                name: "allocate",
                meaning: "the method whose scores, under the stage's scheme, decide how many weights of each part go: \
                          \"magnitude\", \"obd\", …",
                kind: OptionKind::Text { default: "magnitude" },
            },
        ],
        ..Card::ENCODES_PARTS
    };

    fn create(options: &Options, _: u64) -> Result<Self> {
        let form = match options.text("form") {
            "exact" => Some(Form::Exact),
            "blocked" => Some(Form::Blocked),
            _ => None,
        };
        Ok(Obs { form, damping: options.float("damping"), block: options.integer("block") as usize })
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        let Keep::Quota { eligible, pruned, n, m } = keep else {
            return Err(Error::new("it chooses weights itself and must be told how many, not which"));
        };
        let layer = Layer::read(part, eligible)?;
        let quota = Quota::new(&layer, pruned, n, m)?;
        let choice = if quota.remaining == 0 {
            Choice::untouched(&layer)
        } else {
            match (evidence.get(EvidenceKind::Gram), evidence.get(EvidenceKind::RowCount)) {
                (Some(gram), _) => self.surgery(part, &layer, &quota, gram)?,
                (None, Some(row_count)) => embedding::choose(&layer, &quota, row_count.data)?,
                (None, None) => {
                    return Err(Error::new(
                        "there is no evidence \"gram\" or \"row_count\" (of an embedding) for it; measure it by a stage with \
                         measure = [\"gram\", \"row_count\"], or leave the tensor out by \"classes\"",
                    ));
                }
            }
        };
        encoded(&layer, choice)
    }
}

impl Obs {
    /// Optimal Brain Surgeon on a layer, or magnitude where that is better.
    fn surgery(&self, part: &Part<'_>, layer: &Layer, quota: &Quota, gram: &Array<'_>) -> Result<Choice> {
        let inputs = Inputs::new(layer, gram, self.damping)?;
        let work = layer.rows as u128 * (layer.cols as u128).pow(3);
        let form = self.form.unwrap_or(if work <= EXACT_MOST_WORK { Form::Exact } else { Form::Blocked });
        let (words, (choice, cost)) = match form {
            Form::Exact => ("exact", (exact::choose(layer, &inputs, quota)?, None)),
            Form::Blocked => ("blocked", blocked::choose(layer, &inputs, quota, self.block)?),
        };
        let plain = magnitude::choose(layer, quota)?;
        let cost = cost.map_or_else(|| loss::trace(layer, &inputs, &choice), Ok)?;
        let plain_cost = loss::trace(layer, &inputs, &plain)?;
        let name = part.name;
        if cost < plain_cost {
            host::log(&format!(
                "\"{name}\": tr(ΔW·G·ΔWᵀ) is {cost:.3e} ({words} form) where magnitude's is {plain_cost:.3e}"
            ));
            return Ok(choice);
        }
        host::log(&format!(
            "\"{name}\": magnitude's choice is kept, its tr(ΔW·G·ΔWᵀ) is {plain_cost:.3e}, not more than {cost:.3e} ({words} form)"
        ));
        Ok(plain)
    }
}

/// The result as the host wants it. A kept weight stays a kept weight, even one that the update took to exactly zero.
fn encoded(layer: &Layer, choice: Choice) -> Result<Encoded> {
    let mut bits = vec![0u8; layer.len().div_ceil(8)];
    let mut values = choice.weights;
    let new = bits.chunks_mut(slices::ELEMENTS / 8).zip(values.chunks_mut(slices::ELEMENTS));
    slices::run(new.zip(slices::of_list(layer.len())).collect(), |((bits, values), range)| {
        let old = layer.weights[range.clone()].iter().zip(&choice.gone[range]);
        for (i, (value, (old, gone))) in values.iter_mut().zip(old).enumerate() {
            bits[i / 8] |= u8::from(!gone) << (i % 8);
            let least = if *old == 0.0 { 0.0 } else { f32::MIN_POSITIVE.copysign(*old) };
            let kept = if *value == 0.0 { least } else { *value };
            *value = if *gone { 0.0 } else { kept };
        }
        Ok(())
    })?;
    let kept = Bitmap::from_bytes(bits, layer.len()).unwrap_or_default();
    let terms = vec![Term { layout: Layout::Dense, values }];
    Ok(Encoded { kept, encoding: Encoding { rows: layer.rows, cols: layer.cols, terms } })
}

compress_sdk::export_method!(Obs);
