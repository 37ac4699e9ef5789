//! What a method says when it cannot go on.

/// The text of a failure: WHAT is wrong and what would help. The host adds WHERE (stage, method, tensor).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error(pub String);

/// The result of a method's work.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// From any text.
    pub fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
