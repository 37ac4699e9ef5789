//! Files that were made to break a reader: each ends in a sentence that names the file and what is wrong.

use proptest::prelude::*;

use crate::OnnxSource;
use crate::testing::*;
use crate::wire::Message;
use compress_core::format::{OpenOptions, Source};

/// Opens bytes, reads every tensor, and writes an untouched copy; the first error.
fn first_error(bytes: &[u8]) -> Option<String> {
    first_error_of(bytes, true)
}

fn first_error_of(bytes: &[u8], write: bool) -> Option<String> {
    let (dir, path) = file(bytes);
    let run = || {
        let source = OnnxSource::open(&path, &OpenOptions::default())?;
        for (id, info) in source.tensors().iter().enumerate() {
            if info.dtype.bits() > 0 {
                let mut out = vec![0; info.dense_bytes().min(1 << 20) as usize];
                source.read_at(id, 0, &mut out)?;
            }
        }
        if write {
            source.create(&dir.path().join("out"), &Default::default())?.finish()?.commit()?;
        }
        Ok::<(), compress_core::Error>(())
    };
    let error = run().err().map(|e| e.to_string());
    if error.is_none() && write {
        assert!(std::fs::read(dir.path().join("out")).unwrap() == bytes);
    }
    assert!(error.is_some() || !write || names(dir.path()) == ["in.onnx", "out"]);
    error
}

fn with_tensor(tensor: Message) -> Vec<u8> {
    matmul(vec![tensor])
}

fn sparse(values: usize, indices: Message, dims: &[i64]) -> Vec<u8> {
    let values = head("W", &[values as i64], 1).bytes(9, vec![1; 4 * values]);
    let sparse = Message::new().message(1, values).message(2, indices).packed(3, dims.iter().copied());
    model(graph(vec![], vec![], vec![], vec![]).message(15, sparse))
}

fn nested(depth: usize) -> Vec<u8> {
    let mut inner = graph(vec![], vec![], vec![], vec![]);
    for _ in 0..depth {
        let node = Message::new().bytes(4, "If").message(5, attribute("then_branch", 6, 5, inner));
        inner = graph(vec![node], vec![], vec![], vec![]);
    }
    model(inner)
}

