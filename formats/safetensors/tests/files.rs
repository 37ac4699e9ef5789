//! One file: what is written is what was meant, by other eyes too.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Bytes, f32s, file, open, raw, read, rewrite, tree};
use compress_core::format::{Content, CreateOptions, Format, OpenOptions};
use compress_core::stfile::{Spec, StWriter, dtype_named};
use compress_safetensors::Safetensors;
use proptest::prelude::*;

const DTYPES: [&str; 22] = [
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

#[test]
fn a_run_without_changes_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
    let headers: [(&str, usize); 5] = [
        ("{}", 0),
        ("{}      ", 0),
        (r#"{"__metadata__":{"format":"pt","z":"","a":"ä\u0001"}}  "#, 0),
        // Keys in another order than the data, spaces, a field and a type that nobody knows, empty tensors.
        (
            r#"{ "z":{"shape":[2],"data_offsets":[8,16],"dtype":"F32"}, "e":{"dtype":"F64","shape":[0],"data_offsets":[8,8]},
               "a":{"dtype":"F9_NEW","shape":[3],"data_offsets":[0,8],"x":[1,{"y":null}]}, "__metadata__":{"k":"v"} }  "#,
            16,
        ),
        (
            r#"{"odd":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"w":{"dtype":"F32","shape":[],"data_offsets":[3,7]}}"#,
            7,
        ),
    ];
    for (header, n) in headers {
        raw(&a, header, &(0..n as u8).collect::<Vec<_>>());
        rewrite(&a, &b, &[]).unwrap();
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(), "{header}");
    }
    // Every tensor given anew with the bytes that it had.
    file(&a, &[("x", "F32", &[3], f32s(&[1.0, -0.0, f32::NAN])), ("y", "I64", &[1], vec![7; 8])]);
    rewrite(&a, &b, &[("x", f32s(&[1.0, -0.0, f32::NAN]))]).unwrap();
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
    assert_eq!(tree(dir.path()).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn changed_and_kept_tensors_arrive(
        tensors in prop::collection::vec((0..DTYPES.len(), prop::sample::select(vec![0_u64, 1, 2, 63, 64, 65]), any::<bool>()), 0..8)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
        let specs: Vec<Spec> = tensors.iter().enumerate()
            .map(|(i, (d, n, _))| Spec { name: format!("t{i}"), dtype: dtype_named(DTYPES[*d]), shape: vec![*n, 4] }).collect();
        let writer = StWriter::create(&a, &specs, &[("format".into(), "pt".into())]).unwrap();
        for (i, e) in writer.entries().iter().enumerate() {
            writer.write_at(i, 0, &vec![i as u8; e.bytes() as usize]).unwrap();
        }
        let sizes: Vec<usize> = writer.entries().iter().map(|e| e.bytes() as usize).collect();
        writer.finish().unwrap().persist(&a).unwrap();
        let new: Vec<(String, Vec<u8>)> = tensors.iter().enumerate().filter(|(_, t)| t.2)
            .map(|(i, _)| (format!("t{i}"), vec![200 + i as u8; sizes[i]])).collect();
        let new_ref: Vec<(&str, Vec<u8>)> = new.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
        rewrite(&a, &b, &new_ref).unwrap();

        let bytes = std::fs::read(&b).unwrap();
        let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(other.len(), tensors.len());
        for (i, (d, n, changed)) in tensors.iter().enumerate() {
            let view = other.tensor(&format!("t{i}")).unwrap();
            let value = if *changed { 200 + i as u8 } else { i as u8 };
            prop_assert_eq!(view.data(), &vec![value; sizes[i]][..]);
            prop_assert_eq!(view.dtype().to_string(), DTYPES[*d]);
            prop_assert_eq!(view.shape(), &[*n as usize, 4]);
        }
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        prop_assert_eq!(metadata.metadata().as_ref().unwrap().get("format").unwrap(), "pt");
    }
}

#[test]
fn what_the_safetensors_crate_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin"); // recognised by its content
    let data = f32s(&[1.5, -2.0, 0.0, 4.0]);
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &data).unwrap();
    safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
    assert!(Safetensors.recognises(&path));
    let source = open(&path).unwrap();
    assert_eq!(read(&*source, "w"), data);
    assert_eq!((source.tensors()[0].elements, source.tensors()[0].stored_bytes), (4, 16));
    assert_eq!(source.files()[0].name, "m.bin");
}

