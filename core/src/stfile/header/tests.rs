use proptest::prelude::*;

use super::*;
use crate::stfile::{Spec, StFile, StWriter};

/// A file of this header and so many bytes of data.
fn written(header: &[u8], payload: usize) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + payload, 7);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn each_malformed_header_is_one_sentence() {
    let f32x2 = |name: &str, start: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{start},{end}]}}"#)
    };
    let (a, b) = (f32x2("a", 0, 8), f32x2("b", 8, 16));
    let deep = format!(r#"{{"a":{{"x":{}}}}}"#, "[".repeat(100_000));
    let cases: Vec<(String, usize, &str)> = vec![
        (String::new(), 0, "the header is no JSON object"),
        ("[]".into(), 0, "the header is no JSON object"),
        (" {}".into(), 0, "the header is no JSON object"),
        ("{".into(), 0, "the header is not valid: EOF while parsing an object"),
        ("{}x".into(), 0, "the header is not valid: trailing characters"),
        ("{}".into(), 3, "3 bytes at the end of the file belong to no tensor"),
        (format!("{{{a},{a}}}"), 8, "there are two tensors named \"a\""),
        (format!("{{{a},{}}}", f32x2("b", 4, 12)), 12, "tensor \"b\": its data overlap those of \"a\""),
        (format!("{{{b}}}"), 16, "tensor \"b\": 8 bytes before it belong to no tensor"),
        (format!("{{{a}}}"), 9, "1 bytes at the end of the file belong to no tensor"),
        (format!("{{{a},{b}}}"), 15, "tensor \"b\": its data end at byte 16, but the file has only 15: truncated?"),
        (format!("{{{}}}", f32x2("a", 8, 0)), 8, "tensor \"a\": its data end at 0, before they begin at 8"),
        (format!("{{{}}}", f32x2("a", 0, 4)), 4, "tensor \"a\": 4 bytes in the file, but F32 [2] takes 8"),
        (f32x2("a", 0, u64::MAX).replacen('"', "{\"", 1) + "}", 8, "but the file has only 8: truncated?"),
        (
            r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296,3],"data_offsets":[0,0]}}"#.into(),
            0,
            "tensor \"a\": the shape [4294967296, 4294967296, 3] is too large",
        ),
        (
            r#"{"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}}"#.into(),
            0,
            "tensor \"a\": the shape [4611686018427387904] is too large",
        ),
        (
            r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#.into(),
            2,
            "tensor \"a\": 3 elements of 4 bits are no whole number of bytes",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#.into(),
            0,
            "the header is not valid: tensor \"a\": invalid value: integer `-1`, expected u64",
        ),
        (
            r#"{"a":{"dtype":"F32","data_offsets":[0,0]}}"#.into(),
            0,
            "the header is not valid: tensor \"a\": missing field `shape`",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[0],"shape":[0],"data_offsets":[0,0]}}"#.into(),
            0,
            "the header is not valid: tensor \"a\": duplicate field `shape`",
        ),
        (r#"{"a":7}"#.into(), 0, "the header is not valid: tensor \"a\": invalid type: integer `7`"),
        (deep, 0, "the header is not valid: tensor \"a\": expected value"),
        (
            r#"{"__metadata__":{"k":1}}"#.into(),
            0,
            "the header is not valid: metadata \"k\": invalid type: integer `1`, expected a string",
        ),
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0, "the metadata has \"k\" twice"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "\"__metadata__\" stands twice"),
    ];
    for (header, payload, expected) in cases {
        let (_dir, path) = written(header.as_bytes(), payload);
        let error = StFile::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{header:.100}\n  gives {error}\n  not   {expected}");
        assert!(error.starts_with(&format!("\"{}\": ", path.display())) && error.len() < 400, "{error}");
    }
    let (_dir, path) = written(b"{\"\xff\xfe\":{}}", 0);
    let error = StFile::open(&path).unwrap_err().to_string();
    assert!(error.contains("the header is not valid: invalid unicode code point"), "{error}");
}

#[test]
fn lengths_that_cannot_be_are_refused_before_they_are_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    for (bytes, expected) in [
        (vec![], "0 bytes are too few for its header"),
        (vec![0; 7], "7 bytes are too few"),
        (vec![0; 8], "the header is no JSON object"),
        (vec![255; 100], "a header of 18446744073709551615 bytes (at most 100000000)"),
        (100_000_001_u64.to_le_bytes().to_vec(), "a header of 100000001 bytes (at most 100000000)"),
        (99_u64.to_le_bytes().to_vec(), "the header has 99 bytes, but the file ends after 0: truncated?"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = StFile::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = StFile::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("it is a folder"), "{error}");
}

