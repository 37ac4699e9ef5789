//! Runs an ONNX graph forwards and backwards: evaluates, measures evidence, retrains.

pub mod bleu;
pub mod buffer;
pub mod data;
pub mod engine;
pub mod execute;
mod grams;
pub mod graph;
pub mod import;
pub mod kernels;
pub mod loss;
pub mod measure;
pub mod ops;
pub mod optimise;
pub mod probe;
pub mod products;
pub mod program;
pub mod real;
pub mod rewrite;
pub mod state;
pub mod step;
pub mod train;
pub mod translate;
pub mod value;
