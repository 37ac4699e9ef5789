//! Runs an ONNX graph forwards and backwards: evaluates, measures evidence, retrains.
