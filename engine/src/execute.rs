//! Runs programs: forwards with or without a tape, and back along the tape.

use compress_core::{Error, Result};

use crate::ops::{Back, Context, Inputs, Noise};
use crate::program::{Program, Step};
use crate::real::Real;
use crate::value::{Tensor, Value};

/// What is told of each step of a pass: its number, inputs and outputs.
pub type Observer<'a, R> = &'a mut dyn FnMut(usize, &[Option<Value<R>>], &[Value<R>]) -> Result<()>;

/// The values that depend on weights alone, computed once for many batches.
pub struct Base<R: Real> {
    values: Vec<Option<Value<R>>>,
    tape: Tape<R>,
}

/// The way back: for each step that carries gradients, how.
type Tape<R> = Vec<(usize, Back<R>)>;

/// A forward pass over a batch.
pub struct Pass<R: Real> {
    /// The program's outputs.
    pub outputs: Vec<Value<R>>,
    tape: Tape<R>,
}

/// How a pass is run.
#[derive(Clone, Copy, Default)]
pub struct Mode<'a> {
    /// Slots that carry gradients ([`Program::carriers`]); `None` = no gradient is wanted.
    pub carriers: Option<&'a [bool]>,
    /// Random state of dropout; `None` = none drops.
    pub noise: Option<Noise>,
}

