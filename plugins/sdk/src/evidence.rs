//! Evidence as a method sees it: the piece that belongs to the block it was given.

use crate::card::EvidenceKind;

/// An array of f32 with its shape.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    /// Which kind.
    pub kind: EvidenceKind,
    /// `fisher_diag`, `hessian_diag`: the block's rows and cols, laid out with the block's strides.
    /// `gram`: `[k, k]` or `[groups, k, k]`, row-major. `row_count`: `[rows]` of the block.
    pub shape: &'a [u64],
    /// The numbers.
    pub data: &'a [f32],
    /// `fisher_diag`, `hessian_diag`: the mean over all weights of the model that have it, so that parts have one measure;
    /// 0 where the host does not say.
    pub model_mean: f64,
}

/// All evidence for a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// What there is.
    pub arrays: &'a [Array<'a>],
}

impl<'a> Evidence<'a> {
    /// The array of a kind, if the evidence file has it for this weight.
    pub fn get(&self, kind: EvidenceKind) -> Option<&'a Array<'a>> {
        self.arrays.iter().find(|a| a.kind == kind)
    }
}
