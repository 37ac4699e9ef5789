//! ONNX models: wire-level reading and writing, the graph as roles.

pub mod model;
pub mod wire;
