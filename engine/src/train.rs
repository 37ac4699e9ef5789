//! Retrains with the masks held. Data order, dropout and everything else random are made from (seed, epoch, step), so a
//! state on disk needs no random state and goes on to the same bits.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use compress_core::glob;
use compress_core::parameters::Parameters;
use compress_core::progress::{Unit, Watch};
use compress_core::recipe::{Decay, Dropout, Optimizer, Training};
use compress_core::{Error, Result};

use crate::data::Examples;
use crate::engine::{AsStored, BATCH, Engine, Split, Weights};
use crate::loss::{Share, Tally};
use crate::optimise::{Rule, Step, hold, square_norm, update};
use crate::program::Program;
use crate::rewrite::mix;
use crate::state;
use crate::step::{Labels, Teacher, gradients};
use crate::value::Tensor;

/// Which weights are kept.
pub trait Masks: Sync {
    /// One bit an element, lowest first, 1 = kept; `None` = all are kept.
    fn bits(&self, name: &str, elements: usize) -> Result<Option<Vec<u8>>>;
}

/// Nothing is pruned.
pub struct AllKept;

impl Masks for AllKept {
    fn bits(&self, _: &str, _: usize) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

impl Masks for compress_core::mask::MaskFile {
    fn bits(&self, name: &str, elements: usize) -> Result<Option<Vec<u8>>> {
        if !self.has(name) {
            return Ok(None);
        }
        let mut bits = vec![0; elements.div_ceil(8)];
        self.read_bits(name, 0, &mut bits)?;
        Ok(Some(bits))
    }
}

/// How a weight is made from what is trained: factors, buckets, codebooks, scales. A weight without a form is trained
/// itself.
pub trait Form: Send + Sync {
    /// The weight that θ stands for.
    fn expand(&self, theta: &[f32], weight: &mut [f32]);
    /// The gradient of θ from that of the weight.
    fn gather(&self, theta: &[f32], weight_grad: &[f32], theta_grad: &mut [f32]);
}

impl Form for Parameters {
    fn expand(&self, theta: &[f32], weight: &mut [f32]) {
        Parameters::expand(self, theta, weight);
    }
    fn gather(&self, theta: &[f32], weight_grad: &[f32], theta_grad: &mut [f32]) {
        Parameters::gather(self, theta, weight_grad, theta_grad);
    }
}

/// Something that is trained.
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) trained: bool,
    /// What the optimiser changes: the weight itself where there is no form.
    pub(crate) theta: Tensor<f32>,
    pub(crate) form: Option<Box<dyn Form>>,
    pub(crate) mask: Option<Vec<u8>>,
    pub(crate) m: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl Parameter {
    fn weight(&self) -> Tensor<f32> {
        self.weight_of(&self.theta)
    }

    fn weight_of(&self, theta: &Tensor<f32>) -> Tensor<f32> {
        match &self.form {
            None => theta.clone(),
            Some(form) => {
                let mut out = vec![0.0; self.shape.iter().product()];
                form.expand(theta.data(), &mut out);
                Tensor::new(self.shape.clone(), out)
            }
        }
    }
}

/// What an epoch gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// Mean training loss.
    pub train: f64,
    /// Loss and counts on validation, where there is such data.
    pub validation: Option<(f64, f64)>,
}

/// A training under way.
pub struct Trainer<'e, 's> {
    engine: &'e Engine<'s>,
    program: Program<f32>,
    carriers: Vec<bool>,
    teacher: Option<Teacher<f32>>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) training: Training,
    pub(crate) seed: u64,
    examples: Examples,
    validation: Option<Examples>,
    /// Optimiser steps done, those of trainings that this one goes on from among them.
    pub(crate) steps: u64,
    /// Steps that were done before.
    pub(crate) before: u64,
    pub(crate) history: Vec<Epoch>,
    /// The best loss so far, and θ then.
    pub(crate) best: Option<(f64, Vec<Tensor<f32>>)>,
    /// Epochs since the best one.
    pub(crate) stale: u32,
    /// Batches of a whole epoch.
    whole: u64,
    /// Batches in all.
    planned: u64,
}

/// What a retraining gave.
pub struct Retrained {
    /// The best weights by name.
    pub weights: BTreeMap<String, Vec<f32>>,
    /// θ of those that have a form.
    pub parameters: BTreeMap<String, Vec<f32>>,
    /// Every epoch.
    pub epochs: Vec<Epoch>,
}

