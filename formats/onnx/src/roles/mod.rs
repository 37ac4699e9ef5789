//! What each tensor is in the model, judged by the data flow: classes, gates, biases.
//!
//! 1. [`flow`]: sub-graphs and functions unfolded, names replaced by numbers.
//! 2. [`facts`]: on which inputs each value depends, what is constant.
//! 3. [`products`], [`recurrent`], [`attention`]: operations with weights. Weights are traced ([`trace`]) through what an
//!    exporter put between the file's tensor and the operation.
//! 4. [`classes`]: their classes. In a translation model (two inputs of ids, one of which goes through layers of its own)
//!    what depends on the first alone is *source*, the rest *target*. Where a name tells a layer's number and role it
//!    is believed, in the words of [`compress_core::class::names`], so that both formats agree.
//! 5. [`claims`]: uses become parts that tile the tensor. The first use in the data flow wins: a table that is also the
//!    softmax matrix is the embedding.

mod attention;
mod blocks;
mod claims;
mod classes;
mod facts;
mod flow;
mod naming;
mod products;
mod recurrent;
mod sequences;
mod trace;
mod vectors;

use compress_core::Result;
use compress_core::class::Roles;

use crate::list::{List, Site};
use crate::model::{Model, TensorRef};

/// The roles of all tensors of the list, and warnings.
pub(crate) fn of(model: &Model, list: &List) -> Result<(Roles, Vec<String>)> {
    let flow = flow::Flow::of(model, list);
    let facts = facts::Facts::of(&flow, list);
    let tensors: Vec<Option<&TensorRef>> = list
        .sites
        .iter()
        .map(|site| if let Site::Tensor(t) | Site::Pair(t, _) = site { Some(t) } else { None })
        .collect();
    let tracer = trace::Tracer::new(&flow, list, &tensors);
    let mut claims = claims::Claims::new(list.infos.len());
    let classes = classes::Classes::new(&flow, &facts, list, &tracer);
    classes.claim_weights(&tracer, &mut claims);
    vectors::claim(&classes, &flow, &facts, list, &mut claims);
    let roles = list.infos.iter().enumerate().map(|(id, info)| claims.role(id, info)).collect();
    Ok((Roles { tensors: roles }, Vec::new()))
}

#[cfg(test)]
mod tests;
