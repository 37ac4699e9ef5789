//! Sharded folders.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{f32s, file, open, read, rewrite, tree};
use compress_core::format::{CreateOptions, Format};
use compress_safetensors::Safetensors;

const INDEX: &str = "model.safetensors.index.json";

/// Two shards, an index whose layout nobody else writes, extra files.
fn sharded(folder: &Path) {
    std::fs::create_dir_all(folder.join("sub/deep")).unwrap();
    let zero = || f32s(&[1.0, 2.0, 3.0]);
    file(&folder.join("m-1.safetensors"), &[("a", "F32", &[3], zero()), ("b", "I64", &[1], vec![5; 8])]);
    file(&folder.join("m-2.safetensors"), &[("c", "F32", &[1, 3], zero()), ("d", "F32", &[0], vec![])]);
    let map = r#"{"weight_map": {"c":"m-2.safetensors", "a":"m-1.safetensors",
        "b":"m-1.safetensors","d":"m-2.safetensors"},"metadata":{ "total_size" : 32,"more":[1.50, "x"]}}"#;
    std::fs::write(folder.join(INDEX), map).unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    std::fs::write(folder.join(".gitattributes"), "x").unwrap();
    std::fs::write(folder.join("sub/deep/tokenizer.json"), "tokens").unwrap();
}

#[test]
fn a_folder_comes_out_whole_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    sharded(&a);
    assert!(Safetensors.recognises(&a) && Safetensors.recognises(&a.join(INDEX)));
    for input in [a.clone(), a.join(INDEX)] {
        rewrite(&input, &b, &[]).unwrap(); // the second time over the first
        assert_eq!(tree(&a), tree(&b));
    }
    let source = open(&a).unwrap();
    let names: Vec<_> = source.files().iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["m-1.safetensors", "m-2.safetensors", INDEX]);
    assert_eq!(
        source.tensors().iter().map(|t| (t.name.as_str(), t.file)).collect::<Vec<_>>(),
        [("a", 0), ("b", 0), ("c", 1), ("d", 1)]
    );
    assert!(source.warnings().is_empty(), "{:?}", source.warnings());

    rewrite(&a, &b, &[("c", f32s(&[0.0, 2.0, 0.0]))]).unwrap();
    assert_eq!(read(&*open(&b).unwrap(), "c"), f32s(&[0.0, 2.0, 0.0]));
    let (old, new) = (tree(&a), tree(&b));
    let changed: Vec<_> = old.iter().zip(&new).filter(|(x, y)| x != y).map(|(x, _)| x.0.to_str().unwrap()).collect();
    assert_eq!(changed, ["m-2.safetensors"]);
    assert_eq!(tree(dir.path()).len(), old.len() + new.len()); // no temp files
}

#[cfg(unix)]
#[test]
fn links_of_a_hugging_face_cache_become_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, cache, b) = (dir.path().join("a"), dir.path().join("cache"), dir.path().join("b"));
    sharded(&a);
    std::fs::create_dir_all(cache.join("blobs")).unwrap();
    std::fs::create_dir_all(cache.join("snapshots/1/.git")).unwrap();
    let snapshot = cache.join("snapshots/1");
    for (i, name) in ["m-1.safetensors", "m-2.safetensors", INDEX, "config.json"].into_iter().enumerate() {
        std::fs::copy(a.join(name), cache.join(format!("blobs/{i}"))).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), snapshot.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("..", snapshot.join("up")).unwrap();
    std::os::unix::fs::symlink("nowhere", snapshot.join("dangling")).unwrap();
    std::fs::write(snapshot.join(".old.1-2.compress-tmp"), "").unwrap();
    std::fs::create_dir(snapshot.join("old.state")).unwrap();
    let source = open(&snapshot).unwrap();
    let mut warnings = source.warnings().to_vec();
    warnings.sort();
    let expected = [
        "\"dangling\" is no ordinary file and is not carried along",
        "the hidden folder \".git\" is not carried along",
        "the link to a folder \"up\" is not carried along",
    ];
    assert_eq!(warnings, expected);
    rewrite(&snapshot, &b, &[]).unwrap();
    let names: Vec<_> = tree(&b).into_iter().map(|(p, _)| p.to_str().unwrap().to_string()).collect();
    assert_eq!(names, ["config.json", "m-1.safetensors", "m-2.safetensors", INDEX]);
    assert!(!b.join("m-1.safetensors").is_symlink());
}

#[test]
fn pairs_across_shards_and_a_wrong_total_are_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&a).unwrap();
    file(&a.join("1.safetensors"), &[("w_orig", "F32", &[2], f32s(&[1.0, 2.0])), ("x", "F32", &[1], f32s(&[3.0]))]);
    file(&a.join("2.safetensors"), &[("w_mask", "F32", &[2], f32s(&[0.0, 1.0])), ("y", "F32", &[1], f32s(&[4.0]))]);
    let map = r#"{"metadata":{"total_size":24,"k":"v"},"weight_map":{"w_orig":"1.safetensors","x":"1.safetensors","w_mask":"2.safetensors","y":"2.safetensors"}}"#;
    std::fs::write(a.join(INDEX), map).unwrap();
    rewrite(&a, &b, &[]).unwrap();
    let index = std::fs::read_to_string(b.join(INDEX)).unwrap();
    let expected = "{\n  \"metadata\": {\n    \"total_size\": 16,\n    \"k\": \"v\"\n  },\n  \"weight_map\": {\n    \
                    \"w\": \"1.safetensors\",\n    \"x\": \"1.safetensors\",\n    \"y\": \"2.safetensors\"\n  }\n}\n";
    assert_eq!(index, expected);
    assert_eq!(read(&*open(&b).unwrap(), "w"), f32s(&[0.0, 2.0]));

    std::fs::write(b.join(INDEX), index.replace("16", "99.0")).unwrap();
    let source = open(&b).unwrap();
    assert_eq!(source.warnings(), ["the index says \"total_size\" 99, the tensors have 16 bytes"]);
    rewrite(&b, &dir.path().join("c"), &[]).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("c").join(INDEX)).unwrap(), index);
}

