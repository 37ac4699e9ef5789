//! The protobuf wire format: a reader over positioned reads and a writer of single fields.
//!
//! There is no schema here. What we do not understand is never decoded: the [`crate::writer`] copies it as the bytes
//! that it was, so that fields newer than our schema survive.

mod cursor;
mod encode;
mod input;

pub use cursor::{Cursor, Field, Value};
pub use encode::{Message, push_varint, varint_len};
pub use input::Input;

#[cfg(test)]
mod tests;
