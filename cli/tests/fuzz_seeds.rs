//! The seeds of the fuzz targets, replayed: none may panic.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/").to_string() + target;
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).expect("the seeds are there") {
        let path = entry.expect("the folder can be read").path();
        body(&std::fs::read(&path).expect("a seed can be read"));
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds in {folder}");
}

#[test]
fn onnx() {
    replay("onnx", bodies::onnx);
}

#[test]
fn safetensors() {
    replay("safetensors", bodies::safetensors);
}

#[test]
fn packed() {
    replay("packed", bodies::packed);
}

#[test]
fn recipes() {
    replay("recipe", bodies::recipe);
}

#[test]
fn masks() {
    replay("mask", bodies::mask);
}
