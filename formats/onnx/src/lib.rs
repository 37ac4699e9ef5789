//! ONNX models: wire-level reading and writing, the graph as roles.
