use proptest::prelude::*;

use super::*;
use crate::stfile::encode_header;

/// A mask file from lists of bits.
fn file(dir: &tempfile::TempDir, name: &str, masks: &[(&str, &[bool])]) -> PathBuf {
    let path = dir.path().join(name);
    let tensors: Vec<(String, Vec<u64>)> =
        masks.iter().map(|(n, bits)| ((*n).to_string(), vec![bits.len() as u64])).collect();
    let writer = MaskWriter::create(&path, &tensors).unwrap();
    for (i, (_, bits)) in masks.iter().enumerate() {
        writer.write(i, &|first, out| fill(bits, first, out)).unwrap();
    }
    writer.sync().unwrap();
    writer.commit().unwrap();
    path
}

fn fill(bits: &[bool], first: u64, out: &mut [u8]) -> Result<()> {
    let bits = &bits[first as usize..];
    out.iter_mut().zip(bits.chunks(8)).for_each(|(o, run)| {
        *o = run.iter().enumerate().fold(0, |b, (i, kept)| b | u8::from(*kept) << i);
    });
    Ok(())
}

fn read(file: &MaskFile, name: &str, n: usize) -> Vec<bool> {
    let mut out = vec![0; n.div_ceil(8)];
    file.read_bits(name, 0, &mut out).unwrap();
    (0..n).map(|i| out[i / 8] >> (i % 8) & 1 == 1).collect()
}

/// A file written by another tool: (name, dtype, shape of the array, bytes) and metadata.
fn raw(path: &Path, tensors: &[(&str, &str, &[u64], &[u8])], metadata: &[(&str, &str)]) {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let dtype = crate::stfile::dtype_named(dtype);
        let (start, end) = (data.len() as u64, (data.len() + bytes.len()) as u64);
        let elements = shape.iter().product();
        entries.push(Entry { name: (*name).into(), dtype, shape: shape.to_vec(), elements, start, end });
        data.extend_from_slice(bytes);
    }
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let mut bytes = encode_header(&metadata, &entries);
    bytes.extend_from_slice(&data);
    std::fs::write(path, bytes).unwrap();
}

fn sized() -> impl Strategy<Value = Vec<bool>> {
    prop::sample::select(vec![0_usize, 1, 2, 7, 8, 63, 64, 65, 3000])
        .prop_flat_map(|n| prop::collection::vec(any::<bool>(), n))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_algebra_agrees_with_a_naive_one(a in sized(), b_seed in any::<u64>(), only_a in sized(), only_b in sized()) {
        let b: Vec<bool> = (0..a.len()).map(|i| (b_seed >> (i % 61)) & 1 == 1).collect();
        let dir = tempfile::tempdir().unwrap();
        let path_a = file(&dir, "a", &[("w", &a), ("only a", &only_a)]);
        let path_b = file(&dir, "b", &[("only b", &only_b), ("w", &b)]);
        prop_assert_eq!(read(&MaskFile::open(&path_a).unwrap(), "w", a.len()), a.clone());
        let ones = |n: usize| vec![true; n];
        let pairs = [
            ("w", a.clone(), b.clone()),
            ("only a", only_a.clone(), ones(only_a.len())),
            ("only b", ones(only_b.len()), only_b.clone()),
        ];
        for (what, naive) in [
            (Algebra::And, (|a, b| a && b) as fn(bool, bool) -> bool),
            (Algebra::Or, |a, b| a || b),
            (Algebra::Diff, |a, b| a && !b),
        ] {
            let path_c = dir.path().join("c");
            let combined = combine(what, &path_a, &path_b, &path_c).unwrap();
            let c = MaskFile::open(&path_c).unwrap();
            let names: Vec<_> = c.tensors().map(|(n, _)| n.to_string()).collect();
            prop_assert_eq!(names, ["w", "only a", "only b"]);
            let mut kept = 0;
            for (name, a, b) in &pairs {
                let expected: Vec<bool> = a.iter().zip(b).map(|(a, b)| naive(*a, *b)).collect();
                kept += expected.iter().filter(|k| **k).count();
                prop_assert_eq!(read(&c, name, a.len()), expected);
            }
            prop_assert_eq!(combined.kept, kept as u64);
        }
        let overlap = overlap(&path_a, &path_b).unwrap();
        for (t, (_, a, b)) in overlap.tensors.iter().zip(&pairs) {
            let count = |f: fn(bool, bool) -> bool| a.iter().zip(b).filter(|(a, b)| f(**a, **b)).count() as u64;
            let got = (t.weights, t.kept_a, t.kept_b, t.kept_both, t.kept_either(), t.pruned_both());
            let expected = (a.len() as u64, count(|a, _| a), count(|_, b| b), count(|a, b| a && b), count(|a, b| a || b), count(|a, b| !a && !b));
            prop_assert_eq!(got, expected);
        }
    }
}