impl Engine<'_> {
    /// Retrains as the recipe says. The state lies in `state` after every epoch; with `resume` it goes on from there to
    /// the same bits as an unbroken run. `key` names what the state belongs to.
    #[allow(clippy::too_many_arguments)]
    pub fn retrain(
        &self,
        weights: &dyn Weights,
        masks: &dyn Masks,
        training: &Training,
        seed: u64,
        state: Option<(&Path, &str)>,
        resume: bool,
        watch: Watch,
    ) -> Result<Retrained> {
        let mut trainer = Trainer::new(self, weights, training, seed)?;
        trainer.set_masks(masks)?;
        if let Some((path, key)) = state
            && resume
            && path.exists()
        {
            state::load(&mut trainer, path, key)?;
        }
        while !trainer.finished() {
            trainer.epoch(watch)?;
            if let Some((path, key)) = state {
                state::save(&trainer, path, key)?;
            }
        }
        Ok(trainer.result())
    }
}

impl<'e, 's> Trainer<'e, 's> {
    /// Plans the training; nothing has run yet.
    pub fn new(
        engine: &'e Engine<'s>,
        weights: &dyn Weights,
        training: &Training,
        seed: u64,
    ) -> Result<Trainer<'e, 's>> {
        engine.need_target()?;
        let mut program = engine.plan()?;
        put_dropout(engine, &mut program, &training.dropout)?;
        if engine.objective.compact {
            program.compact();
        }
        let trained = |name: &str| engine.weights.iter().any(|w| w.name == name && w.trained);
        let carriers = program.carriers(trained)?;
        let values = engine.read(&program, weights)?;
        let adam = training.optimizer == Optimizer::Adam;
        let parameters = program.params.iter().zip(values).map(|(p, theta)| {
            let on = trained(&p.name);
            let zeros = |on: bool| if on { vec![0.0; theta.len()] } else { Vec::new() };
            let (m, v) = (zeros(on), zeros(on && adam));
            Parameter { name: p.name.clone(), shape: p.shape.clone(), trained: on, theta, form: None, mask: None, m, v }
        });
        let parameters = parameters.collect();
        let examples = engine.examples(Split::Train)?;
        let whole = (examples.count() as u64).div_ceil(engine.batch(batch_of(training)) as u64).max(1);
        let planned = ((whole as f64 * training.epochs).round() as u64).max(1);
        let validation = if engine.has(Split::Validation) { Some(engine.examples(Split::Validation)?) } else { None };
        let mut trainer = Trainer {
            engine,
            program,
            carriers,
            teacher: None,
            parameters,
            training: training.clone(),
            seed,
            examples,
            validation,
            steps: 0,
            before: 0,
            history: Vec::new(),
            best: None,
            stale: 0,
            whole,
            planned,
        };
        if training.distil.as_ref().is_some_and(|d| d.teacher.is_none()) {
            trainer.set_teacher(engine)?;
        }
        Ok(trainer)
    }

    /// Learns from this model, as its file has it, beside the labels: `distil` says how much. A teacher of `distil` that has
    /// a file of its own is given here; otherwise it is the model itself.
    pub fn set_teacher(&mut self, teacher: &Engine) -> Result<()> {
        let Some(distil) = &self.training.distil else { return Ok(()) };
        if teacher.objective.compact != self.engine.objective.compact {
            return Err(Error::failed(
                "the teacher's last layers are built otherwise than the model's: one can leave out rows that do not count, the \
                 other cannot",
            ));
        }
        let mut program = teacher.plan()?;
        if teacher.objective.compact {
            program.compact();
        }
        let base = program.base(&teacher.read(&program, &AsStored)?, None)?;
        let share = Share { weight: distil.weight, temperature: distil.temperature };
        self.teacher = Some(Teacher { program, base, share });
        Ok(())
    }

    /// Prunes anew: weights without a bit become zero and stay so. What came before the masks can no longer be best.
    pub fn set_masks(&mut self, masks: &dyn Masks) -> Result<()> {
        for p in self.parameters.iter_mut().filter(|p| p.form.is_none()) {
            p.mask = masks.bits(&p.name, p.theta.len())?;
            if let Some(bits) = &p.mask {
                hold(p.theta.data_mut(), bits);
                hold(&mut p.m, bits);
                hold(&mut p.v, bits);
            }
        }
        (self.best, self.stale) = (None, 0);
        Ok(())
    }

