//! Packed tensors: written for every layout × values × type, read again by us and by the reader of the documentation,
//! unpacked, carried along, and refused where they are damaged.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{f32s, file, open, read};
use compress_core::convert::from_f32;
use compress_core::decompress::{self, decompress};
use compress_core::encode::{PackedLayout, ValueCoding, terms};
use compress_core::format::{Content, CreateOptions, Format, OpenOptions, Packed};
use compress_core::model::Model;
use compress_core::progress::Watch;
use compress_core::tensor::Dtype;
use compress_safetensors::Safetensors;
use compress_sdk::bitmap::Bitmap;
use compress_sdk::encoding::{Encoding, Layout, Term};

const CODINGS: [ValueCoding; 8] = [
    ValueCoding::Plain,
    ValueCoding::F16,
    ValueCoding::Bf16,
    ValueCoding::Int8,
    ValueCoding::Codebook(1),
    ValueCoding::Codebook(3),
    ValueCoding::Codebook(4),
    ValueCoding::Codebook(8),
];
const ROWS: usize = 37;
const COLS: usize = 19;

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 997) as f32 * 0.001 - 0.4).collect()
}

fn sparse(step: usize) -> Term {
    let mut bits = Bitmap::new(ROWS * COLS, false);
    (0..ROWS * COLS).step_by(step).for_each(|i| bits.set(i, true));
    let values = ramp((ROWS * COLS).div_ceil(step));
    Term { layout: Layout::Sparse(bits), values }
}

/// One encoding a layout, and a sum.
fn encodings() -> Vec<(&'static str, Encoding)> {
    let dense = || Term { layout: Layout::Dense, values: ramp(ROWS * COLS) };
    let factored = || Term { layout: Layout::Factored { rank: 3 }, values: ramp((ROWS + COLS) * 3) };
    let hashed = || Term { layout: Layout::Hashed { seed: 9 }, values: ramp(23) };
    [
        ("dense", vec![dense()]),
        ("mask", vec![sparse(3)]),
        ("deltas", vec![sparse(200)]),
        ("rice", vec![sparse(11)]),
        ("factored", vec![factored()]),
        ("hashed", vec![hashed()]),
        ("sum", vec![factored(), sparse(5), hashed()]),
    ]
    .into_iter()
    .map(|(name, terms)| (name, Encoding { rows: ROWS, cols: COLS, terms }))
    .collect()
}

fn with_recipe(recipe: &str) -> CreateOptions {
    CreateOptions { force: true, recipe: Some(recipe.into()), ..CreateOptions::default() }
}

/// A file with one tensor of each layout × coding, all packed; the dense one that it is made like lies beside it.
fn packed_file(dir: &Path, dtype: &Dtype) -> PathBuf {
    let shape = [ROWS as u64, COLS as u64];
    let zeros = vec![0u8; ROWS * COLS * dtype.float_bytes().unwrap()];
    let names: Vec<String> =
        encodings().iter().flat_map(|(l, _)| CODINGS.iter().map(move |c| format!("{l}.{c}"))).collect();
    let mut tensors: Vec<(&str, &str, &[u64], Vec<u8>)> =
        names.iter().map(|n| (n.as_str(), dtype.name(), shape.as_slice(), zeros.clone())).collect();
    tensors.push(("plain", "F32", &[2], f32s(&[1.0, -0.0])));
    let input = dir.join("in.safetensors");
    file(&input, &tensors);
    let source = open(&input).unwrap();
    let encodings = encodings();
    let pack = |id: usize| -> Packed<'static> {
        terms::pack(&encodings[id / CODINGS.len()].1, dtype, &shape, CODINGS[id % CODINGS.len()]).unwrap()
    };
    let mut options = with_recipe("model = \"in.safetensors\"\n");
    options.outlines = (0..names.len()).map(|id| (id, pack(id).outline())).collect();
    let output = dir.join(format!("{}.safetensors", dtype.name()));
    let mut sink = source.create(&output, &options).unwrap();
    (0..names.len()).for_each(|id| sink.put(id, Content::Packed(&pack(id))).unwrap());
    let staged = sink.finish().unwrap();
    staged.reopen().unwrap();
    staged.commit().unwrap();
    output
}

