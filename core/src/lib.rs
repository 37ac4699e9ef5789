//! What a compression run is: weight classes, selection, masks, recipe, plan, drive, report.
//!
//! Core knows no method, no file format and no command line. Methods reach it through [`registry`], formats through
//! the traits of [`format`].

pub mod amount;
pub mod class;
pub mod convert;
pub mod error;
pub mod evidence;
pub mod files;
pub mod format;
pub mod glob;
pub mod progress;
pub mod pump;
pub mod recipe;
pub mod report;
pub mod select;
pub mod stfile;
pub mod tensor;

pub use error::{Error, Result};