#[test]
fn pairs_of_torch_prune_become_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
    file(
        &a,
        &[
            ("fc.bias", "F32", &[1], f32s(&[9.0])),
            ("fc.weight_mask", "F32", &[2, 3], f32s(&[1.0, 0.0, 1.0, 0.0, 1.0, 1.0])),
            ("fc.weight_orig", "F32", &[2, 3], f32s(&[1.0, 2.0, 3.0, -4.0, 5.0, 6.0])),
            ("half_mask", "BOOL", &[2], vec![1, 0]),
            ("half_orig", "BF16", &[2], vec![0x80, 0x3f, 0x80, 0x3f]),
            ("lonely_orig", "F32", &[1], f32s(&[1.0])),
            ("other_mask", "F32", &[2], f32s(&[1.0, 1.0])),
            ("other_orig", "F32", &[1], f32s(&[1.0])),
            ("z", "F32", &[1], f32s(&[1.0])),
            ("z_mask", "F32", &[1], f32s(&[0.0])),
            ("z_orig", "F32", &[1], f32s(&[1.0])),
        ],
    );
    let source = open(&a).unwrap();
    let names: Vec<_> = source.tensors().iter().map(|t| t.name.as_str()).collect();
    let expected = ["fc.bias", "fc.weight", "half", "lonely_orig", "other_mask", "other_orig", "z", "z_mask", "z_orig"];
    assert_eq!(names, expected);
    assert_eq!(source.tensors()[1].stored_bytes, 48);
    let product = f32s(&[1.0, 0.0, 3.0, -0.0, 5.0, 6.0]);
    assert_eq!(read(&*source, "fc.weight"), product);
    assert_eq!(read(&*source, "half"), [0x80, 0x3f, 0, 0]);
    let mut odd = [0; 7];
    source.read_at(1, 3, &mut odd).unwrap();
    assert_eq!(odd, product[3..10]);
    let line = "2 pairs of torch.nn.utils.prune read as the pruned tensors that they stand for, and written as such: \
                \"fc.weight\" from \"fc.weight_orig\" and \"fc.weight_mask\", …";
    assert_eq!(source.warnings(), [line]);

    rewrite(&a, &b, &[("half", vec![1, 2, 3, 4])]).unwrap();
    let bytes = std::fs::read(&b).unwrap();
    let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = other.names();
    names.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(other.tensor("fc.weight").unwrap().data(), product);
    assert_eq!(other.tensor("half").unwrap().data(), [1, 2, 3, 4]);
    assert_eq!(other.tensor("z_orig").unwrap().data(), f32s(&[1.0]));
}

#[test]
fn outputs_that_would_do_harm_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let p = |n: &str| dir.path().join(n);
    file(&p("in.safetensors"), &[("w", "F32", &[1], f32s(&[1.0]))]);
    std::fs::write(p("old.safetensors"), b"old").unwrap();
    std::fs::hard_link(p("in.safetensors"), p("hard.safetensors")).unwrap();
    std::fs::create_dir(p("folder")).unwrap();
    let before = tree(dir.path());
    let source = open(&p("in.safetensors")).unwrap();
    for (output, force, expected) in [
        ("in.safetensors", true, "is the input"),
        ("hard.safetensors", true, "is the input"),
        ("old.safetensors", false, "exists: --force replaces it"),
        ("folder", true, "is a folder: name a file"),
        ("none/x.safetensors", true, "there is no such file or folder"),
    ] {
        let error =
            source.create(&p(output), &CreateOptions { force, ..Default::default() }).err().unwrap().to_string();
        assert!(error.contains(expected), "{output}: {error}");
    }
    // A sink that is dropped, or fails, leaves nothing.
    let mut sink = source.create(&p("new.safetensors"), &CreateOptions::default()).unwrap();
    let error = sink.put(0, Content::Dense(&Bytes(vec![0; 5]))).unwrap_err().to_string();
    assert_eq!(error, "tensor \"w\": 5 bytes were given for its 4");
    drop(sink);
    drop(source.create(&p("new.safetensors"), &CreateOptions::default()).unwrap().finish().unwrap());
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn an_input_truncated_while_it_is_copied_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.safetensors");
    file(&path, &[("w", "F32", &[1 << 20], vec![1; 4 << 20])]);
    let source = open(&path).unwrap();
    let sink = source.create(&dir.path().join("out.safetensors"), &CreateOptions::default()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let error = sink.finish().err().unwrap().to_string();
    assert!(error.contains("in.safetensors\": the file ends too early (was it truncated"), "{error}");
    assert_eq!(tree(dir.path()).len(), 1);
    assert!(Safetensors.open(&path, &OpenOptions::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_damaged_file_is_an_error_or_a_model_and_never_a_panic(
        at in 0_usize..200, value in any::<u8>(), cut in 0_usize..260, tail in 0_usize..4, header in "[{}\\[\\]\":,0-9a-z_\\\\]{0,40}"
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        file(&path, &[("x_orig", "F32", &[3], f32s(&[1.0; 3])), ("x_mask", "F32", &[3], f32s(&[1.0; 3])), ("y", "I64", &[1], vec![7; 8])]);
        let mut bytes = std::fs::read(&path).unwrap();
        let n = bytes.len();
        match tail {
            0 => bytes[at % n] = value,
            1 => bytes.truncate(cut % n),
            2 => bytes.splice(8 + at % 100..8 + at % 100, header.bytes()).for_each(drop),
            _ => {
                bytes = (header.len() as u64).to_le_bytes().to_vec();
                bytes.extend_from_slice(header.as_bytes());
            }
        }
        std::fs::write(&path, bytes).unwrap();
        match open(&path) {
            Ok(source) => source.tensors().iter().for_each(|t| drop(read(&*source, &t.name))),
            Err(e) => prop_assert!(e.to_string().contains("m.safetensors"), "{e}"),
        }
    }
}
