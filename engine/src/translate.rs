//! Translates with a graph as it is: the prefix grows by a token a step, all sentences of a batch at once. What the
//! prefix does not reach (the encoder) is computed once a batch; that gives the same bits as computing it again.

use compress_core::recipe::Bleu;
use compress_core::{Error, Result};

use crate::data::Batch;
use crate::execute::Base;
use crate::kernels::softmax::log_sum_exp;
use crate::program::Program;
use crate::real::Real;
use crate::rewrite::ROWS;
use crate::value::{Tensor, Value};

/// A program that translates.
pub struct Translator<R: Real> {
    program: Program<R>,
    early: usize,
    compact: bool,
}

/// A translation under way, or done.
#[derive(Clone, Debug)]
struct Hypothesis {
    tokens: Vec<i64>,
    /// Σ log p of its tokens.
    score: f64,
}

impl Hypothesis {
    /// Mean log p a token: what finished translations of different length are compared by.
    fn mean(&self) -> f64 {
        self.score / (self.tokens.len().max(2) - 1) as f64
    }
}

impl<R: Real> Translator<R> {
    /// Makes a planned program ready; its only output is the one over the vocabulary.
    pub fn new(mut program: Program<R>, prefix: &str) -> Result<Translator<R>> {
        if !program.inputs.iter().any(|(_, i)| i.name == prefix) {
            let names: Vec<&str> = program.inputs.iter().map(|(_, i)| i.name.as_str()).collect();
            return Err(Error::failed(format!(
                "[data.bleu] prefix = \"{prefix}\" is no input of the graph; it has {}",
                names.join(", ")
            )));
        }
        let compact = program.compact();
        let early = program.put_last(&[prefix, ROWS]);
        Ok(Translator { program, early, compact })
    }

    /// The program, for its params.
    pub fn program(&self) -> &Program<R> {
        &self.program
    }

    /// Token ids of the translations of some examples, without begin and end.
    pub fn translate(&self, base: &Base<R>, batch: Batch<R>, bleu: &Bleu) -> Result<Vec<Vec<i64>>> {
        let sentences = batch.first().map_or(0, |(_, v)| v.shape().first().copied().unwrap_or(0));
        let others: Batch<R> = batch.into_iter().filter(|(n, _)| *n != bleu.prefix).collect();
        let width = bleu.beam.max(1) as usize;
        let inputs = others.iter().map(|(n, v)| Ok((n.clone(), repeated(v, width)?))).collect::<Result<Batch<R>>>()?;
        let begun = self.program.begin(base, self.early, &inputs)?;
        let start = Hypothesis { tokens: vec![bleu.begin], score: 0.0 };
        let mut live = vec![vec![start]; sentences];
        let mut done: Vec<Vec<Hypothesis>> = vec![Vec::new(); sentences];
        for _ in 0..bleu.max_length {
            if live.iter().all(Vec::is_empty) {
                break;
            }
            let rows = self.last_rows(base, &begun, &live, width, bleu)?;
            let mut rows = rows.iter();
            for (live, done) in live.iter_mut().zip(&mut done) {
                let mut candidates = Vec::new();
                for h in live.iter() {
                    let row = rows.next().ok_or_else(|| Error::failed("the graph gave too few rows"))?;
                    candidates.extend(best_of(row, width).into_iter().map(|(token, logp)| {
                        let mut tokens = h.tokens.clone();
                        tokens.push(token);
                        Hypothesis { tokens, score: h.score + logp }
                    }));
                }
                // a stable sort: of equal scores the earlier hypothesis and the smaller id
                candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
                live.clear();
                for h in candidates.into_iter().take(width) {
                    if h.tokens.last() == Some(&bleu.end) { done.push(h) } else { live.push(h) }
                }
                if done.len() >= width {
                    live.clear();
                }
            }
        }
        let finished = live.into_iter().zip(done).map(|(live, mut done)| {
            if done.is_empty() {
                done = live;
            }
            let mut best = done.first().cloned().unwrap_or(Hypothesis { tokens: vec![bleu.begin], score: 0.0 });
            for h in done.into_iter().skip(1) {
                if h.mean() > best.mean() {
                    best = h;
                }
            }
            best.tokens.into_iter().skip(1).filter(|t| *t != bleu.end).collect()
        });
        Ok(finished.collect())
    }

