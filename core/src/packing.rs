//! What each tensor becomes in the output: as it was, dense, or packed; and what all of it takes in bytes.
//!
//! An encode stage leaves a [`Coding`] with each tensor that it packs. A layout is decided from counts of the tensor's
//! bytes (a [`Survey`]); the counts are kept as long as no later stage changes the tensor, so that writing needs no
//! further pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::encode::pack::possible;
use crate::encode::survey::{Dense, Survey};
use crate::encode::{Fitted, Outline, PackedLayout, Pieces};
use crate::error::{Error, Result};
use crate::format::CreateOptions;
use crate::model::Model;
use crate::progress::Watch;
use crate::recipe::EncodeLayout;
use crate::tensor::TensorId;
use crate::weights::{Base, Weights};

pub mod encoder;
mod seen;

pub use encoder::{Encoded, Encoder, Outcome};
pub use seen::Stats;

/// How a tensor is to be written.
#[derive(Clone)]
pub struct Coding {
    /// What was asked for.
    pub layout: EncodeLayout,
    /// The coding of the values.
    pub fitted: Arc<Fitted>,
    /// Whether the coding leaves no weight zero that was not.
    pub keeps: bool,
    /// What was decided; `None` where a later stage has changed the tensor.
    pub decided: Option<Arc<Decided>>,
}

/// A layout, and the counts that it was decided by.
pub struct Decided {
    /// Dense, mask, deltas or rice.
    pub layout: PackedLayout,
    /// Counts of the bytes after the coding.
    pub survey: Survey,
}

impl Coding {
    /// Not packed.
    pub fn dense() -> Coding {
        Coding { layout: EncodeLayout::Dense, fitted: Arc::new(Fitted::Plain), keeps: true, decided: None }
    }

    fn is_dense(&self) -> bool {
        self.layout == EncodeLayout::Dense && *self.fitted == Fitted::Plain
    }
}

/// What a tensor becomes.
#[derive(Clone)]
pub enum Becomes {
    /// As the input has it, packed or not.
    Same,
    /// Dense bytes of its type.
    Dense,
    /// Packed in one term.
    Placed(Arc<Decided>, Arc<Fitted>, Outline),
    /// Packed as a sum of terms that are in memory.
    Terms(Held),
}

/// Terms in memory, of whoever has them.
#[derive(Clone)]
pub enum Held {
    /// A method's.
    Terms(Arc<crate::weights::Terms>),
    /// The model's, coded anew.
    Pieces(Arc<Pieces>),
}

impl Held {
    /// The arrays.
    pub fn pieces(&self) -> &Pieces {
        match self {
            Held::Terms(terms) => terms.pieces(),
            Held::Pieces(pieces) => pieces,
        }
    }
}

/// Overheads that were computed: by tensor, and by layout and coding.
type Overheads = BTreeMap<(TensorId, String), Result<i64, String>>;

/// Decides what tensors become in an output.
pub struct Packer<'a> {
    model: &'a Model,
    output: PathBuf,
    overheads: Mutex<Overheads>,
}

/// A layout that was chosen, or why none was.
pub type Choice = std::result::Result<(PackedLayout, Outline), String>;