fn model(path: &Path) -> Model {
    Model::open(&[&Safetensors], &[path.to_path_buf()], &OpenOptions::default()).unwrap()
}

fn unpack(path: &Path, output: &Path) -> decompress::Decompressed {
    let options = decompress::Options { force: true, dry_run: false };
    decompress(&model(path), output, &options, Watch::silent()).unwrap()
}

/// The Python of the tests, if there is one.
fn python() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/prepare.sh");
    let said = Command::new("bash").arg(script).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    if path.as_os_str().is_empty() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&said.stderr));
        return None;
    }
    Some(path)
}

#[test]
fn every_layout_of_every_coding_and_type() {
    let dir = tempfile::tempdir().unwrap();
    let mut judged = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
        let path = packed_file(dir.path(), &dtype);
        let source = open(&path).unwrap();
        assert_eq!(source.tensors().len(), encodings().len() * CODINGS.len() + 1);
        for (id, info) in source.tensors().iter().enumerate().filter(|(_, t)| t.name != "plain") {
            let layout = PackedLayout::named(info.name.split('.').next().unwrap()).unwrap_or(PackedLayout::Factored);
            assert_eq!(source.packed(id), Some(layout), "{}", info.name);
            assert_eq!((info.dtype.clone(), info.shape.as_slice()), (dtype.clone(), &[ROWS as u64, COLS as u64][..]));
        }
        // Exact: the values that were given, as the type holds them.
        let mut given = vec![0; ROWS * COLS * dtype.float_bytes().unwrap()];
        from_f32(&dtype, &ramp(ROWS * COLS), &mut given);
        assert!(read(&*source, "dense.plain") == given);
        // A copy is equal byte for byte; a dense one has the same values and nothing of ours.
        let copy = dir.path().join("copy.safetensors");
        source
            .create(&copy, &CreateOptions { force: true, ..Default::default() })
            .unwrap()
            .finish()
            .unwrap()
            .commit()
            .unwrap();
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
        let dense = dir.path().join(format!("{}.dense.safetensors", dtype.name()));
        let done = unpack(&path, &dense);
        assert_eq!(done.tensors.len() + 1, source.tensors().len());
        assert_eq!(done.bytes_after, Some(std::fs::metadata(&dense).unwrap().len()));
        let again = open(&dense).unwrap();
        for (a, b) in source.tensors().iter().zip(again.tensors()) {
            assert_eq!((&a.name, &a.shape, &a.dtype), (&b.name, &b.shape, &b.dtype));
            assert!(read(&*source, &a.name) == read(&*again, &a.name), "{}", a.name);
        }
        assert!(!String::from_utf8_lossy(&std::fs::read(&dense).unwrap()[..4096]).contains("compress."));
        judged.push((path, dense));
    }
    let Some(python) = python() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command.arg(root.join("tests/read_packed.py")).env("PYTHONPATH", root.join("../../docs"));
    for (packed, dense) in &judged {
        command.args([packed, dense]);
    }
    let said = command.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn the_header_is_the_same_wherever_it_is_written() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (packed_file(a.path(), &Dtype::F32), packed_file(b.path(), &Dtype::F32));
    let bytes = std::fs::read(&a).unwrap();
    assert!(bytes == std::fs::read(b).unwrap());
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#""compress.packed":"1""#) && text.contains("compress.recipe"));
    assert!(!text.contains(a.parent().unwrap().to_str().unwrap()));
}