/// Runs one step: takes inputs out of `own` where they are read for the last time.
fn step<R: Real>(
    number: usize,
    step: &Step<R>,
    own: &mut [Option<Value<R>>],
    base: &[Option<Value<R>>],
    mode: Mode,
    observer: &mut Option<Observer<R>>,
) -> Result<Option<Back<R>>> {
    let mut inputs = Vec::with_capacity(step.inputs.len());
    for (slot, last) in step.inputs.iter().zip(&step.last) {
        inputs.push(match slot {
            None => None,
            Some(s) => match if *last { own[*s].take() } else { own[*s].clone() } {
                Some(v) => Some(v),
                None => match &base[*s] {
                    Some(v) => Some(v.clone()),
                    None => return Err(Error::failed(format!("{}: an input was not computed", step.title))),
                },
            },
        });
    }
    let grad: Vec<bool> = match mode.carriers {
        Some(c) => step.inputs.iter().map(|s| s.is_some_and(|s| c[s])).collect(),
        None => vec![false; inputs.len()],
    };
    let seen: Vec<Option<(&'static str, Vec<usize>)>> =
        inputs.iter().map(|v| v.as_ref().map(|v| (v.kind(), v.shape().to_vec()))).collect();
    let place = |e: Error| {
        let words: Vec<String> = seen
            .iter()
            .map(|v| v.as_ref().map_or("none".into(), |(k, s)| format!("{k} {}", crate::value::shape_text(s))))
            .collect();
        e.at(format!("{} with inputs {}", step.title, words.join(", ")))
    };
    let kept = observer.is_some().then(|| inputs.clone());
    let cx = Context { grad, outputs: step.outputs.len(), noise: mode.noise };
    let out = (step.run)(&cx, Inputs(inputs)).map_err(place)?;
    if let (Some(f), Some(inputs)) = (observer, kept) {
        f(number, &inputs, &out.values).map_err(place)?;
    }
    for (i, value) in out.values.into_iter().enumerate() {
        if let Some(Some(slot)) = step.outputs.get(i)
            && !step.unread[i]
        {
            own[*slot] = Some(value);
        }
    }
    Ok(out.back)
}

impl<R: Real> Program<R> {
    /// Computes what depends on weights alone. `weights` in the order of [`Program::params`].
    pub fn base(&self, weights: &[Tensor<R>], carriers: Option<&[bool]>) -> Result<Base<R>> {
        let mut values: Vec<Option<Value<R>>> = vec![None; self.slots];
        for (slot, v) in &self.constants {
            values[*slot] = Some(v.clone());
        }
        for (p, t) in self.params.iter().zip(weights) {
            values[p.slot] = Some(Value::Float(t.clone()));
        }
        let mut tape = Vec::new();
        let none = vec![None; self.slots];
        for (i, s) in self.steps[..self.derived].iter().enumerate() {
            // Weights stay for the caller: nothing here may be used up.
            let kept: Vec<_> = s.inputs.iter().flatten().map(|k| (*k, values[*k].clone())).collect();
            if let Some(back) = step(i, s, &mut values, &none, Mode { carriers, noise: None }, &mut None)? {
                tape.push((i, back));
            }
            for (k, v) in kept {
                values[k] = v;
            }
        }
        Ok(Base { values, tape })
    }

    /// Checks a batch against the graph's inputs: names, kinds, dimensions.
    fn feed(&self, inputs: &[(String, Value<R>)], own: &mut [Option<Value<R>>], all: bool) -> Result<()> {
        for (slot, input) in &self.inputs {
            let Some((_, value)) = inputs.iter().find(|(n, _)| *n == input.name) else {
                if !all {
                    continue;
                }
                return Err(Error::failed(format!("input \"{}\" of the graph is missing in the data", input.name)));
            };
            // integers are widened to what the graph computes with: images as bytes
            let value = match value {
                Value::Int(t, _) if input.kind == "float" => &Value::Float(t.map(|v| R::of(v as f64))),
                v => v,
            };
            let shape = value.shape();
            let fits = input.dims.as_ref().is_none_or(|dims| {
                dims.len() == shape.len() && dims.iter().zip(shape).all(|(d, n)| d.is_none_or(|d| d == *n))
            });
            if !fits {
                let words: Vec<String> =
                    input.dims.iter().flatten().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
                return Err(Error::failed(format!(
                    "input \"{}\" has shape {} in the data, the graph expects [{}]",
                    input.name,
                    crate::value::shape_text(shape),
                    words.join("×")
                )));
            }
            if value.kind() != input.kind {
                return Err(Error::failed(format!(
                    "input \"{}\" is {} in the data, the graph expects {}",
                    input.name,
                    value.kind(),
                    input.kind
                )));
            }
            own[*slot] = Some(value.clone());
        }
        Ok(())
    }

    /// Runs the steps that the named input does not reach, once for many values of it: gives the state to go on from.
    /// The program must have been ordered by [`Program::put_last`].
    pub fn begin(&self, base: &Base<R>, early: usize, inputs: &[(String, Value<R>)]) -> Result<Vec<Option<Value<R>>>> {
        let mut own = vec![None; self.slots];
        self.feed(inputs, &mut own, false)?;
        for (i, s) in self.steps.iter().enumerate().take(self.derived + early).skip(self.derived) {
            step(i, s, &mut own, &base.values, Mode::default(), &mut None)?;
        }
        Ok(own)
    }

    /// Goes on from [`Program::begin`] with the remaining inputs.
    pub fn resume(
        &self,
        base: &Base<R>,
        early: usize,
        begun: &[Option<Value<R>>],
        inputs: &[(String, Value<R>)],
    ) -> Result<Vec<Value<R>>> {
        let mut own = begun.to_vec();
        self.feed(inputs, &mut own, false)?;
        for (i, s) in self.steps.iter().enumerate().skip(self.derived + early) {
            step(i, s, &mut own, &base.values, Mode::default(), &mut None)?;
        }
        self.outputs
            .iter()
            .map(|slot| own[*slot].take().ok_or_else(|| Error::failed("an output was not computed")))
            .collect()
    }

    /// Runs a batch.
    pub fn forward(
        &self,
        base: &Base<R>,
        inputs: &[(String, Value<R>)],
        mode: Mode,
        mut observer: Option<Observer<R>>,
    ) -> Result<Pass<R>> {
        let mut own = vec![None; self.slots];
        self.feed(inputs, &mut own, true)?;
        let mut tape = Vec::new();
        for (i, s) in self.steps.iter().enumerate().skip(self.derived) {
            if let Some(back) = step(i, s, &mut own, &base.values, mode, &mut observer)? {
                tape.push((i, back));
            }
        }
        let outputs = self.outputs.iter().map(|slot| {
            own[*slot]
                .take()
                .or_else(|| base.values[*slot].clone())
                .ok_or_else(|| Error::failed("an output was not computed"))
        });
        Ok(Pass { outputs: outputs.collect::<Result<_>>()?, tape })
    }

    /// From the gradients of the outputs to those of everything that depends on weights alone, by slot.
    pub fn backward(&self, pass: Pass<R>, outputs: Vec<Option<Tensor<R>>>) -> Result<Vec<Option<Tensor<R>>>> {
        let mut grads: Vec<Option<Tensor<R>>> = vec![None; self.slots];
        drop(pass.outputs);
        for (slot, g) in self.outputs.iter().zip(outputs) {
            accumulate(&mut grads[*slot], g);
        }
        self.unwind(pass.tape, &mut grads)?;
        Ok(grads)
    }

    /// Ends what [`Program::backward`] began: gradients of the weights, in the order of [`Program::params`].
    pub fn weight_gradients(&self, base: Base<R>, mut grads: Vec<Option<Tensor<R>>>) -> Result<Vec<Option<Tensor<R>>>> {
        self.unwind(base.tape, &mut grads)?;
        Ok(self.params.iter().map(|p| grads[p.slot].take()).collect())
    }

    fn unwind(&self, tape: Tape<R>, grads: &mut [Option<Tensor<R>>]) -> Result<()> {
        for (i, back) in tape.into_iter().rev() {
            let step = &self.steps[i];
            let out: Vec<Option<Tensor<R>>> = step.outputs.iter().map(|s| s.and_then(|s| grads[s].take())).collect();
            if out.iter().all(Option::is_none) {
                continue;
            }
            let back = back(out).map_err(|e| e.at(format!("gradient of {}", step.title)))?;
            for (slot, g) in step.inputs.iter().zip(back) {
                if let Some(s) = slot {
                    accumulate(&mut grads[*s], g);
                }
            }
        }
        Ok(())
    }
}

/// sum += g.
pub fn accumulate<R: Real>(sum: &mut Option<Tensor<R>>, g: Option<Tensor<R>>) {
    match (sum.as_mut(), g) {
        (_, None) => {}
        (None, g) => *sum = g,
        (Some(s), Some(g)) => crate::kernels::add_into(s.data_mut(), g.data()),
    }
}
