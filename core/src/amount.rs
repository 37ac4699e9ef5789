//! How much a stage takes: a share, a count of weights, or a size. Shares are exact decimal numbers, never floats:
//! count = ⌊x·N + ½⌋ holds to the unit for every N below 2⁶³.

use std::fmt;

use crate::error::{Error, Result};

/// An amount as a recipe says it. Displays as the user wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Amount {
    /// What it means.
    pub quantity: Quantity,
    written: String,
}

/// The meaning of an [`Amount`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quantity {
    /// A share from 0 to 1 of the weights: `"80%"`, `0.8`.
    Share(Decimal),
    /// That many weights: `500`.
    Count(u64),
    /// A file of at most that many bytes: `"20MB"`.
    Bytes(u64),
    /// A file of the input's bytes divided by this, at least 1: `"4x"`.
    Ratio(Decimal),
}

/// An exact non-negative decimal number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decimal {
    /// What stands before the point.
    integer: u64,
    /// The digits after the point, each 0 to 9, no trailing zeros.
    fraction: Vec<u8>,
}
