//! Writes a model by splicing: the input's bytes, with some stretches replaced.
//!
//! - [`Edits`]: which stretches of the input are replaced by what, and the new lengths of the messages around them.
//! - [`Rewrite`]: a model on its way out. Payloads are written once, where they will lie if nothing changes its length.
//! - [`OnnxSink`]: what core gives tensors to; and a staged model, which a rename puts in place.

mod data;
mod edits;
mod packed;
mod rewrite;
mod sink;
mod staged;
#[cfg(test)]
mod tests;

pub use edits::{Edits, Segment};
pub use rewrite::Rewrite;
pub use sink::OnnxSink;