    /// The output's row behind the last token of every live hypothesis, in order.
    fn last_rows(
        &self,
        base: &Base<R>,
        begun: &[Option<Value<R>>],
        live: &[Vec<Hypothesis>],
        width: usize,
        bleu: &Bleu,
    ) -> Result<Vec<Vec<R>>> {
        let steps = live.iter().flatten().map(|h| h.tokens.len()).max().unwrap_or(1);
        let mut prefix = vec![bleu.begin; live.len() * width * steps];
        let mut rows = Vec::new();
        for (s, live) in live.iter().enumerate() {
            for (k, h) in live.iter().enumerate() {
                let at = (s * width + k) * steps;
                prefix[at..at + h.tokens.len()].copy_from_slice(&h.tokens);
                rows.push((at + h.tokens.len() - 1) as i64);
            }
        }
        let prefix = Value::ints(Tensor::new([live.len() * width, steps], prefix));
        let mut inputs = vec![(bleu.prefix.clone(), prefix)];
        if self.compact {
            let all = (live.len() * width * steps) as i64;
            let numbers = std::iter::once(all).chain(rows.iter().copied()).collect();
            inputs.push((ROWS.into(), Value::ints(Tensor::vector(numbers))));
        }
        let output = crate::step::output(self.program.resume(base, self.early, begun, &inputs)?)?;
        let n = output.shape().last().copied().unwrap_or(1).max(1);
        let all: Vec<&[R]> = output.data().chunks_exact(n).collect();
        if self.compact {
            return Ok(all.into_iter().map(<[R]>::to_vec).collect());
        }
        let missing = || Error::failed("the output has no row for each token of the prefix");
        rows.iter().map(|r| all.get(*r as usize).map(|row| row.to_vec()).ok_or_else(missing)).collect()
    }
}

/// The `width` best tokens of a row of logits with their log probabilities, best first, smaller ids first among equals.
fn best_of<R: Real>(row: &[R], width: usize) -> Vec<(i64, f64)> {
    let lse = log_sum_exp(row).f64();
    let mut best: Vec<(i64, f64)> = Vec::with_capacity(width + 1);
    for (i, v) in row.iter().enumerate() {
        let v = v.f64();
        if best.len() < width || v > best[best.len() - 1].1 {
            let at = best.partition_point(|(_, b)| *b >= v);
            best.insert(at, (i as i64, v));
            best.truncate(width);
        }
    }
    best.into_iter().map(|(i, v)| (i, v - lse)).collect()
}

/// Every example `times` times.
fn repeated<R: Real>(v: &Value<R>, times: usize) -> Result<Value<R>> {
    fn rows<T: crate::buffer::Elem>(t: &Tensor<T>, times: usize) -> Tensor<T> {
        let mut shape = t.shape().to_vec();
        let each = t.len() / shape[0].max(1);
        shape[0] *= times;
        let data = t.data().chunks(each.max(1)).flat_map(|row| row.repeat(times)).collect::<Vec<T>>();
        Tensor::new(shape, data)
    }
    if times == 1 {
        return Ok(v.clone());
    }
    Ok(crate::value::per_kind!(v, t => rows(t, times)))
}

/// Tokens as a sentence: joined by blanks, then by what the recipe's `join` says pieces are marked with.
pub fn sentence(ids: &[i64], vocabulary: &[String], join: &str) -> String {
    let words =
        ids.iter().map(|i| usize::try_from(*i).ok().and_then(|i| vocabulary.get(i)).map_or("<unk>", String::as_str));
    let text = words.collect::<Vec<_>>().join(" ");
    if join.is_empty() {
        return text;
    }
    if join.ends_with(' ') {
        // byte pair encoding: "@@ " behind a piece that goes on
        let text = text.replace(join, "");
        return text.strip_suffix(join.trim_end()).unwrap_or(&text).to_string();
    }
    // SentencePiece: a mark before a piece that begins a word
    text.replace(' ', "").replace(join, " ").trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_words() {
        let words = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        for (vocabulary, join, expected) in [
            (["a", "b", "c"], "", "a b c"),
            (["Wa@@", "sser", "fa@@"], "@@ ", "Wasser fa"),
            (["\u{2581}Ein", "\u{2581}Hu", "nd"], "\u{2581}", "Ein Hund"),
        ] {
            assert_eq!(sentence(&[0, 1, 2], &words(&vocabulary), join), expected);
        }
        assert_eq!(sentence(&[0, 9], &words(&["a"]), ""), "a <unk>");
    }

    #[test]
    fn best_tokens_come_in_order_and_equal_ones_by_id() {
        let best: Vec<i64> = best_of(&[1.0f32, 3.0, 2.0, 3.0], 3).into_iter().map(|b| b.0).collect();
        assert_eq!(best, [1, 3, 2]);
        let p: f64 = best_of(&[0.5f64, -1.0, 2.0], 3).into_iter().map(|b| b.1.exp()).sum();
        assert!((p - 1.0).abs() < 1e-12);
    }
}