    /// Trains θ of a form instead of the weight itself.
    pub fn set_form(&mut self, name: &str, theta: Vec<f32>, form: Box<dyn Form>) -> Result<()> {
        let adam = self.training.optimizer == Optimizer::Adam;
        let p = self.parameters.iter_mut().find(|p| p.name == name);
        let p = p.ok_or_else(|| Error::failed(format!("the graph does not read weight \"{name}\"")))?;
        p.m = vec![0.0; theta.len()];
        p.v = if adam { vec![0.0; theta.len()] } else { Vec::new() };
        (p.theta, p.form, p.mask) = (Tensor::vector(theta), Some(form), None);
        Ok(())
    }

    /// Leaves a weight as it is.
    pub fn freeze(&mut self, name: &str) {
        self.parameters.iter_mut().filter(|p| p.name == name).for_each(|p| p.trained = false);
    }

    /// Matrices that are trained though more than a twentieth of them is zero and no mask holds the zeros: what was pruned
    /// elsewhere, and will be no longer. Each with its share of zeros.
    pub fn loose_zeros(&self) -> Vec<(String, f64)> {
        let loose = self.parameters.iter().filter(|p| p.trained && p.form.is_none() && p.mask.is_none());
        let share = |p: &Parameter| p.theta.data().iter().filter(|v| **v == 0.0).count() as f64 / p.theta.len() as f64;
        loose.filter(|p| p.shape.len() > 1).map(|p| (p.name.clone(), share(p))).filter(|(_, s)| *s > 0.05).collect()
    }

    /// Names of the weights that the graph reads.
    pub fn names(&self) -> Vec<String> {
        self.parameters.iter().map(|p| p.name.clone()).collect()
    }

    /// Whether all epochs are done, or patience has run out.
    pub fn finished(&self) -> bool {
        self.history.len() as u64 * self.whole >= self.planned
            || self.training.patience.is_some_and(|p| self.stale >= p.max(1))
    }

    /// Weights as they are now, by name.
    pub fn weights(&self) -> BTreeMap<String, Vec<f32>> {
        self.parameters.iter().map(|p| (p.name.clone(), p.weight().data().to_vec())).collect()
    }

    /// θ as it is now, of a form.
    pub fn theta(&self, name: &str) -> Option<&[f32]> {
        self.parameters.iter().find(|p| p.name == name).map(|p| p.theta.data())
    }

    /// The best weights, or the last where there is no validation.
    pub fn result(&self) -> Retrained {
        let (mut weights, mut parameters) = (BTreeMap::new(), BTreeMap::new());
        for (i, p) in self.parameters.iter().enumerate() {
            let theta = self.best.as_ref().map_or(&p.theta, |(_, best)| &best[i]);
            weights.insert(p.name.clone(), p.weight_of(theta).data().to_vec());
            if p.form.is_some() {
                parameters.insert(p.name.clone(), theta.data().to_vec());
            }
        }
        Retrained { weights, parameters, epochs: self.history.clone() }
    }

    /// The epochs so far.
    pub fn history(&self) -> &[Epoch] {
        &self.history
    }

    /// An epoch, or what is left of the last one: training, validation, and whether it is the best so far.
    pub fn epoch(&mut self, watch: Watch) -> Result<Tally> {
        let tally = self.part(0, 1, watch)?;
        self.validate(tally, watch)?;
        Ok(tally)
    }

    /// Part `part` of `of` equal parts of the present epoch: between them masks may be chosen anew. After the last one
    /// [`Trainer::validate`] ends the epoch.
    pub fn part(&mut self, part: usize, of: usize, watch: Watch) -> Result<Tally> {
        let batches = self.batches();
        let range = part * batches.len() / of..(part + 1) * batches.len() / of;
        let count: usize = batches[range.clone()].iter().map(Vec::len).sum();
        let epochs = self.training.epochs;
        let after = (self.history.len() as f64 + 1.0).min(epochs);
        watch.progress.begin(&format!("retrain, epoch {after} of {epochs}"), count as u64, Unit::Count);
        let (mut sum, start) = (Tally::default(), Instant::now());
        for rows in &batches[range] {
            watch.check()?;
            let tally = self.step(rows)?;
            sum.add(tally);
            watch.progress.advance(rows.len() as u64);
            let speed = sum.counted as f64 / start.elapsed().as_secs_f64().max(1e-9);
            watch.progress.note(&format!(
                "loss {:.3}, perplexity {:.3}, {speed:.0} tokens/s",
                sum.mean(),
                sum.perplexity()
            ));
        }
        watch.progress.end();
        Ok(sum)
    }

