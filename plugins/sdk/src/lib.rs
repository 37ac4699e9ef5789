//! All that the author of a compression method imports.
//!
//! A method gives every weight a *score* (low = dispensable), or a new *encoding* of a part, or both. It never
//! decides how many weights go: the host does, and selects by the scores.

pub mod abi;
pub mod bitmap;
pub mod caller;
pub mod card;
pub mod contract;
pub mod easy;
pub mod encoding;
pub mod error;
pub mod evidence;
pub mod export;
pub mod hash;
pub mod host;
pub mod method;
pub mod options;
pub mod part;

pub use abi::Entry;
pub use bitmap::Bitmap;
pub use card::{Card, EvidenceKind, Need, OptionKind, OptionSpec, Reach, Units};
pub use encoding::{Encoding, Layout, Term};
pub use error::{Error, Result};
pub use evidence::{Array, Evidence};
pub use export::entry;
pub use method::{Encoded, Keep, Method};
pub use options::{OptionValue, Options};
pub use part::{Part, Scores};
