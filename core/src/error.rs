//! Errors are one sentence for a reader: what is wrong, where, and the remedy. The place is added from outside in:
//! whoever knows the tensor, stage or file wraps with [`Error::at`].

use std::path::Path;

/// Result of whatever core does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run did not happen or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the recipe is wrong (exit status 2).
    #[error("{0}")]
    Usage(String),
    /// The run failed: bad input, full disk, a method that gave up (exit status 1).
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C (exit status 130).
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// A mistake in the command line or the recipe.
    pub fn usage(text: impl Into<String>) -> Error {
        Error::Usage(text.into())
    }

    /// A failure of the run.
    pub fn failed(text: impl Into<String>) -> Error {
        Error::Failed(text.into())
    }

    /// A failed file operation: `cannot <action> "<path>": <reason>`.
    pub fn io(action: &str, path: &Path, source: &std::io::Error) -> Error {
        Error::Failed(format!("cannot {action} \"{}\": {}", path.display(), reason(source)))
    }

    /// Puts the place before the sentence: `<place>: <sentence>`. A place that stands there already is not said twice.
    #[must_use]
    pub fn at(self, place: impl std::fmt::Display) -> Error {
        let place = format!("{place}: ");
        let placed = |text: String| if text.starts_with(&place) { text } else { place.clone() + &text };
        match self {
            Error::Usage(text) => Error::Usage(placed(text)),
            Error::Failed(text) => Error::Failed(placed(text)),
            Error::Interrupted => Error::Interrupted,
        }
    }

    /// The exit status of the command.
    pub fn status(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Failed(_) => 1,
            Error::Interrupted => 130,
        }
    }
}

fn reason(e: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::NotFound => "there is no such file or folder".into(),
        K::PermissionDenied => "permission denied".into(),
        K::StorageFull | K::QuotaExceeded => "the disk is full".into(),
        K::ReadOnlyFilesystem => "the file system is read-only".into(),
        K::UnexpectedEof => "the file ends too early (was it truncated while it was read?)".into(),
        _ => {
            let text = e.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_string()
        }
    }
}

/// The candidate nearest to `word`, if near enough to be meant: ` (did you mean "x"?)`, else empty.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(word, c), c))
        .min()
        .filter(|(d, c)| *d <= (c.chars().count().max(word.chars().count()) / 2).max(1))
        .map(|(_, c)| format!(" (did you mean \"{c}\"?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_said_once() {
        let error = Error::failed("it is too long").at("tensor \"w\"").at("tensor \"w\"").at("\"f.onnx\"");
        assert_eq!(error.to_string(), "\"f.onnx\": tensor \"w\": it is too long");
    }
}
