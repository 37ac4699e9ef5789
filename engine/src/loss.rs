//! Losses and what is counted with them.

use compress_core::{Error, Result};

use crate::kernels::softmax::{cross_entropy_in_place, softmax_at};
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

/// The loss of a target with what a teacher says beside it (Hinton, Vinyals & Dean 2015, section 2): the output becomes
/// `scale` times the gradient of (1 − w)·CE(target) + w·T²·KL(softmax(teacher / T) ‖ softmax(output / T)), for squared
/// error of (1 − w)·(output − target)² + w·(output − teacher)². What is counted is the loss of the target alone.
pub fn distilled<R: Real>(
    output: Tensor<R>,
    target: &Value<R>,
    mut teacher: Tensor<R>,
    ignore: Option<i64>,
    scale: f64,
    Share { weight, temperature }: Share,
) -> Result<(Tally, Tensor<R>)> {
    if output.shape() != teacher.shape() {
        return Err(Error::failed(format!(
            "the teacher's output {} has not the shape of the model's, {}: they must answer alike",
            shape_text(teacher.shape()),
            shape_text(output.shape())
        )));
    }
    let (own, part) = (R::of(1.0 - weight), weight * scale);
    match target {
        Value::Int(ids, _) => {
            let mut soft = output.clone();
            let (tally, mut grad) = cross_entropy(output, ids, ignore, scale)?;
            let n = grad.shape().last().copied().unwrap_or(1).max(1);
            let rows = grad.data_mut().chunks_exact_mut(n).zip(soft.data_mut().chunks_exact_mut(n));
            let factor = R::of(part * temperature);
            for (((g, p), q), t) in rows.zip(teacher.data_mut().chunks_exact_mut(n)).zip(ids.data()) {
                if Some(*t) == ignore {
                    continue;
                }
                softmax_at(p, R::of(1.0 / temperature));
                softmax_at(q, R::of(1.0 / temperature));
                for ((g, p), q) in g.iter_mut().zip(p.iter()).zip(q.iter()) {
                    *g = own * *g + factor * (*p - *q);
                }
            }
            Ok((tally, grad))
        }
        v => {
            let target = v.float()?;
            let (tally, mut grad) = squared_error(output, target, scale)?;
            let factor = R::of(2.0 * part);
            for ((g, t), q) in grad.data_mut().iter_mut().zip(target.data()).zip(teacher.data()) {
                *g += factor * (*t - *q);
            }
            Ok((tally, grad))
        }
    }
}

/// A teacher's part in the loss.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share {
    /// Its share, from 0 to 1.
    pub weight: f64,
    /// What logits are divided by.
    pub temperature: f64,
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

    /// Against finite differences of the loss that the equation names.
    #[test]
    fn what_a_teacher_says_has_the_gradient_of_the_equation() {
        let (x, taught) = ([0.3f64, -1.2, 0.8, 2.0, 0.1, -0.4], [1.0f64, 0.5, -0.7, 0.2, 0.9, 1.4]);
        let (target, share) = (Tensor::vector(vec![2i64, 0]), Share { weight: 0.3, temperature: 2.5 });
        let log_softmax = |row: &[f64], t: f64| -> Vec<f64> {
            let sum: f64 = row.iter().map(|v| (v / t).exp()).sum();
            row.iter().map(|v| v / t - sum.ln()).collect()
        };
        let value = |x: &[f64]| -> f64 {
            let rows = x.chunks(3).zip(taught.chunks(3)).zip(target.data());
            let one = |((x, q), class): ((&[f64], &[f64]), &i64)| {
                let (p, q) = (log_softmax(x, 2.5), log_softmax(q, 2.5));
                let kl: f64 = p.iter().zip(&q).map(|(p, q)| q.exp() * (q - p)).sum();
                0.7 * -log_softmax(x, 1.0)[*class as usize] + 0.3 * 2.5 * 2.5 * kl
            };
            rows.map(one).sum()
        };
        let tensor = |v: &[f64]| Tensor::new([2, 3], v.to_vec());
        let (tally, grad) =
            distilled(tensor(&x), &Value::ints(target.clone()), tensor(&taught), None, 1.0, share).unwrap();
        assert_eq!(tally, cross_entropy(tensor(&x), &target, None, 1.0).unwrap().0);
        for i in 0..6 {
            let moved = |d: f64| value(&std::array::from_fn::<f64, 6, _>(|k| x[k] + if k == i { d } else { 0.0 }));
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((grad.data()[i] - slope).abs() < 1e-8, "{i}: {} and {slope}", grad.data()[i]);
        }
        // an ignored row carries no gradient
        let (_, grad) = distilled(tensor(&x), &Value::ints(target), tensor(&taught), Some(0), 1.0, share).unwrap();
        assert_eq!(grad.data()[3..], [0.0; 3]);
        let narrow = Tensor::new([2, 2], vec![0.0; 4]);
        assert!(distilled(tensor(&x), &Value::ints(Tensor::vector(vec![0, 1])), narrow, None, 1.0, share).is_err());
    }

    #[test]
    fn a_teacher_of_squared_error_by_hand() {
        let share = Share { weight: 0.25, temperature: 1.0 };
        let target = Value::Float(Tensor::vector(vec![1.0f64]));
        let (tally, grad) =
            distilled(Tensor::vector(vec![3.0]), &target, Tensor::vector(vec![7.0]), None, 1.0, share).unwrap();
        assert_eq!((tally.loss, grad.data()[0]), (4.0, 0.75 * 4.0 + 0.25 * -8.0));
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
