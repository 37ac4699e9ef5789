//! The translation model, parsed.

use std::path::Path;

use super::*;

#[test]
fn the_translation_model_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/nmt/model.onnx");
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return;
    }
    let model = Model::open(&path, &Default::default()).unwrap();
    assert_eq!((model.ir_version, model.opset(""), model.producer.as_str()), (8, Some(17), "pytorch"));
    assert_eq!(model.graph.initializers.len(), 19);
    assert_eq!(model.graph.initializers[0].name, "src_embed.weight");
    assert_eq!(model.graph.initializers[0].dims, [5921, 256]);
    assert!(model.graph.initializers[0].read_bytes().unwrap()[..1024].iter().all(|b| *b == 0));
    assert_eq!(model.graph.inputs[0].dims, Some(vec![Dim::Name("batch".into()), Dim::Name("src_len".into())]));
    let lstm = model.graph.nodes.iter().find(|n| n.op_type == "LSTM").unwrap();
    assert_eq!((lstm.int("hidden_size"), lstm.input(4)), (Some(256), None));
}
