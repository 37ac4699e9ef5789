//! Tests of the engine from outside, one module a subject. One binary: the kernels are generic, and each binary would
//! compile them anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod dates;
mod digits;
mod evidence;
mod fixtures;
mod gradients;
mod nmt;
mod node_tests;
mod operators;
mod plan;
