//! Temp files, locks and atomic replacement.
