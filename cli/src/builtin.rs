//! The methods and formats that are built in. They come through the same doors as any other.

use std::sync::Arc;

use compress_core::error::Result;
use compress_core::format::Format;
use compress_core::registry::{Listener, Registry};

/// All formats.
pub fn formats() -> [&'static dyn Format; 2] {
    [&compress_onnx::Onnx, &compress_safetensors::Safetensors]
}

/// All built-in methods.
pub fn registry(listener: Arc<dyn Listener>) -> Result<Registry> {
    let mut registry = Registry::new().listened(listener);
    let entries: &[&compress_sdk::Entry] = &[
        &compress_magnitude::ENTRY,
        &compress_obd::ENTRY,
        &compress_obs::ENTRY,
        &compress_activation_aware::ENTRY,
        &compress_low_rank::ENTRY,
        &compress_hashing::ENTRY,
        &compress_random::ENTRY,
    ];
    for entry in entries {
        registry.add_builtin(entry)?;
    }
    Ok(registry)
}

/// What runs ONNX graphs.
pub fn engine() -> Option<&'static dyn compress_core::engine::Engine> {
    Some(&crate::graph::Graphs)
}