#[test]
fn each_malformed_file_ends_in_a_sentence() {
    let field = |bytes: &[u8]| [&model(graph(vec![], vec![], vec![], vec![]))[..], bytes].concat();
    let w = || head("W", &[4, 6], 1);
    let ext =
        |location: &str, offset: &str, length: &str| with_tensor(external("W", &[4, 6], location, offset, length));
    let huge = 1i64 << 62;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "it has no graph"),
        (vec![0x08], "the data end in the middle of a field"),
        (field(&[0x3a, 0x85, 0x80, 0x80, 0x80, 0x40]), "reaches beyond its end"),
        (field(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), "reaches beyond its end"),
        (field(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), "a number of more than 64 bits"),
        (field(&[0x0b]), "wire type 3"),
        (field(&[0x0c]), "wire type 4"),
        (field(&[0x0e]), "wire type 6"),
        (field(&[0x00, 0x00]), "a field number out of range"),
        (field(&[0xf8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00]), "a field number out of range"),
        (field(&[0x38, 0x00]), "field 7 of the wrong wire type"),
        (field(&[0x3a, 0x00]), "field 7 twice"),
        (model(graph(vec![Message::new()], vec![], vec![], vec![])), "a node without an operator"),
        (model(graph(vec![node("A", &[], &["\u{0}"]).bytes(3, [0xff, 0xfe])], vec![], vec![], vec![])), "not UTF-8"),
        (model(graph(vec![], vec![], vec![], vec![]).bytes(2, vec![b'a'; 70_000])), "a name of 70000 bytes"),
        (nested(64), "graphs nested more than 64 deep"),
        (with_tensor(w()), "has no data for its 24 elements"),
        (with_tensor(w().bytes(9, [0; 95])), "has 95 bytes of data, its shape [4, 6] of F32 needs 96"),
        (with_tensor(w().bytes(9, [0; 96]).bytes(9, [0; 96])), "raw_data twice"),
        (with_tensor(w().bytes(9, [0; 96]).bytes(4, [0; 96])), "more than one field"),
        (with_tensor(w().bytes(4, [0; 92])), "has 92 bytes of data"),
        (with_tensor(w().bytes(4, [0; 95])), "a broken one at the end"),
        (with_tensor(w().bytes(10, [0; 192])), "in a field of another type"),
        (with_tensor(head("W", &[2], 7).packed(7, [1])), "has 8 bytes of data"),
        (with_tensor(head("W", &[2], 7).bytes(7, [0x80, 0x80])), "the data end in the middle"),
        (with_tensor(w().int(3, 1)), "segments"),
        (with_tensor(head("W", &[4, -6], 1)), "a negative dimension"),
        (with_tensor(head("W", &[huge, huge], 1).bytes(9, [0; 4])), "has too many elements"),
        (with_tensor(head("W", &[huge / 8], 1).bytes(9, [0; 4])), "its shape"),
        (with_tensor(head("W", &[1; 65], 1).bytes(9, [0; 4])), "more than 64 dimensions"),
        (with_tensor(head("W", &[1], 0).bytes(9, [0; 4])), "has no element type"),
        (with_tensor(head("W", &[3], 8).bytes(6, "one")), "has 1 strings for 3 elements"),
        (matmul(vec![raw("W", &[1]), raw("W", &[1])]), "two initializers are named \"W\""),
        (ext("/etc/passwd", "", ""), "is not a path below the model's folder"),
        (ext("../w.bin", "", ""), "is not a path below the model's folder"),
        (ext("a/../../w.bin", "", ""), "is not a path below the model's folder"),
        (ext("", "", ""), "is not a path below the model's folder"),
        (ext("none.bin", "", ""), "there is no such file or folder"),
        (ext("in.onnx", "x", ""), "the offset \"x\", which is no number"),
        (ext("in.onnx", "-1", ""), "the offset \"-1\", which is no number"),
        (ext("in.onnx", "0", "95"), "has 95 bytes of external data, its shape needs 96"),
        (ext("in.onnx", "1000000", "96"), "reach beyond the"),
        (ext("in.onnx", "18446744073709551615", "96"), "reach beyond the"),
        (ext(".", "", ""), "is not a regular file"),
        (with_tensor(head("W", &[1], 1).int(14, 1)), "have no location"),
        (with_tensor(external("W", &[1], "in.onnx", "", "").bytes(9, [0; 4])), "both here and in another file"),
        (sparse(2, i64s("", &[0, 24]), &[4, 6]), "an index lies outside of [4, 6]"),
        (sparse(2, i64s("", &[0, -1]), &[4, 6]), "an index lies outside of [4, 6]"),
        (sparse(2, i64s("", &[5, 5]), &[4, 6]), "not in increasing order"),
        (sparse(2, i64s("", &[5]), &[4, 6]), "indices of shape [1] for 2 values"),
        (sparse(1, i64s("", &[5]), &[1 << 40]), "--max-expand"),
        (sparse(1, i64s("", &[5]), &[huge, huge]), "has too many elements"),
        (model(graph(vec![], vec![], vec![], vec![]).message(15, Message::new())), "without values or indices"),
    ];
    for (bytes, expected) in cases {
        let error = first_error(&bytes).unwrap_or_else(|| panic!("accepted: {expected}"));
        assert!(error.contains(expected), "{error}\nnot: {expected}");
        assert!(error.contains("in.onnx"), "{error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn odd_but_valid_files_are_kept_as_they_are() {
    let plain = model(graph(vec![], vec![], vec![], vec![]));
    let long_varint = [&plain[..], &[0x28, 0x81, 0x80, 0x00]].concat();
    let dims_unpacked = Message::new().int(1, 2).int(1, 0).int(2, 1).bytes(8, "W");
    let scalar = Message::new().int(2, 1).bytes(8, "W").bytes(9, [0; 4]);
    let newer_type = head("W", &[4], 99).bytes(9, [1, 2, 3]);
    for bytes in [
        long_varint,
        nested(63),
        with_tensor(dims_unpacked),
        with_tensor(scalar),
        with_tensor(newer_type),
        with_tensor(head("W", &[2], 8).bytes(6, "a").bytes(6, "")),
        with_tensor(head("W", &[3], 22).packed(5, [0x21, 0x03])),
        with_tensor(head("W", &[2], 14).bytes(4, [0; 16])),
        with_tensor(head("W", &[0, 7], 1).bytes(9, [])),
        sparse(2, i64s("", &[3, 20]), &[4, 6]),
        sparse(2, head("", &[2, 2], 7).packed(7, [0, 5, 3, 5]), &[4, 6]),
    ] {
        assert_eq!(first_error(&bytes), None);
    }
}

#[test]
fn data_behind_links_are_refused_outside_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["models--x/snapshots/1", "models--x/blobs", "models--y/blobs"] {
        std::fs::create_dir_all(at(folder)).unwrap();
    }
    std::fs::write(at("models--x/blobs/ok"), [7; 96]).unwrap();
    std::fs::write(at("models--y/blobs/other"), [7; 96]).unwrap();
    std::fs::write(at("models--x/blobs/model"), with_tensor(external("W", &[4, 6], "data", "", ""))).unwrap();
    let model = at("models--x/snapshots/1/model.onnx");
    let data = at("models--x/snapshots/1/data");
    std::os::unix::fs::symlink("../../blobs/model", &model).unwrap();
    let follow = OpenOptions { follow_links: true, ..OpenOptions::default() };
    for (target, plain, following) in [
        ("../../blobs/ok", Some("--follow-links allows it"), None),
        ("../../../models--y/blobs/other", Some("a link out of the model's folder"), Some("a link out of")),
        ("/etc/hostname", Some("a link out of the model's folder"), Some("a link out of the model's folder")),
    ] {
        let _ = std::fs::remove_file(&data);
        std::os::unix::fs::symlink(target, &data).unwrap();
        for (options, expected) in [(OpenOptions::default(), plain), (follow, following)] {
            let error = OnnxSource::open(&model, &options).err().map(|e| e.to_string());
            match expected {
                None => assert_eq!(error, None),
                Some(text) => assert!(error.as_ref().is_some_and(|e| e.contains(text)), "{error:?}"),
            }
        }
    }
}

