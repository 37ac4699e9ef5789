//! The translation model of ../shared/nmt: its figures by PyTorch. Skipped where the folder is absent.

use std::path::{Path, PathBuf};

use compress_core::format::{Format, OpenOptions};
use compress_core::progress::Watch;
use compress_core::recipe::{Bleu, Data, Metric, References, Tokenize};
use compress_engine::engine::{AsStored, Engine, Split};
use compress_onnx::Onnx;

fn nmt() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/nmt");
    let folder = if folder.exists() { folder } else { PathBuf::from("/work/shared/nmt") };
    if !folder.exists() {
        eprintln!("skipped: no folder ../shared/nmt");
        return None;
    }
    Some(folder)
}

fn data(folder: &Path, tokenize: Tokenize) -> Data {
    Data {
        train: Some(folder.join("train.safetensors")),
        validation: Some(folder.join("val.safetensors")),
        test: None,
        target: Some("tgt_out".into()),
        output: Some("logits".into()),
        ignore: Some(0),
        trim: false,
        bleu: Some(Bleu {
            prefix: "tgt_in".into(),
            begin: 1,
            end: 2,
            vocabulary: folder.join("vocab.de.txt"),
            references: References { validation: Some(folder.join("val.ref.de")), test: None },
            tokenize,
            join: String::new(),
            beam: 1,
            max_length: 100,
        }),
    }
}

#[test]
fn untouched_model_has_the_figures_of_pytorch() {
    let Some(folder) = nmt() else { return };
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default()).unwrap();
    for (tokenize, bleu) in [(Tokenize::None, "33.37"), (Tokenize::Mteval13a, "30.24")] {
        let engine = Engine::open(&*source, &data(&folder, tokenize)).unwrap();
        let metrics = [Metric::Perplexity, Metric::Accuracy, Metric::Bleu];
        let start = std::time::Instant::now();
        let got = engine.evaluate(&AsStored, Split::Validation, &metrics, Watch::silent()).unwrap();
        eprintln!("{got:?} {:?}", start.elapsed());
        assert_eq!(format!("{:.4}", got[0].1), "4.8064");
        assert_eq!(format!("{:.2}", got[2].1), bleu);
    }
}