#[test]
fn a_folder_with_one_file_and_no_index_is_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&a).unwrap();
    file(&a.join("model.safetensors"), &[("w", "F32", &[1], f32s(&[1.0]))]);
    std::fs::write(a.join("config.json"), "{}").unwrap();
    rewrite(&a, &b, &[]).unwrap();
    assert_eq!(tree(&a), tree(&b));
    file(&a.join("other.safetensors"), &[]);
    let error = open(&a).err().unwrap().to_string();
    assert!(error.contains("holds 2 safetensors files and no index"), "{error}");
    let error = open(dir.path()).err().unwrap().to_string();
    assert!(error.ends_with("holds no safetensors file"), "{error}");
}

#[test]
fn each_malformed_index_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let a = dir.path().join("a");
    for (index, expected) in [
        ("", "the index is not valid: EOF while parsing"),
        ("[]", "the index is not valid: "),
        ("{}", "the index is not valid: missing field `weight_map`"),
        (
            r#"{"weight_map":{"a":1}}"#,
            "the index is not valid: tensor \"a\": invalid type: integer `1`, expected a string",
        ),
        (
            r#"{"weight_map":{"a":"../x"}}"#,
            "tensor \"a\": the shard \"../x\" is no plain file name in the index's own folder",
        ),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "is no plain file name"),
        (r#"{"weight_map":{"a":"sub/x"}}"#, "is no plain file name"),
        (r#"{"weight_map":{"a":".."}}"#, "is no plain file name"),
        (r#"{"weight_map":{"a":""}}"#, "is no plain file name"),
        (r#"{"weight_map":{"a":"m-1.safetensors","a":"m-1.safetensors"}}"#, "tensor \"a\" stands twice"),
        (r#"{"weight_map":{"a":"m-3.safetensors"}}"#, "m-3.safetensors\": there is no such file or folder"),
        (r#"{"weight_map":{"a":"m-2.safetensors"}}"#, "tensor \"a\" is not in the shard \"m-2.safetensors\""),
        (r#"{"weight_map":{"q":"m-1.safetensors"}}"#, "tensor \"q\" is not in the shard \"m-1.safetensors\""),
    ] {
        sharded(&a);
        std::fs::write(a.join(INDEX), index).unwrap();
        let error = open(&a).err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains(INDEX), "{index}\n  gives {error}\n  not   {expected}");
    }
    let deep = format!("{{\"weight_map\":{{}},\"metadata\":{{\"total_size\":{}1", "[".repeat(10_000));
    std::fs::write(a.join(INDEX), deep).unwrap();
    assert!(open(&a).err().unwrap().to_string().contains("recursion limit exceeded"));

    std::fs::write(a.join(INDEX), r#"{"weight_map":{"a":"m-1.safetensors","c":"m-2.safetensors"}}"#).unwrap();
    assert_eq!(open(&a).unwrap().warnings().len(), 2); // b and d are not in the index
    file(&a.join("m-2.safetensors"), &[("a", "F32", &[1], f32s(&[1.0])), ("c", "F32", &[0], vec![])]);
    let error = open(&a).err().unwrap().to_string();
    assert!(
        error.contains("m-2.safetensors\": tensor \"a\": the tensor is in") && error.contains("m-1.safetensors\" too"),
        "{error}"
    );
}

#[test]
fn output_folders_that_would_do_harm_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let p = |n: &str| dir.path().join(n);
    sharded(&p("home/a"));
    std::fs::create_dir(p("photos")).unwrap();
    std::fs::write(p("photos/1.jpg"), "x").unwrap();
    std::fs::write(p("file"), "x").unwrap();
    sharded(&p("old"));
    let before = tree(dir.path());
    let source = open(&p("home/a")).unwrap();
    for (output, force, expected) in [
        ("home/a", true, "holds the input"),
        ("home", true, "holds the input"),
        (".", true, ""),
        ("home/a/sub", true, "lies within the model's folder"),
        ("home/a/new", true, "lies within the model's folder"),
        ("old", false, "exists: --force replaces it"),
        ("photos", true, "it would be removed with all that is in it"),
        ("file", true, "is a file: name a folder"),
        ("new.safetensors", true, "must be a folder"),
        ("none/new", true, "there is no such file or folder"),
    ] {
        let error = source.create(&p(output), &CreateOptions { force, ..Default::default() }).err();
        let error = error.unwrap_or_else(|| panic!("{output} is accepted")).to_string();
        assert!(error.contains(expected), "{output}: {error}");
    }
    drop(source.create(&p("new"), &CreateOptions::default()).unwrap().finish().unwrap());
    assert_eq!(tree(dir.path()), before);
}
