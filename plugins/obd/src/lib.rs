//! Optimal Brain Damage.
//!
//! LeCun, Denker & Solla, "Optimal Brain Damage", NIPS 1989 (Advances in Neural Information Processing Systems 2, 1990),
//! section 2: near a minimum of the loss E its change by a change δu of the weights is
//!
//! δE = ½ Σ h_kk δu_k² + ½ Σ_{k≠l} h_kl δu_k δu_l + O(‖δu‖³)   (eq. 2)
//!
//! Off-diagonal and cubic terms are neglected. Taking weight k away is δu_k = −u_k, which gives its saliency
//!
//! s_k = h_kk u_k² / 2   (eq. 5)
//!
//! That holds for small δu. A weight that the data hardly reach, or behind a softmax that is sure of itself, has h_kk near 0
//! though taking it away moves the outputs far; and taken away are most weights, not one. So by default each weight has a
//! curvature of its own and a floor, which is damping as of Levenberg and Marquardt:
//!
//! s_k = (h_kk + λ) u_k² / 2,   λ = damping · mean of h over the model
//!
//! With damping = 0 it is the paper's saliency; the more damping, the nearer to magnitude.
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | u | `u` | rows × cols | the weights |
//! | h_kk | `h_kk` | rows × cols | diagonal of the curvature of the loss, from evidence |
//! | λ | `lambda` | | damping: the same for all parts |
//! | s | `score` | rows × cols | saliency: the loss that taking the weight away is expected to cost |
//!
//! The paper computes h_kk by the Gauss–Newton (Levenberg–Marquardt) approximation, which is never negative: that is the
//! evidence `hessian_diag`. `fisher_diag`, the mean squared gradient (empirical Fisher), is cheaper and stands in for it
//! by name. Saliencies are changes of one loss, so they compare across layers: class-blind is the paper's scheme.

use compress_sdk::{
    Card, Error, Evidence, EvidenceKind, Method, Need, OptionKind, OptionSpec, Options, Part, Result, Scores,
};

/// Scores weights by their saliency.
pub struct Obd {
    curvature: EvidenceKind,
    damping: f64,
}

impl Method for Obd {
    const CARD: Card = Card {
        name: "obd",
        meaning: "the weights of least saliency go first: Optimal Brain Damage",
        citation: "LeCun, Denker & Solla, Optimal Brain Damage, NIPS 1989",
        equation: "s_k = (h_kk + λ) u_k² / 2,  λ = damping · mean of h over the model",
        evidence: &[(EvidenceKind::HessianDiag, Need::OneOf), (EvidenceKind::FisherDiag, Need::OneOf)],
        options: &[
            OptionSpec {
                name: "curvature",
                meaning: "the evidence that h_kk is: the Gauss–Newton diagonal, or the mean squared gradient",
                kind: OptionKind::Choice { default: "hessian_diag", choices: &["hessian_diag", "fisher_diag"] },
            },
            OptionSpec {
                name: "damping",
                meaning: "what is added to h_kk, as a share of its mean over the model; 0 is the paper's saliency",
                kind: OptionKind::Float { default: 1.0, min: 0.0, max: 1e6 },
            },
        ],
        ..Card::SCORES_WEIGHTS
    };

    fn create(options: &Options, _: u64) -> Result<Self> {
        let name = options.text("curvature");
        let curvature =
            EvidenceKind::from_name(name).ok_or_else(|| Error::new(format!("no evidence is \"{name}\"")))?;
        Ok(Obd { curvature, damping: options.float("damping") })
    }

    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        let kind = self.curvature.name();
        let Some(h) = evidence.get(self.curvature) else {
            return Err(Error::new(format!(
                "there is no evidence \"{kind}\" for it; measure it by a stage with measure = [\"{kind}\"], or leave the \
                 tensor out by \"classes\""
            )));
        };
        let lambda = self.damping * h.model_mean;
        let mut least = 0f32;
        for ((score, u), h_kk) in out.data.iter_mut().zip(part.data).zip(h.data) {
            *score = ((f64::from(*h_kk) + lambda) * f64::from(*u).powi(2) / 2.0) as f32; // eq. 5, with damping
            least = least.min(*h_kk);
        }
        if least < 0.0 {
            let at = h.data.iter().position(|h_kk| *h_kk == least).unwrap_or_default() as u64 + part.first_element;
            return Err(Error::new(format!(
                "its evidence \"{kind}\" is {least:e} at index {at} of the part as stored; a saliency needs a curvature of \
                 at least 0, such as the Gauss–Newton diagonal"
            )));
        }
        Ok(())
    }
}

compress_sdk::export_method!(Obd);
