//! Runs an ONNX graph forwards and backwards: evaluates, measures evidence, retrains.

pub mod buffer;
pub mod graph;
pub mod kernels;
pub mod ops;
pub mod real;
pub mod value;