/// A model with a bit of everything.
fn rich() -> Vec<u8> {
    let constant = node("Constant", &[], &["k"]).message(5, attribute("value", 5, 4, i64s("", &[0, 2])));
    let inner =
        graph(vec![node("Identity", &["U"], &["t"])], vec![raw("U", &[2, 2])], vec![], vec![value("t", 1, &[])]);
    let choose = node("If", &["c"], &["z"]).message(5, attribute("then_branch", 6, 5, inner));
    let nodes = vec![
        constant,
        node("Slice", &["W", "k", "k"], &["w"]),
        node("Concat", &["w", "w"], &["v"]).message(5, int("axis", 0)),
        node("MatMul", &["x", "v"], &["y"]),
        choose,
    ];
    let tensors = vec![raw("W", &[4, 6]), head("V", &[3], 10).packed(5, [1, 2, 300])];
    let sparse = Message::new().message(1, raw("S", &[2])).message(2, i64s("", &[1, 2])).packed(3, [2, 2]);
    model(graph(nodes, tensors, vec![value("x", 1, &[0, 4])], vec![value("y", 1, &[0, 6])]).message(15, sparse))
}

#[test]
fn every_truncation_and_every_changed_byte_is_survived() {
    let bytes = rich();
    assert_eq!(first_error(&bytes), None);
    for end in 0..bytes.len() {
        first_error_of(&bytes[..end], false);
    }
    for at in 0..bytes.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff, bytes[at].wrapping_add(1)] {
            let mut changed = bytes.clone();
            changed[at] = value;
            first_error_of(&changed, at % 64 == 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        first_error_of(&bytes, false);
    }

    #[test]
    fn any_changes_of_a_model_are_survived(changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        let mut bytes = rich();
        let n = bytes.len();
        changes.iter().for_each(|(at, value)| bytes[*at as usize % n] = *value);
        first_error_of(&bytes, bytes[20].is_multiple_of(8));
    }
}