#[test]
fn overlap_prints_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let a = file(&dir, "a", &[("w", &[true, true, false, false])]);
    let b = file(&dir, "b", &[("w", &[true, false, true, false])]);
    let overlap = overlap(&a, &b).unwrap();
    let expected = "tensor  weights  kept A  kept B  kept both  kept either  pruned both  Jaccard\n\
                    w             4       2       2          1            3            1   0.3333\n\
                    all           4       2       2          1            3            1   0.3333\n";
    assert_eq!(overlap.to_string(), expected);
    assert!((overlap.total.jaccard_pruned() - 1.0 / 3.0).abs() < 1e-9);
    let text = combine(Algebra::And, &a, &b, &dir.path().join("c")).unwrap().to_string();
    assert!(text.ends_with("c: 1 of 4 weights kept (25.00 %) in 1 tensors\n"), "{text}");
    assert!(combine(Algebra::And, &a, &b, &a).unwrap_err().to_string().contains("is the input"));
    let other = file(&dir, "d", &[("w", &[true])]);
    let error = super::overlap(&a, &other).unwrap_err().to_string();
    assert!(error.contains("tensor \"w\": the shape is [1], in "), "{error}");
}

#[test]
fn bool_masks_and_stray_bits_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let bytes: Vec<u8> = (0..70_001_u32).map(|i| u8::from(i % 3 == 0) * 255).collect();
    raw(&path, &[("b", "BOOL", &[70_001], &bytes), ("w", "U8", &[1], &[0xff])], &[("shape:w", "[1, 3]")]);
    let masks = MaskFile::open(&path).unwrap();
    let mut out = [0; 8752];
    masks.read_bits("b", 0, &mut out).unwrap();
    assert!((0..70_016).all(|i| (out[i / 8] >> (i % 8) & 1 == 1) == (i % 3 == 0 && i < 70_001)));
    masks.read_bits("b", 69_992, &mut out[..3]).unwrap();
    assert_eq!(out[..3], [0b1001_0010, 0b0, 0]);
    masks.read_bits("w", 0, &mut out[..2]).unwrap();
    assert_eq!((out[0], out[1], masks.shape("w")), (0b111, 0, Some(&[1, 3][..])));
    masks.read_bits("absent", 64, &mut out[..1]).unwrap();
    assert_eq!(out[0], 0xff);
}

#[test]
fn each_malformed_mask_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    for (dtype, shape, bytes, metadata, expected) in [
        ("F32", &[1_u64][..], &[0; 4][..], "[1]", "a mask is U8 (bits) or BOOL (of the full shape), not F32"),
        ("U8", &[1], &[0], "[9]", "1 bytes of bits, but the shape [9] takes 2"),
        ("U8", &[2], &[0; 2], "[2,2]", "2 bytes of bits, but the shape [2, 2] takes 1"),
        ("U8", &[0], &[], "[4294967296,4294967296,2]", "is too large"),
        ("U8", &[1], &[0], "(1,)", "its shape in the metadata is \"(1,)\", not a list like \"[2,3]\""),
        ("BOOL", &[2], &[0; 2], "[1,2]", "a BOOL mask of shape [2] for a tensor of shape [1, 2]"),
    ] {
        raw(&path, &[("w", dtype, shape, bytes)], &[("shape:w", metadata)]);
        let error = MaskFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("m\": tensor \"w\": ") && error.contains(expected), "{error}");
    }
    raw(&path, &[("w", "U8", &[1], &[0])], &[]);
    let error = MaskFile::open(&path).unwrap_err().to_string();
    assert!(error.ends_with("the metadata lack its shape, \"shape:w\""), "{error}");
}

#[test]
fn masks_must_fit_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let masks = MaskFile::open(&file(&dir, "m", &[("fc.weight", &[true; 6])])).unwrap();
    let tensor = |name: &str, shape: &[u64]| TensorInfo {
        name: name.into(),
        shape: shape.to_vec(),
        dtype: Dtype::F32,
        elements: shape.iter().product(),
        stored_bytes: 0,
        file: 0,
        not_a_weight: None,
    };
    masks.check_against(&[tensor("x", &[]), tensor("fc.weight", &[6])]).unwrap();
    let error = masks.check_against(&[tensor("fc.weight", &[2, 3])]).unwrap_err().to_string();
    assert!(error.ends_with("the mask is for the shape [6], the model's tensor has [2, 3]"), "{error}");
    let error = masks.check_against(&[tensor("fc1.weight", &[6])]).unwrap_err().to_string();
    assert!(error.ends_with("no tensor of this name (did you mean \"fc1.weight\"?)"), "{error}");
}
