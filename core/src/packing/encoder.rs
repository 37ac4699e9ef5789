//! An encode stage: each of its tensors is given a coding, and is afterwards what it will be when it is read again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::seen::{Change, Seen, Stats};
use super::{Coding, Decided, Packer};
use crate::class::resolve::ClassMap;
use crate::encode::fit::fit;
use crate::encode::survey::{Dense, Survey};
use crate::encode::{Fitted, PackedLayout, Pieces, ValueCoding, terms};
use crate::error::Result;
use crate::format::BLOCK_BYTES;
use crate::ordered::try_map;
use crate::population::BLOCK_WEIGHTS;
use crate::progress::{Silent, Unit, Watch};
use crate::recipe::{EncodeLayout, EncodeStage, EncodeValues};
use crate::tensor::{Dtype, TensorId};
use crate::weights::{Base, Rule, TensorState, Weights};

/// What an encode stage works with.
pub struct Encoder<'a> {
    /// The weights before the stage.
    pub weights: &'a Weights<'a>,
    /// The classes.
    pub map: &'a ClassMap,
    /// Tensors whose zeros are held: a lossy coding makes no further ones there.
    pub held: &'a BTreeSet<TensorId>,
    /// What the output's format can store.
    pub packer: &'a Packer<'a>,
    /// Progress and cancellation.
    pub watch: Watch<'a>,
}

/// Bytes by which names and operators of a mask might exceed those of another sparse layout.
const MASK_MARGIN: u64 = 1 << 13;

/// A tensor after the stage.
pub struct Encoded {
    /// Which one.
    pub tensor: TensorId,
    /// Its new state; `None` where it stays as it was.
    pub state: Option<TensorState>,
    /// What happened.
    pub outcome: Outcome,
    /// What was seen of each of its parts.
    pub parts: Vec<Stats>,
}

/// What an encode stage did to a tensor.
pub enum Outcome {
    /// It is packed: how, and in how many bytes without names and operators.
    Packed(String, u64),
    /// It is dense, and was packed in the input or by an earlier stage.
    Unpacked,
    /// Nothing, and why.
    Left(String),
}

/// A coding that is asked for.
enum Values {
    /// One that the tensor's values are written in already, or that changes none of them.
    Exact(Arc<Fitted>),
    /// One that is fitted to them.
    Fit(ValueCoding),
}

/// The value coding of a recipe; `None` = as they are.
pub fn value_coding(values: EncodeValues) -> Option<ValueCoding> {
    match values {
        EncodeValues::AsTheyAre => None,
        EncodeValues::F32 => Some(ValueCoding::Plain),
        EncodeValues::F16 => Some(ValueCoding::F16),
        EncodeValues::Bf16 => Some(ValueCoding::Bf16),
        EncodeValues::Int8 => Some(ValueCoding::Int8),
        EncodeValues::Codebook(bits) => Some(ValueCoding::Codebook(bits)),
    }
}

