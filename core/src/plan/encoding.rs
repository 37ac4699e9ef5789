//! Stages whose method encodes parts anew: what each needs, and what can be refused before anything runs.

use std::sync::Arc;

use compress_sdk::{OptionValue, Options};

use super::{Plan, PruneWork, Setup, Work};
use crate::class::resolve::ClassMap;
use crate::error::{Error, Result};
use crate::evidence::EvidenceFile;
use crate::format::PackedLayout;
use crate::model::Model;
use crate::population::places;
use crate::recipe::{MethodStage, Pattern};
use crate::registry::Registered;
use crate::tensor::TensorId;
use crate::weights::PartPlace;

/// A stage whose method encodes parts anew.
pub struct EncodeWork<'a> {
    /// The stage as written.
    pub stage: &'a MethodStage,
    /// The method.
    pub method: &'a Registered,
    /// Its options, checked.
    pub options: Options,
    /// Evidence for it.
    pub evidence: Option<Arc<EvidenceFile>>,
    /// Parts that it works on.
    pub parts: Vec<usize>,
    /// Who says which weights go.
    pub choice: Choice<'a>,
}

/// Who says which weights go in a stage that encodes.
pub enum Choice<'a> {
    /// Nobody: weights that are pruned stay so, no more are.
    Nobody,
    /// Core, by the method's own scores.
    Core(PruneWork<'a>),
    /// The method, as many of each part as core takes by the scores of another one.
    Method(PruneWork<'a>),
}

impl<'a> Choice<'a> {
    /// The selection that core makes.
    pub fn pruning(&self) -> Option<&PruneWork<'a>> {
        match self {
            Choice::Nobody => None,
            Choice::Core(work) | Choice::Method(work) => Some(work),
        }
    }
}

/// What a method is given at once: a part, or all parts of a tensor as the one matrix that they tile.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Indices into [`ClassMap::parts`].
    pub parts: Vec<usize>,
    /// Where it lies.
    pub place: PartPlace,
}

/// The method whose scores give a method that selects its counts, where the stage names none.
const ALLOCATE: &str = "magnitude";

impl<'a> Plan<'a> {
    /// Plans a stage whose method encodes.
    pub(super) fn encoding(
        &self,
        setup: &Setup<'a>,
        stage: &'a MethodStage,
        method: &'a Registered,
    ) -> Result<Work<'a>> {
        let card = method.card();
        let options = method.check_options(&stage.options)?;
        let parts = self.map.select(&stage.classes)?;
        self.refuse_packed_sums(&parts, stage.residual)?;
        let evidence = self.evidence(method, &options, &parts)?;
        let choice = match (card.selects, card.scores) {
            (true, _) => Choice::Method(self.allocation(setup, stage, &options, &parts)?),
            (false, true) => {
                self.check_amount(stage, &parts)?;
                let (options, parts, evidence) = (options.clone(), parts.clone(), evidence.clone());
                Choice::Core(PruneWork { stage, method, options, evidence, parts })
            }
            (false, false) => {
                refuse_selection(stage, &card.name)?;
                Choice::Nobody
            }
        };
        if !card.selects {
            matrices(&self.model, &self.map, &parts).map_err(|e| e.at(format!("\"{}\"", card.name)))?;
        }
        Ok(Work::Encode(EncodeWork { stage, method, options, evidence, parts, choice }))
    }

    /// The pruning whose counts a method that selects is given as quotas.
    fn allocation(
        &self,
        setup: &Setup<'a>,
        stage: &'a MethodStage,
        options: &Options,
        parts: &[usize],
    ) -> Result<PruneWork<'a>> {
        if !matches!(stage.pattern, Pattern::Free | Pattern::NofM { .. }) {
            return Err(Error::usage(format!(
                "\"{}\" chooses weights one by one or n of each m, not by the pattern \"{}\"",
                stage.method, stage.pattern
            )));
        }
        self.check_amount(stage, parts)?;
        let name = match options.get("allocate") {
            Some(OptionValue::Text(name)) => name.as_str(),
            _ => ALLOCATE,
        };
        let method = setup.registry.get(name).map_err(|e| e.at("option \"allocate\""))?;
        let card = method.card();
        if !card.scores || card.selects {
            return Err(Error::usage(format!(
                "option \"allocate\": \"{name}\" gives no scores; name a method that scores weights, such as \
                 \"{ALLOCATE}\""
            )));
        }
        let options = method.check_options(&toml::Table::new())?;
        let evidence = self.evidence(method, &options, parts).map_err(|e| e.at("option \"allocate\""))?;
        Ok(PruneWork { stage, method, options, evidence, parts: parts.to_vec() })
    }

    /// Refuses parts that the model has factored or hashed already.
    pub(super) fn refuse_packed_sums(&self, parts: &[usize], residual: bool) -> Result<()> {
        for part in parts {
            let tensor = self.map.parts[*part].tensor;
            let Some(layout) = packed_sum(&self.model, tensor) else { continue };
            let name = &self.model.tensors()[tensor].name;
            return Err(Error::usage(if residual {
                format!(
                    "residual: the model has \"{name}\" in {} form only, and not the weights that this stands for; take \
                     the model from before that",
                    layout.name()
                )
            } else {
                format!(
                    "the model has \"{name}\" in {} form already, which no method can change; leave it out by \
                     \"classes\", or take the model from before that",
                    layout.name()
                )
            }));
        }
        Ok(())
    }
}