    /// Batches of the present epoch. Each pass through the data has an order of its own, and a training that goes on from
    /// another goes on in the middle of a pass where that one ended there.
    fn batches(&self) -> Vec<Vec<usize>> {
        let done = self.history.len() as u64 * self.whole;
        let count = self.whole.min(self.planned.saturating_sub(done)) as usize;
        let (pass, skipped) = ((self.before + done) / self.whole, ((self.before + done) % self.whole) as usize);
        let size = self.engine.batch(batch_of(&self.training));
        let of = |pass: u64| self.examples.shuffled_batches(size, mix(self.seed) ^ mix(pass));
        let mut batches = of(pass).split_off(skipped);
        if batches.len() < count {
            batches.extend(of(pass + 1));
        }
        batches.truncate(count);
        batches
    }

    /// One optimiser step on the examples of these numbers.
    fn step(&mut self, rows: &[usize]) -> Result<Tally> {
        let batch = self.examples.batch(rows)?;
        let number = self.steps + 1;
        let noise = mix(mix(self.seed ^ 0x6e_6f69_7365) ^ number);
        let weights: Vec<Tensor<f32>> = self.parameters.iter().map(Parameter::weight).collect();
        let got = gradients(
            &self.program,
            &weights,
            &self.carriers,
            &self.engine.objective,
            &batch,
            Some(noise),
            self.teacher.as_ref().map_or(Labels::Given, Labels::Taught),
        )?;
        drop(weights);
        if got.tally.counted == 0 {
            return Ok(got.tally);
        }
        let mut grads: Vec<Option<Tensor<f32>>> = got.params;
        let mut squares = 0.0;
        for (p, g) in self.parameters.iter().zip(&mut grads) {
            if !p.trained {
                *g = None;
            }
            let Some(t) = g else { continue };
            if let Some(form) = &p.form {
                let mut out = vec![0.0; p.theta.len()];
                form.gather(p.theta.data(), t.data(), &mut out);
                *t = Tensor::vector(out);
            }
            if let Some(bits) = &p.mask {
                hold(t.data_mut(), bits);
            }
            squares += square_norm(t.data());
        }
        let norm = squares.sqrt();
        if !(got.tally.loss.is_finite() && norm.is_finite()) {
            let what = format!("the loss became {} at step {number}, its gradient {norm}", got.tally.mean());
            return Err(self.diverged(&what));
        }
        let clip = self.training.clip.unwrap_or(1.0);
        let step = Step {
            rate: self.rate() as f32,
            scale: (clip / (norm + 1e-6)).min(1.0) as f32,
            weight_decay: self.training.weight_decay.unwrap_or(0.0) as f32,
            number,
        };
        let rule = match self.training.optimizer {
            Optimizer::Adam => Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
            Optimizer::Sgd => Rule::Sgd { momentum: self.training.momentum.unwrap_or(0.0) as f32 },
        };
        for (p, g) in self.parameters.iter_mut().zip(grads) {
            if let Some(g) = g {
                update(rule, step, p.theta.data_mut(), g.data(), &mut p.m, &mut p.v);
            }
        }
        self.steps = number;
        Ok(got.tally)
    }

    /// What to say and what is left where a loss is no number any more.
    fn diverged(&self, what: &str) -> Error {
        let epoch = self.history.len() + 1;
        let remedy = match &self.best {
            Some(_) => "lower \"rate\" or \"clip\", or end it with the best epoch so far, which is kept, by --finish",
            None => "lower \"rate\" or \"clip\"",
        };
        Error::failed(format!("{what} (epoch {epoch}); {remedy}"))
    }

    /// The learning rate of the next step.
    fn rate(&self) -> f64 {
        learning_rate(&self.training, self.steps - self.before, self.history.len(), self.planned)
    }