/// The file with its header's text and data changed.
fn damaged(dir: &Path, path: &Path, change: impl FnOnce(&mut String, &mut Vec<u8>)) -> String {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    change(&mut header, &mut data);
    let output = dir.join("damaged.safetensors");
    common::raw(&output, &header, &data);
    let options = OpenOptions { max_expand: 128, ..Default::default() };
    let source = match Safetensors.open(&output, &options) {
        Err(e) => return e.to_string(),
        Ok(source) => source,
    };
    let mut out = Vec::new();
    let mut reads = (0..source.tensors().len()).map(|id| {
        out.resize(source.tensors()[id].dense_bytes() as usize, 0);
        source.read_at(id, 0, &mut out)
    });
    reads.find_map(Result::err).map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn damaged_packed_tensors_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.safetensors");
    let shape = [ROWS as u64, COLS as u64];
    file(&input, &[("W", "F32", &shape, vec![0; ROWS * COLS * 4])]);
    let source = open(&input).unwrap();
    let write = |terms: Vec<Term>, coding: ValueCoding| {
        let packed = || {
            terms::pack(&Encoding { rows: ROWS, cols: COLS, terms: terms.clone() }, &Dtype::F32, &shape, coding)
                .unwrap()
        };
        let mut options = with_recipe("");
        options.outlines.insert(0, packed().outline());
        let output = dir.path().join("packed.safetensors");
        let mut sink = source.create(&output, &options).unwrap();
        sink.put(0, Content::Packed(&packed())).unwrap();
        sink.finish().unwrap().commit().unwrap();
        output
    };
    let factored = || vec![Term { layout: Layout::Factored { rank: 3 }, values: ramp((ROWS + COLS) * 3) }];
    let hashed = || vec![Term { layout: Layout::Hashed { seed: 9 }, values: ramp(24) }];
    let replace = |from: &'static str, to: &'static str| {
        move |header: &mut String, _: &mut Vec<u8>| {
            assert!(header.contains(from), "{from} is not in {header}");
            *header = header.replacen(from, to, 1);
        }
    };
    type Change = Box<dyn FnOnce(&mut String, &mut Vec<u8>)>;
    let text = |from, to| -> Change { Box::new(replace(from, to)) };
    let cases: Vec<(&str, Vec<Term>, ValueCoding, Change)> = vec![
        ("version", vec![sparse(3)], ValueCoding::Plain, text(r#""compress.packed":"1""#, r#""compress.packed":"2""#)),
        ("not known", vec![sparse(3)], ValueCoding::Plain, text(r#"layout\":\"mask"#, r#"layout\":\"task"#)),
        ("not known", vec![sparse(3)], ValueCoding::Plain, text(r#"values\":\"plain"#, r#"values\":\"codebook:9"#)),
        ("description is not valid", vec![sparse(3)], ValueCoding::Plain, text(r#"\"terms\""#, r#"\"germs\""#)),
        ("missing", vec![sparse(3)], ValueCoding::Plain, text("W.packed.0.mask", "W.packed.0.task")),
        ("floating-point", vec![sparse(3)], ValueCoding::Plain, text(r#"dtype\":\"F32"#, r#"dtype\":\"F31"#)),
        (
            "too large",
            vec![sparse(3)],
            ValueCoding::Plain,
            text(r#"shape\":[37,19]"#, r#"shape\":[4294967296,4294967296,4]"#),
        ),
        ("unfold", vec![sparse(3)], ValueCoding::Plain, text(r#"shape\":[37,19]"#, r#"shape\":[3700,1900]"#)),
        ("is needed", vec![sparse(3)], ValueCoding::Plain, text(r#"shape\":[37,19]"#, r#"shape\":[37,11]"#)),
        (
            "keeps",
            vec![sparse(3)],
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 50;
                data[at] ^= 2;
            }),
        ),
        (
            "beyond its 703",
            vec![sparse(3)],
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 88 + 87;
                data[at] |= 0x80;
            }),
        ),
        (
            "is 0",
            vec![sparse(97)],
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 8;
                data[at] = 0;
            }),
        ),
        (
            "lead to element",
            vec![sparse(97)],
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 8;
                data[at..].fill(255);
            }),
        ),
        ("do not multiply", factored(), ValueCoding::Plain, text(r#"shape\":[37,19]"#, r#"shape\":[37,20]"#)),
        ("has the shape", factored(), ValueCoding::Plain, text(r#"v\":[3,19]"#, r#"v\":[4,19]"#)),
        (
            "names 0 buckets",
            hashed(),
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 8;
                data[at..].fill(0);
            }),
        ),
        (
            "names 25 buckets",
            hashed(),
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 8;
                data[at] = 25;
            }),
        ),
        (
            "coefficient",
            hashed(),
            ValueCoding::Plain,
            Box::new(|_, data| {
                let at = data.len() - 40;
                data[at..at + 8].fill(255);
            }),
        ),
        ("has the shape", hashed(), ValueCoding::Plain, text(r#"values\":[24]"#, r#"values\":[0]"#)),
        ("scale", vec![sparse(3)], ValueCoding::Int8, text(r#"scale\":[1,1]"#, r#"scale\":[1,37]"#)),
        ("has the shape", vec![sparse(3)], ValueCoding::Codebook(4), text(r#"codebook\":[16]"#, r#"codebook\":[8]"#)),
    ];
    for (expected, terms, coding, change) in cases {
        let packed = write(terms, coding);
        let said = damaged(dir.path(), &packed, change);
        assert!(said.contains(expected) && !said.contains("panicked"), "{expected}: {said}");
    }
}

#[test]
fn shards_stay_and_the_index_knows_the_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
    std::fs::create_dir(&a).unwrap();
    let values = |n| f32s(&sparse_values(n));
    file(&a.join("m-1.safetensors"), &[("x", "F32", &[20, 30], values(600)), ("y", "F32", &[3], values(3))]);
    file(&a.join("m-2.safetensors"), &[("z", "F32", &[20, 30], values(600))]);
    let index = r#"{"metadata":{"total_size":4812},"weight_map":{"x":"m-1.safetensors","y":"m-1.safetensors","z":"m-2.safetensors"}}"#;
    std::fs::write(a.join("model.safetensors.index.json"), index).unwrap();
    std::fs::write(a.join("config.json"), "{}").unwrap();
    let source = open(&a).unwrap();
    let pack = |_| {
        let mut bits = Bitmap::new(600, false);
        let all = sparse_values(600);
        all.iter().enumerate().filter(|(_, v)| **v != 0.0).for_each(|(i, _)| bits.set(i, true));
        let term = Term { layout: Layout::Sparse(bits), values: all.into_iter().filter(|v| *v != 0.0).collect() };
        terms::pack(&Encoding { rows: 20, cols: 30, terms: vec![term] }, &Dtype::F32, &[20, 30], ValueCoding::Plain)
            .unwrap()
    };
    let mut options = with_recipe("");
    options.outlines = [0, 2].into_iter().map(|id| (id, pack(id).outline())).collect();
    let mut sink = source.create(&b, &options).unwrap();
    for id in [0, 2] {
        sink.put(id, Content::Packed(&pack(id))).unwrap();
    }
    sink.finish().unwrap().commit().unwrap();
    let written = std::fs::read_to_string(b.join("model.safetensors.index.json")).unwrap();
    let placed = written.contains(r#""x.packed.0.unary""#) && written.contains(r#""z.packed.0.values""#);
    assert!(placed && !written.contains(r#""x":"#), "{written}");
    unpack(&b, &c);
    let (dense, source) = (open(&c).unwrap(), open(&a).unwrap());
    for t in source.tensors() {
        assert!(read(&*dense, &t.name) == read(&*source, &t.name), "{}", t.name);
    }
    for name in ["m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json", "config.json"] {
        assert!(c.join(name).is_file(), "{name}");
    }
}

fn sparse_values(n: usize) -> Vec<f32> {
    (0..n).map(|i| if i % 5 == 2 { i as f32 + 0.5 } else { 0.0 }).collect()
}