impl<'a> Packer<'a> {
    /// For an output.
    pub fn new(model: &'a Model, output: &Path) -> Packer<'a> {
        Packer { model, output: output.to_path_buf(), overheads: Mutex::default() }
    }

    /// Where a source's model goes.
    pub fn target(&self, source: usize) -> PathBuf {
        match self.model.sources() {
            [_] => self.output.clone(),
            _ => {
                let path = &self.model.paths()[source];
                self.output.join(path.file_name().unwrap_or(path.as_os_str()))
            }
        }
    }

    /// Bytes in the output of a tensor that is packed so, names and operators included; an error where the format
    /// cannot store it. Those of a dense one are its dense bytes.
    pub fn cost(&self, id: TensorId, outline: &Outline) -> std::result::Result<u64, String> {
        let key = (id, outline.describe());
        let known = self.overheads.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
        let overhead = known.unwrap_or_else(|| {
            let (source, inner) = self.model.origin(id);
            let made = self.model.sources()[source].overhead(inner, outline, &self.target(source));
            let made = made.map_err(|e| e.to_string());
            self.overheads.lock().unwrap_or_else(|e| e.into_inner()).insert(key, made.clone());
            made
        })?;
        Ok(outline.bytes().saturating_add_signed(overhead))
    }

    /// The smallest layout that is asked for; why not, where the tensor is better left dense.
    pub fn choose(
        &self,
        id: TensorId,
        dense: &dyn Dense,
        survey: &Survey,
        fitted: &Fitted,
        asked: EncodeLayout,
    ) -> Choice {
        let plain = dense.elements() * dense.width() as u64;
        let mut refusal = None;
        let mut best: Option<(u64, PackedLayout, Outline)> = None;
        for outline in possible(dense, survey, fitted) {
            let layout = outline.terms[0].layout;
            let is_dense = layout == PackedLayout::Dense;
            if (is_dense && *fitted == Fitted::Plain) || (asked == EncodeLayout::Dense && !is_dense) {
                continue;
            }
            match self.cost(id, &outline) {
                Ok(bytes) if best.as_ref().is_none_or(|(least, ..)| bytes < *least) => {
                    best = Some((bytes, layout, outline));
                }
                Ok(_) => {}
                Err(reason) => refusal = Some(reason),
            }
        }
        match best {
            Some((bytes, layout, outline)) if bytes < plain => Ok((layout, outline)),
            Some((bytes, ..)) => Err(format!("packed it would take {bytes} bytes, dense it takes {plain}")),
            None => Err(refusal.unwrap_or_else(|| format!("no packed form is smaller than its {plain} dense bytes"))),
        }
    }

    /// What a tensor becomes.
    pub fn becomes(&self, weights: &Weights<'_>, id: TensorId, watch: Watch<'_>) -> Result<Becomes> {
        let state = &weights.tensors[id];
        if let Some(coding) = &state.coding {
            return self.placed(weights, id, coding, watch);
        }
        let info = &self.model.tensors()[id];
        let held = |held: Held| {
            let outline = held.pieces().outline();
            let bytes = self.cost(id, outline).map_err(|e| Error::failed(e).at(format!("\"{}\"", info.name)))?;
            // Never larger than dense.
            Ok(if bytes < info.dense_bytes() { Becomes::Terms(held) } else { Becomes::Dense })
        };
        let (source, inner) = self.model.origin(id);
        let was_packed = self.model.sources()[source].packed(inner).is_some();
        match &state.base {
            Base::Terms(terms) => held(Held::Terms(terms.clone())),
            Base::Pieces(pieces) => held(Held::Pieces(pieces.clone())),
            _ if weights.is_unchanged(id) => Ok(Becomes::Same),
            // What was packed and has lost weights is packed again, in the coding that it had.
            Base::Model | Base::File(..) if was_packed => {
                let fitted = match weights.decoder(id) {
                    Some(decoder) => decoder.fitted().map_err(|e| e.at(format!("\"{}\"", info.name)))?,
                    None => None,
                };
                let fitted = Arc::new(fitted.unwrap_or(Fitted::Plain));
                let coding = Coding { layout: EncodeLayout::Auto, fitted, keeps: true, decided: None };
                self.placed(weights, id, &coding, watch)
            }
            Base::Model | Base::File(..) => Ok(Becomes::Dense),
        }
    }

    fn placed(&self, weights: &Weights<'_>, id: TensorId, coding: &Coding, watch: Watch<'_>) -> Result<Becomes> {
        if coding.is_dense() {
            return Ok(Becomes::Dense);
        }
        let dense = weights.dense(id);
        let fitted = &coding.fitted;
        if let Some(decided) = &coding.decided {
            let info = &self.model.tensors()[id];
            let outline =
                crate::encode::pack::outline(&info.dtype, &info.shape, &decided.survey, decided.layout, fitted);
            return Ok(Becomes::Placed(decided.clone(), fitted.clone(), outline));
        }
        let survey = Survey::of(&dense, watch)?;
        Ok(match self.choose(id, &dense, &survey, fitted, coding.layout) {
            Ok((layout, outline)) => Becomes::Placed(Arc::new(Decided { layout, survey }), fitted.clone(), outline),
            Err(_) => Becomes::Dense,
        })
    }
}

/// The output as a whole.
pub struct Outlook {
    /// What each tensor becomes.
    pub becomes: Vec<Becomes>,
    /// What the formats are told, one a source.
    pub options: Vec<CreateOptions>,
    /// All bytes of the output.
    pub bytes: u64,
    /// Bytes of each tensor, without names and operators.
    pub tensors: Vec<u64>,
}

impl Outlook {
    /// Of the weights as they stand.
    pub fn of(packer: &Packer<'_>, weights: &Weights<'_>, like: &CreateOptions, watch: Watch<'_>) -> Result<Outlook> {
        let model = weights.model;
        let becomes =
            (0..model.tensors().len()).map(|id| packer.becomes(weights, id, watch)).collect::<Result<Vec<_>>>()?;
        let packed = Outlook::with(packer, becomes, like)?;
        // What is packed brings a few bytes along that are no tensor's own; of tiny models they would be all.
        if packed.becomes.iter().any(|b| matches!(b, Becomes::Placed(..))) && packed.bytes < SMALL {
            let plain = |b: &Becomes| if matches!(b, Becomes::Placed(..)) { Becomes::Dense } else { b.clone() };
            let dense = Outlook::with(packer, packed.becomes.iter().map(plain).collect(), like)?;
            if dense.bytes <= packed.bytes {
                return Ok(dense);
            }
        }
        Ok(packed)
    }

    fn with(packer: &Packer<'_>, becomes: Vec<Becomes>, like: &CreateOptions) -> Result<Outlook> {
        let model = packer.model;
        let mut options = vec![like.clone(); model.sources().len()];
        let mut tensors = Vec::with_capacity(becomes.len());
        for (id, (becomes, info)) in becomes.iter().zip(model.tensors()).enumerate() {
            let (source, inner) = model.origin(id);
            let outline = match becomes {
                Becomes::Same => {
                    tensors.push(info.stored_bytes);
                    continue;
                }
                Becomes::Dense => {
                    options[source].dense.insert(inner);
                    tensors.push(info.dense_bytes());
                    continue;
                }
                Becomes::Placed(_, _, outline) => outline,
                Becomes::Terms(held) => held.pieces().outline(),
            };
            tensors.push(outline.bytes());
            options[source].outlines.insert(inner, outline.clone());
        }
        let mut bytes = 0;
        for (index, (source, options)) in model.sources().iter().zip(&mut options).enumerate() {
            let target = packer.target(index);
            options.expected_bytes = Some(source.predict(&target, options)?);
            bytes += source.predict(&target, options)?;
        }
        Ok(Outlook { becomes, options, bytes, tensors })
    }
}

/// Models below this many bytes are checked to be smaller packed than dense.
const SMALL: u64 = 1 << 20;
