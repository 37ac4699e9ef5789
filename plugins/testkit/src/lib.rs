//! Conformance suite for compression methods.