/// The layout of a tensor that is factored or hashed in the model.
pub fn packed_sum(model: &Model, tensor: TensorId) -> Option<PackedLayout> {
    let (source, inner) = model.origin(tensor);
    let layout = model.sources()[source].packed(inner)?;
    (!layout.is_placed()).then_some(layout)
}

/// A method that gives no scores prunes nothing: keys that say what to prune would be without effect.
fn refuse_selection(stage: &MethodStage, name: &str) -> Result<()> {
    let key = match stage {
        MethodStage { amount: Some(_), .. } => "amount",
        MethodStage { pattern, .. } if *pattern != Pattern::Free => "pattern",
        MethodStage { allow_empty, .. } if !allow_empty.is_empty() => "allow_empty",
        _ => return Ok(()),
    };
    Err(Error::usage(format!(
        "\"{key}\" has no effect: \"{name}\" encodes whole parts and prunes nothing; leave it out, and say how far to \
         go by the method's options"
    )))
}

/// Each part as a matrix of its own.
pub fn part_matrices(model: &Model, map: &ClassMap, parts: &[usize]) -> Vec<Matrix> {
    let places = places(model, map, parts);
    parts.iter().zip(places).map(|(part, place)| Matrix { parts: vec![*part], place }).collect()
}

/// The tensors of these parts, each as one matrix: an encoding is of a tensor as a whole.
pub fn matrices(model: &Model, map: &ClassMap, parts: &[usize]) -> Result<Vec<Matrix>> {
    let mut tensors: Vec<TensorId> = parts.iter().map(|p| map.parts[*p].tensor).collect();
    tensors.dedup();
    tensors.into_iter().map(|tensor| matrix(model, map, tensor, parts)).collect()
}

fn matrix(model: &Model, map: &ClassMap, tensor: TensorId, parts: &[usize]) -> Result<Matrix> {
    let all: Vec<usize> = map.part_range(tensor).collect();
    let info = &model.tensors()[tensor];
    if let Some(missing) = all.iter().find(|p| parts.binary_search(p).is_err()) {
        return Err(Error::usage(format!(
            "\"{}\" is encoded as a whole, but the stage's classes leave out its part \"{}\"; name all of its parts or none",
            info.name, map.parts[*missing].name
        )));
    }
    let places = places(model, map, &all);
    let mut whole = places[0].clone();
    for next in &places[1..] {
        let follows = next.offset == whole.offset + whole.len() && next.column_major == whole.column_major;
        let grown = match whole.column_major {
            false if next.cols == whole.cols => (whole.rows + next.rows, whole.cols),
            true if next.rows == whole.rows => (whole.rows, whole.cols + next.cols),
            _ => (0, 0),
        };
        if !follows || grown == (0, 0) {
            whole.rows = 0;
            break;
        }
        (whole.rows, whole.cols) = grown;
    }
    if whole.len() != info.elements {
        return Err(Error::usage(format!(
            "\"{}\" {:?} is encoded as a whole, but its parts do not make one matrix; leave it out by \"classes\"",
            info.name, info.shape
        )));
    }
    if all.len() > 1 {
        whole.name = whole.tensor_name.clone();
    }
    Ok(Matrix { parts: all, place: whole })
}

impl EncodeWork<'_> {
    pub(super) fn describe(&self, plan: &Plan<'_>) -> String {
        let part = |p: &usize| &plan.map.parts[*p];
        let weights: u64 = self.parts.iter().map(|p| part(p).spec.weights()).sum();
        let mut text = match &self.choice {
            Choice::Nobody => format!("encodes {weights} weights anew, whole tensors at a time"),
            Choice::Core(work) => format!("{}, and encodes the rest anew", work.target(plan)),
            Choice::Method(work) => format!(
                "{}, as many of each part as {} takes; chooses within the part and corrects the rest",
                work.target(plan),
                work.method.card().name
            ),
        };
        if self.stage.residual && matches!(self.choice, Choice::Nobody) {
            text += "; of those that are factored or hashed, what they lack, as a further term";
        }
        let largest = |by: &dyn Fn(&usize) -> u64| {
            let mut sums = std::collections::BTreeMap::<u64, u64>::new();
            self.parts.iter().for_each(|p| *sums.entry(by(p)).or_default() += part(p).spec.weights());
            sums.into_values().max().unwrap_or(0)
        };
        let largest = match &self.choice {
            Choice::Method(_) => largest(&|p| *p as u64),
            _ => largest(&|p| part(p).tensor as u64),
        };
        text + &format!("; sees whole parts, so at least {} MB of memory a thread", largest * 16 / 1_000_000)
    }
}
