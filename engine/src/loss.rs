//! Losses and what is counted with them.

use compress_core::{Error, Result};

use crate::kernels::softmax::cross_entropy_in_place;
use crate::real::Real;
use crate::value::{Tensor, Value, shape_text};

/// Sums over counted targets; they add up over batches.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Tally {
    /// Σ −log p(target), or Σ (output − target)².
    pub loss: f64,
    /// Targets whose class has the largest output.
    pub correct: u64,
    /// Targets counted.
    pub counted: u64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Tally) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.counted += other.counted;
    }

    /// Mean loss.
    pub fn mean(&self) -> f64 {
        self.loss / self.counted as f64
    }

    /// e to the mean loss.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Share of targets met.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.counted as f64
    }
}

/// Positions of the targets that count, in order.
pub fn counted(target: &Tensor<i64>, ignore: Option<i64>) -> Vec<i64> {
    let data = target.data();
    (0..data.len()).filter(|i| Some(data[*i]) != ignore).map(|i| i as i64).collect()
}

/// Cross-entropy of rows [.., classes] with one target each; ignored targets neither count nor carry gradients. The
/// output becomes `scale` · gradient of the sum.
pub fn cross_entropy<R: Real>(
    mut output: Tensor<R>,
    target: &Tensor<i64>,
    ignore: Option<i64>,
    scale: f64,
) -> Result<(Tally, Tensor<R>)> {
    let clash = || {
        Error::failed(format!(
            "the output {} does not fit the target {}: it needs one more dimension, the classes, behind the target's",
            shape_text(output.shape()),
            shape_text(target.shape())
        ))
    };
    let (&classes, lead) = output.shape().split_last().ok_or_else(clash)?;
    if lead.iter().product::<usize>() != target.len() || (lead.len() == target.rank() && lead != target.shape()) {
        return Err(clash());
    }
    let mut tally = Tally::default();
    for (row, t) in output.data_mut().chunks_exact_mut(classes.max(1)).zip(target.data()) {
        if Some(*t) == ignore {
            row.fill(R::ZERO);
            continue;
        }
        let class = usize::try_from(*t).ok().filter(|c| *c < classes).ok_or_else(|| {
            Error::failed(format!("target {t} is none of the output's {classes} classes (is \"ignore\" set?)"))
        })?;
        let best = crate::kernels::lane_max(row);
        tally.correct += u64::from(row[class] == best && row.iter().position(|v| *v == best) == Some(class));
        tally.counted += 1;
        tally.loss += cross_entropy_in_place(row, class, R::of(scale)).f64();
    }
    Ok((tally, output))
}

/// Σ (output − target)²; the output becomes `scale` · gradient of the sum.
pub fn squared_error<R: Real>(mut output: Tensor<R>, target: &Tensor<R>, scale: f64) -> Result<(Tally, Tensor<R>)> {
    if output.len() != target.len() {
        return Err(Error::failed(format!(
            "the output {} does not fit the target {}",
            shape_text(output.shape()),
            shape_text(target.shape())
        )));
    }
    let mut tally = Tally { counted: target.len() as u64, ..Tally::default() };
    for (o, t) in output.data_mut().iter_mut().zip(target.data()) {
        let d = *o - *t;
        tally.loss += d.f64() * d.f64();
        *o = d * R::of(2.0 * scale);
    }
    Ok((tally, output))
}

/// The loss that belongs to a target: cross-entropy for integers, squared error for floats.
pub fn loss<R: Real>(
    output: Tensor<R>,
    target: &Value<R>,
    ignore: Option<i64>,
    scale: f64,
) -> Result<(Tally, Tensor<R>)> {
    match target {
        Value::Int(t, _) => cross_entropy(output, t, ignore, scale),
        v => squared_error(output, v.float()?, scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_targets_neither_count_nor_carry_gradients() {
        let output = Tensor::new([2, 2], vec![1.0f64, 1.0, 0.0, 5.0]);
        let (tally, grad) = cross_entropy(output, &Tensor::vector(vec![1, 0]), Some(0), 1.0).unwrap();
        assert_eq!((tally.counted, tally.correct), (1, 0)); // of equal outputs the first wins
        assert!((tally.perplexity() - 2.0).abs() < 1e-12);
        assert_eq!(grad.data(), [0.5, -0.5, 0.0, 0.0]);
    }

    #[test]
    fn squared_error_by_hand() {
        let (tally, grad) =
            squared_error(Tensor::vector(vec![1.0f64, 3.0]), &Tensor::vector(vec![0.0, 1.0]), 0.5).unwrap();
        assert_eq!((tally.loss, tally.mean()), (5.0, 2.5));
        assert_eq!(grad.data(), [1.0, 2.0]);
        assert!(squared_error(Tensor::vector(vec![1.0f64]), &Tensor::vector(vec![0.0, 1.0]), 1.0).is_err());
    }
}