#[test]
fn unusual_but_valid_headers_are_read() {
    for (header, payload, names) in [
        ("{}", 0, vec![]),
        ("{}    ", 0, vec![]),
        (r#"{"__metadata__":null}"#, 0, vec![]),
        (r#"{"__metadata__":{"format":"pt"}}"#, 0, vec![]),
        (
            r#"{"b":{"dtype":"U8","shape":[],"data_offsets":[1,2]},"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#,
            2,
            vec!["a", "b"],
        ),
        (
            r#"{"z":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]},"":{"dtype":"F64","shape":[3,0],"data_offsets":[0,0]}}"#,
            0,
            vec!["z", ""],
        ),
        (r#"{"new":{"dtype":"F5_X","shape":[8],"data_offsets":[0,5],"future":{"deep":[1,{}]}}}"#, 5, vec!["new"]),
        (r#"{"odd":{"dtype":"ZIP","shape":[8],"data_offsets":[0,3]}}"#, 3, vec!["odd"]),
    ] {
        let (_dir, path) = written(header.as_bytes(), payload);
        let file = StFile::open(&path).unwrap_or_else(|e| panic!("{header}: {e}"));
        let got: Vec<&str> = file.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(got, names, "{header}");
    }
    let (_dir, path) = written(br#"{"n":{"dtype":"F5_X","shape":[8],"data_offsets":[0,5]}}"#, 5);
    assert_eq!(StFile::open(&path).unwrap().entries()[0].dtype, Dtype::Other("F5_X".into(), 5));
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    let names = [
        "BOOL",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "U8",
        "I8",
        "F8_E5M2",
        "F8_E4M3",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
        "I16",
        "U16",
        "F16",
        "BF16",
        "I32",
        "U32",
        "F32",
        "C64",
        "F64",
        "I64",
        "U64",
    ];
    prop::sample::select(names.to_vec()).prop_map(dtype_named)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read(
        tensors in prop::collection::vec((dtypes(), prop::sample::select(vec![0_u64, 1, 2, 63, 64, 65]), "[a-z.\"\\\\ä]{0,6}"), 0..6),
        metadata in prop::collection::btree_map("[a-zA-Z:\"\n]{0,5}", ".{0,5}", 0..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        let specs: Vec<Spec> = tensors.iter().enumerate().map(|(i, (dtype, n, name))| {
            Spec { name: format!("{i}{name}"), dtype: dtype.clone(), shape: vec![4, *n] } // 4: whole bytes for F6 too
        }).collect();
        let metadata: Vec<(String, String)> = metadata.into_iter().collect();
        let writer = StWriter::create(&path, &specs, &metadata).unwrap();
        for (i, e) in writer.entries().iter().enumerate().rev() {
            writer.write_at(i, 0, &vec![i as u8 + 1; e.bytes() as usize]).unwrap();
        }
        writer.finish().unwrap().persist(&path).unwrap();

        let file = StFile::open(&path).unwrap();
        prop_assert_eq!(file.metadata(), &metadata[..]);
        prop_assert_eq!(file.data_at() % 8, 0);
        for (i, spec) in specs.iter().enumerate() {
            let entry = file.entry(&spec.name).unwrap();
            let mut got = vec![0; entry.bytes() as usize];
            file.read_at(entry, 0, &mut got).unwrap();
            prop_assert!(got.iter().all(|b| *b == i as u8 + 1));
            prop_assert!(file.read_at(entry, 1, &mut got).is_err() || got.is_empty() );
            prop_assert_eq!((&entry.dtype, &entry.shape), (&spec.dtype, &spec.shape));
        }
    }
}

#[test]
fn a_file_truncated_while_it_is_read_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let spec = Spec { name: "w".into(), dtype: Dtype::F32, shape: vec![100] };
    StWriter::create(&path, &[spec], &[]).unwrap().finish().unwrap().persist(&path).unwrap();
    let file = StFile::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(200).unwrap();
    let error = file.read_at(&file.entries()[0], 0, &mut [0; 400]).unwrap_err().to_string();
    assert!(error.ends_with("the file ends too early (was it truncated while it was read?)"), "{error}");
    assert!(error.starts_with("tensor \"w\": cannot read"), "{error}");
}
