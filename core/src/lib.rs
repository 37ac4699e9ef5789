//! What a compression run is: weight classes, selection, masks, recipe, plan, drive, report.
//!
//! Core knows no method, no file format and no command line. Methods reach it through [`registry`], formats through
//! the traits of [`format`].

pub mod amount;
pub mod bleu;
pub mod class;
pub mod compare;
pub mod convert;
pub mod decompress;
pub mod drive;
pub mod encode;
pub mod engine;
pub mod error;
pub mod evidence;
pub mod external;
pub mod files;
pub mod format;
pub mod glob;
pub mod hash;
pub mod inspect;
pub mod mask;
pub mod model;
pub mod ordered;
pub mod output;
pub mod packing;
pub mod parameters;
pub mod pattern;
pub mod plan;
pub mod population;
pub mod progress;
pub mod prune;
pub mod pump;
pub mod recipe;
pub mod reencode;
pub mod registry;
pub mod report;
pub mod select;
pub mod simd;
pub mod spool;
pub mod state;
pub mod stfile;
pub mod tensor;
pub mod unreached;
pub mod weights;

pub use error::{Error, Result};