    /// Ends an epoch: measures on validation, keeps the best.
    pub fn validate(&mut self, tally: Tally, watch: Watch) -> Result<()> {
        let weights: Vec<Tensor<f32>> = self.parameters.iter().map(Parameter::weight).collect();
        let validation = match &self.validation {
            Some(examples) => {
                let t = self.engine.tally_of(&weights, examples, watch)?;
                Some((t.mean(), t.accuracy()))
            }
            None => None,
        };
        let loss = validation.map_or(tally.mean(), |v| v.0);
        if !loss.is_finite() {
            return Err(self.diverged(&format!("the validation loss became {loss} at step {}", self.steps)));
        }
        if self.best.as_ref().is_none_or(|(b, _)| loss < *b) {
            self.best = Some((loss, self.parameters.iter().map(|p| p.theta.clone()).collect()));
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        self.history.push(Epoch { train: tally.mean(), validation });
        Ok(())
    }
}

/// Examples a batch.
fn batch_of(training: &Training) -> usize {
    training.batch.map_or(BATCH, |b| b as usize)
}

/// The learning rate after `steps` steps of `total`, in epoch `epoch` from 0.
fn learning_rate(training: &Training, steps: u64, epoch: usize, total: u64) -> f64 {
    let first = match training.optimizer {
        Optimizer::Adam => 1e-3,
        Optimizer::Sgd => 0.1,
    };
    let along = (steps as f64 / total.max(1) as f64).min(1.0);
    let fall = match training.decay {
        None => 1.0,
        Some(Decay::Factor(f)) => f.powi(epoch as i32),
        Some(Decay::Linear) => 1.0 - along,
        Some(Decay::Cosine) => 0.5 * (1.0 + (std::f64::consts::PI * along).cos()),
    };
    let warm = match training.warmup {
        0 => 1.0,
        warmup => ((steps + 1) as f64 / warmup as f64).min(1.0),
    };
    training.rate.unwrap_or(first) * fall * warm
}

/// Puts dropout at the places that the recipe names.
fn put_dropout(engine: &Engine, program: &mut Program<f32>, dropout: &Dropout) -> Result<()> {
    let class = |name: &str| engine.weights.iter().find(|w| w.name == name).and_then(|w| w.class.clone());
    let sites = program.sites(&class);
    let rate_at = |labels: &[String], between: bool| match dropout {
        Dropout::None => 0.0,
        Dropout::Everywhere(rate) => {
            if between {
                *rate
            } else {
                0.0
            }
        }
        Dropout::ByName(list) => {
            let first = list.iter().find(|(pattern, _)| labels.iter().any(|l| glob::matches(pattern, l)));
            first.map_or(0.0, |(_, rate)| *rate)
        }
    };
    if let Dropout::ByName(list) = dropout {
        for (pattern, _) in list {
            if !sites.iter().any(|s| s.labels.iter().any(|l| glob::matches(pattern, l))) {
                let names: Vec<&str> = sites.iter().filter_map(|s| s.labels.first()).map(String::as_str).collect();
                return Err(Error::usage(format!(
                    "dropout \"{pattern}\" matches no place of the graph; the places are {}",
                    names.join(", ")
                )));
            }
        }
    }
    for site in &sites {
        let rate = rate_at(&site.labels, site.between);
        if rate > 0.0 {
            program.drop_out(site.slot, rate);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(rate: Option<f64>, decay: Option<Decay>, warmup: u64, optimizer: Optimizer) -> Training {
        Training {
            epochs: 4.0,
            rate,
            decay,
            warmup,
            optimizer,
            momentum: None,
            weight_decay: None,
            batch: None,
            clip: None,
            dropout: Dropout::None,
            patience: None,
            distil: None,
        }
    }

    /// Four epochs of ten steps.
    #[test]
    fn the_learning_rate_rises_and_falls_as_the_recipe_says() {
        let adam = Optimizer::Adam;
        for (training, steps, expected) in [
            (training(None, None, 0, adam), 35, 1e-3),
            (training(None, None, 0, Optimizer::Sgd), 35, 0.1),
            (training(Some(0.8), Some(Decay::Factor(0.5)), 0, adam), 9, 0.8),
            (training(Some(0.8), Some(Decay::Factor(0.5)), 0, adam), 25, 0.2),
            (training(Some(0.8), Some(Decay::Linear), 0, adam), 0, 0.8),
            (training(Some(0.8), Some(Decay::Linear), 0, adam), 30, 0.2),
            (training(Some(0.8), Some(Decay::Cosine), 0, adam), 20, 0.4),
            (training(Some(0.8), Some(Decay::Cosine), 0, adam), 40, 0.0),
            (training(Some(0.8), None, 8, adam), 0, 0.1),
            (training(Some(0.8), None, 8, adam), 6, 0.7),
            (training(Some(0.8), Some(Decay::Linear), 8, adam), 20, 0.4),
        ] {
            let rate = learning_rate(&training, steps, steps as usize / 10, 40);
            assert!((rate - expected).abs() < 1e-12, "{training:?} after {steps}: {rate}");
        }
    }
}