impl Encoder<'_> {
    /// Does the stage for these tensors.
    pub fn run(&self, stage: &EncodeStage, tensors: &[TensorId]) -> Result<Vec<Encoded>> {
        let infos = self.weights.model.tensors();
        self.watch.progress.begin("encoding", tensors.iter().map(|t| infos[*t].dense_bytes()).sum(), Unit::Bytes);
        let one = |id: &TensorId| self.tensor(stage, *id).map_err(|e| e.at(format!("\"{}\"", infos[*id].name)));
        let done = match stage.values {
            // One histogram at a time: it is large.
            EncodeValues::Codebook(_) => tensors.iter().map(one).collect::<Result<Vec<_>>>(),
            _ => try_map(tensors, one),
        };
        self.watch.progress.end();
        done
    }

    fn tensor(&self, stage: &EncodeStage, id: TensorId) -> Result<Encoded> {
        let (weights, state) = (self.weights, &self.weights.tensors[id]);
        let asked = value_coding(stage.values);
        if stage.layout != EncodeLayout::Dense && state.coding.is_none() {
            if let Some(terms) = weights.terms(id) {
                let Some(values) = asked.filter(|v| *v != terms.values()) else {
                    return self.left(id, format!("it is {} already", terms.pieces().outline().describe()));
                };
                let recoded = terms.recoded(values)?;
                let (how, bytes) = (recoded.pieces().outline().describe(), recoded.pieces().outline().bytes());
                return self.sum(id, TensorState::new(Base::Terms(Arc::new(recoded))), how, bytes);
            }
            if let Some(decoder) = weights.decoder(id).filter(|d| !d.is_placed() && state.rules.is_empty()) {
                let coded = |v: &ValueCoding| decoder.outline().terms.iter().all(|t| t.values == *v);
                let Some(values) = asked.filter(|v| !coded(v)) else {
                    return self.left(id, format!("it is {} already", decoder.outline().describe()));
                };
                let pieces = Pieces::of(&terms::recode(decoder, values)?)?;
                let (how, bytes) = (pieces.outline().describe(), pieces.outline().bytes());
                return self.sum(id, TensorState::new(Base::Pieces(Arc::new(pieces))), how, bytes);
            }
        }
        match self.values(stage, id)? {
            Values::Exact(fitted) => self.exact(stage.layout, id, fitted),
            Values::Fit(values) => self.lossy(stage.layout, id, values),
        }
    }

    /// A tensor that stays as it was.
    fn left(&self, id: TensorId, reason: String) -> Result<Encoded> {
        Ok(Encoded { tensor: id, state: None, outcome: Outcome::Left(reason), parts: self.count(id)? })
    }

    fn count(&self, id: TensorId) -> Result<Vec<Stats>> {
        let dense = self.weights.dense(id);
        let seen = Seen::new(&dense, Change::None, self.map.parts_of(id));
        Survey::of(&seen, self.quietly())?;
        Ok(seen.stats())
    }

    /// For passes beside the one that is shown.
    fn quietly(&self) -> Watch<'_> {
        Watch { progress: &Silent, ..self.watch }
    }

    /// A sum of terms whose values were coded anew.
    fn sum(&self, id: TensorId, state: TensorState, how: String, bytes: u64) -> Result<Encoded> {
        let mut after = self.weights.clone();
        after.tensors[id] = state.clone();
        let (old, new) = (self.weights.dense(id), after.dense(id));
        let seen = Seen::new(&old, Change::Other(&new), self.map.parts_of(id));
        Survey::of(&seen, self.watch)?;
        Ok(Encoded { tensor: id, state: Some(state), outcome: Outcome::Packed(how, bytes), parts: seen.stats() })
    }

    /// The coding that the stage asks for.
    fn values(&self, stage: &EncodeStage, id: TensorId) -> Result<Values> {
        let dtype = &self.weights.model.tensors()[id].dtype;
        let plain = || Values::Exact(Arc::new(Fitted::Plain));
        let present = || -> Result<Option<Arc<Fitted>>> {
            let state = &self.weights.tensors[id];
            match (&state.coding, self.weights.decoder(id)) {
                (Some(coding), _) => Ok(Some(coding.fitted.clone())),
                (None, Some(decoder)) => Ok(decoder.fitted()?.map(Arc::new)),
                (None, None) => Ok(None),
            }
        };
        Ok(match (value_coding(stage.values), dtype) {
            (None, _) if stage.layout == EncodeLayout::Dense => plain(),
            (None, _) => present()?.map_or_else(plain, Values::Exact),
            (Some(ValueCoding::Plain), _) => plain(),
            (Some(ValueCoding::F16), Dtype::F16) | (Some(ValueCoding::Bf16), Dtype::Bf16) => plain(),
            // What is written so already loses nothing more.
            (Some(values), _) => match present()?.filter(|f| f.coding() == values) {
                Some(fitted) => Values::Exact(fitted),
                None => Values::Fit(values),
            },
        })
    }

    fn exact(&self, layout: EncodeLayout, id: TensorId, fitted: Arc<Fitted>) -> Result<Encoded> {
        let state = &self.weights.tensors[id];
        let (source, inner) = self.weights.model.origin(id);
        let was_packed = self.weights.model.sources()[source].packed(inner).is_some()
            || self.weights.terms(id).is_some()
            || state.coding.as_ref().is_some_and(|c| !c.is_dense());
        if layout == EncodeLayout::Dense && *fitted == Fitted::Plain {
            self.watch.tick(self.weights.model.tensors()[id].dense_bytes())?;
            if !was_packed {
                return self.left(id, "it is dense already".into());
            }
            let mut after = state.clone();
            after.coding = Some(Coding::dense());
            return Ok(Encoded { tensor: id, state: Some(after), outcome: Outcome::Unpacked, parts: self.count(id)? });
        }
        let dense = self.weights.dense(id);
        let (survey, parts) = match self.counted(id, &fitted) {
            Some(counted) => {
                self.watch.tick(self.weights.model.tensors()[id].dense_bytes())?;
                counted
            }
            None => {
                let seen = Seen::new(&dense, Change::None, self.map.parts_of(id));
                (Survey::of(&seen, self.watch)?, seen.stats())
            }
        };
        let mut after = state.clone();
        let keeps = true;
        if *fitted != Fitted::Plain && !matches!(state.rules.last(), Some(Rule::Coded(f, _)) if Arc::ptr_eq(f, &fitted))
        {
            after.rules.push(Rule::Coded(fitted.clone(), keeps));
        }
        match self.packer.choose(id, &dense, &survey, &fitted, layout) {
            Ok((chosen, outline)) => {
                let how = outline.describe();
                if self.weights.is_unchanged(id) && self.weights.decoder(id).is_some_and(|d| *d.outline() == outline) {
                    return self.left(id, format!("it is {how} already"));
                }
                let decided = Some(Arc::new(Decided { layout: chosen, survey }));
                after.coding = Some(Coding { layout, fitted, keeps, decided });
                let outcome = Outcome::Packed(fallback(how, layout, chosen), outline.bytes());
                Ok(Encoded { tensor: id, state: Some(after), outcome, parts })
            }
            Err(_) if was_packed => {
                after.coding = Some(Coding::dense());
                Ok(Encoded { tensor: id, state: Some(after), outcome: Outcome::Unpacked, parts })
            }
            Err(reason) => Ok(Encoded { tensor: id, state: None, outcome: Outcome::Left(reason), parts }),
        }
    }

    /// The counts that pruning has left, where they say enough: of a tensor that keeps so much that a mask is certainly
    /// smaller than deltas of a byte each. A Rice code is smaller still, by up to 9 % of an f32 tensor of which an eighth is
    /// kept and 7 % of a 16-bit one of which 3 in 16 are, less where more are; it needs a pass of its own, which takes longer
    /// than all else, and is not looked for.
    fn counted(&self, id: TensorId, fitted: &Fitted) -> Option<(Survey, Vec<Stats>)> {
        let info = &self.weights.model.tensors()[id];
        let width = info.dtype.float_bytes().filter(|width| matches!(width, 2 | 4))?;
        let pruned = self.weights.tensors[id].pruned_blocks()?;
        if *fitted != Fitted::Plain || self.map.parts_of(id).len() != 1 {
            return None;
        }
        let block = (BLOCK_BYTES / width) as u64;
        let starts = (0..info.elements).step_by(block as usize);
        let gone = pruned.chunks((block / BLOCK_WEIGHTS) as usize).map(|run| run.iter().sum::<u64>());
        let survey = Survey::of_kept(block, starts.zip(gone).map(|(at, gone)| block.min(info.elements - at) - gone));
        let zeros = info.elements - survey.kept();
        let least = if width == 4 { 2 } else { 3 };
        let certain = survey.kept() * 16 >= info.elements * least + 16 * MASK_MARGIN;
        certain.then(|| (survey, vec![Stats { zeros, ..Stats::default() }]))
    }

    fn lossy(&self, layout: EncodeLayout, id: TensorId, values: ValueCoding) -> Result<Encoded> {
        let dense = self.weights.dense(id);
        let sparse = match layout {
            EncodeLayout::Dense => false,
            EncodeLayout::Sparse => true,
            EncodeLayout::Auto => {
                let kept = Survey::of(&dense, self.quietly())?.kept();
                let bits = values.bits(dense.dtype());
                kept * bits + dense.elements() < dense.elements() * bits
            }
        };
        let fitted = fit(&dense, values, sparse, self.quietly())?;
        let keeps = sparse || self.held.contains(&id);
        let seen = Seen::new(&dense, Change::Coded(&fitted, keeps), self.map.parts_of(id));
        let survey = Survey::of(&seen, self.watch)?;
        let parts = seen.stats();
        match self.packer.choose(id, &dense, &survey, &fitted, layout) {
            Ok((chosen, outline)) => {
                let fitted = Arc::new(fitted);
                let mut state = self.weights.tensors[id].clone();
                state.rules.push(Rule::Coded(fitted.clone(), keeps));
                let decided = Some(Arc::new(Decided { layout: chosen, survey }));
                state.coding = Some(Coding { layout, fitted, keeps, decided });
                let outcome = Outcome::Packed(fallback(outline.describe(), layout, chosen), outline.bytes());
                Ok(Encoded { tensor: id, state: Some(state), outcome, parts })
            }
            Err(reason) => self.left(id, reason),
        }
    }

    /// The tensor's coding after its values have changed: the same request, fitted anew.
    pub fn again(&self, id: TensorId, coding: &Coding) -> Result<TensorState> {
        let mut state = self.weights.tensors[id].clone();
        let sparse = coding.decided.as_ref().is_none_or(|d| d.layout != PackedLayout::Dense);
        let fitted = fit(&self.weights.dense(id), coding.fitted.coding(), sparse, self.watch)?;
        let fitted = Arc::new(fitted);
        if *fitted != Fitted::Plain {
            state.rules.push(Rule::Coded(fitted.clone(), coding.keeps));
        }
        state.coding = Some(Coding { layout: coding.layout, fitted, keeps: coding.keeps, decided: None });
        Ok(state)
    }
}

/// How a tensor is packed; where sparse was asked for and dense is smaller, that is said.
fn fallback(how: String, asked: EncodeLayout, chosen: PackedLayout) -> String {
    match (asked, chosen) {
        (EncodeLayout::Sparse, PackedLayout::Dense) => format!("{how}, as sparse would not be smaller"),
        _ => how,
    }
}
