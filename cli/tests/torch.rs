//! The scripts of examples/pytorch: evidence as the engine measures it, and a retraining by two processes of torchrun whose
//! masks hold. PyTorch is heavy, so it is named by `COMPRESS_TORCH`, a Python that has torch, safetensors and numpy.

use std::process::Command;

#[test]
fn torchrun_retrains_under_the_masks() {
    let Some(python) = std::env::var_os("COMPRESS_TORCH") else {
        eprintln!("skipped: COMPRESS_TORCH names no Python with PyTorch");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pytorch/test.sh");
    let done = Command::new("sh").arg(script).arg(python).arg(env!("CARGO_BIN_EXE_compress")).status();
    assert!(done.expect("sh runs").success());
}
