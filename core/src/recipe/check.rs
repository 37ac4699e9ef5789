//! What must hold between the keys of a recipe.

use std::path::Path;

use super::data::Data;
use super::fields::Fields;
use super::stage::{Amounts, Evaluate, Metric, StageKind};
use super::training::Retrain;
use super::{ModelPaths, Recipe, Stage};
use crate::error::{Error, Result};

/// Refuses what contradicts itself.
pub(super) fn recipe(recipe: &Recipe, fields: &Fields<'_>) -> Result<()> {
    paths(recipe, fields)?;
    sizes(&recipe.stages, fields)?;
    for stage in &recipe.stages {
        data(recipe, stage).map_err(|sentence| at(fields, stage, sentence))?;
    }
    Ok(())
}

fn at(fields: &Fields<'_>, stage: &Stage, sentence: String) -> Error {
    fields.place.within(stage).error(stage.line, sentence)
}

/// No file is written over another one, as far as their names tell.
fn paths(recipe: &Recipe, fields: &Fields<'_>) -> Result<()> {
    let clash = |key: &str, path: &Path, other: &str| {
        let sentence =
            format!("\"{key}\" is the same file as \"{other}\", {}: give it a path of its own", path.display());
        Err(fields.error_at(key, sentence))
    };
    let written = [("output", &recipe.output), ("mask", &recipe.mask)];
    for (key, path) in written.iter().filter_map(|(key, path)| Some((*key, path.as_deref()?))) {
        if recipe.model.all().iter().any(|model| model == path) {
            return clash(key, path, "model");
        }
        let others = [("output", &recipe.output), ("evidence", &recipe.evidence)];
        for (other, other_path) in others.iter().filter_map(|(key, path)| Some((*key, path.as_deref()?))) {
            if key != other && path == other_path {
                return clash(key, path, other);
            }
        }
    }
    if let (Some(output), Some(from)) = (&recipe.output, &recipe.from)
        && output == from
    {
        return clash("output", output, "from");
    }
    if let (ModelPaths::Many(_), Some(output)) = (&recipe.model, &recipe.output)
        && output.extension().is_some_and(|e| e == "onnx" || e == "safetensors")
    {
        let sentence = format!(
            "\"output\" names a file, {}, and a list of models is written into a folder: give a folder's name",
            output.display()
        );
        return Err(fields.error_at("output", sentence));
    }
    Ok(())
}

/// At most one stage aims at a size, and nothing after it changes which weights are pruned.
fn sizes(stages: &[Stage], fields: &Fields<'_>) -> Result<()> {
    let is_size = |stage: &&Stage| match &stage.kind {
        StageKind::Method(m) => matches!(&m.amount, Some(Amounts::All(amount)) if amount.is_size()),
        _ => false,
    };
    let Some(sized) = stages.iter().find(is_size) else { return Ok(()) };
    // An evaluation changes no byte, so it may stand anywhere.
    let follows =
        |kind: &StageKind| matches!(kind, StageKind::Encode(_) | StageKind::Retrain(_) | StageKind::Evaluate(_));
    match stages[sized.number..].iter().find(|stage| !follows(&stage.kind)) {
        None => Ok(()),
        Some(stage) if is_size(&stage) => {
            Err(at(fields, stage, format!("stage {} already aims at a size: only one stage may", sized.number)))
        }
        Some(stage) => {
            let sentence =
                format!("stage {} aims at a size, so only encode, retrain and evaluate may follow it", sized.number);
            Err(at(fields, stage, sentence))
        }
    }
}

/// What the engine needs of `[data]`.
fn data(recipe: &Recipe, stage: &Stage) -> Result<(), String> {
    let need = |what: &str, has: fn(&Data) -> bool, key: &str| match &recipe.data {
        Some(data) if has(data) => Ok(()),
        _ => Err(format!("{what} needs \"{key}\" in [data]")),
    };
    match &stage.kind {
        StageKind::Measure(_) => need("measure", |d| d.train.is_some(), "train"),
        StageKind::Retrain(retrain) => retraining(retrain, need),
        StageKind::Method(m) => m.retrain.as_ref().map_or(Ok(()), |retrain| retraining(retrain, need)),
        StageKind::Evaluate(Evaluate::Metrics(metrics)) => {
            need("evaluate", |d| d.validation.is_some(), "validation")?;
            if metrics.iter().any(|m| *m != Metric::Bleu) {
                need("evaluate", |d| d.target.is_some(), "target")?;
            }
            match (&recipe.data, metrics.contains(&Metric::Bleu)) {
                (Some(Data { bleu: None, .. }), true) => Err("\"bleu\" needs the table [data.bleu]".into()),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn retraining(
    retrain: &Retrain,
    need: impl Fn(&str, fn(&Data) -> bool, &str) -> Result<(), String>,
) -> Result<(), String> {
    let Retrain::Engine(training) = retrain else { return Ok(()) };
    need("retrain", |d| d.train.is_some(), "train")?;
    need("retrain", |d| d.target.is_some(), "target")?;
    if training.patience.is_some() {
        need("\"patience\"", |d| d.validation.is_some(), "validation")?;
    }
    Ok(())
}
