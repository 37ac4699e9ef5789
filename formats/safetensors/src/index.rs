//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use compress_core::stfile::{MAX_HEADER_BYTES, quoted};
use compress_core::{Error, Result, files};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

/// What the names of indexes end in.
pub const SUFFIX: &str = ".safetensors.index.json";

/// An index as read.
#[derive(Debug)]
pub struct Index {
    /// Where it is.
    pub path: PathBuf,
    /// The file as it stands.
    pub text: Vec<u8>,
    /// Tensor to shard.
    pub weight_map: HashMap<String, String>,
    /// `metadata.total_size`, where it is a number.
    pub total_size: Option<u64>,
}

impl Index {
    /// Reads and checks an index; shards are not opened.
    pub fn open(path: &Path) -> Result<Index> {
        let file = files::open(path)?;
        let io = |e: std::io::Error| Error::io("read", path, &e);
        let wrong = |text: String| Error::failed(format!("\"{}\": {text}", path.display()));
        let bytes = file.metadata().map_err(io)?.len();
        if bytes > MAX_HEADER_BYTES {
            return Err(wrong(format!("an index of {bytes} bytes (at most {MAX_HEADER_BYTES})")));
        }
        let mut text = vec![0; bytes as usize];
        files::read_exact_at(&file, &mut text, 0).map_err(io)?;
        let raw: Raw = serde_json::from_slice(&text).map_err(|e| {
            let e = e.to_string();
            wrong(format!("the index is not valid: {}", e.split(" at line ").next().unwrap_or(&e)))
        })?;
        let mut weight_map = HashMap::with_capacity(raw.weight_map.0.len());
        for (tensor, shard) in raw.weight_map.0 {
            if !is_plain_name(&shard) {
                let what = format!("tensor {}: the shard {} is no plain file name", quoted(&tensor), quoted(&shard));
                return Err(wrong(format!("{what} in the index's own folder")));
            }
            if let Some(earlier) = weight_map.insert(tensor.clone(), shard) {
                return Err(wrong(format!("tensor {} stands twice, first in {}", quoted(&tensor), quoted(&earlier))));
            }
        }
        let total_size = raw.metadata.and_then(|m| m.total_size).and_then(|n| match n {
            TotalSize::Whole(n) => Some(n),
            TotalSize::Real(x) if x >= 0.0 && x.fract() == 0.0 && x < 9e15 => Some(x as u64),
            TotalSize::Real(_) | TotalSize::Other(_) => None,
        });
        Ok(Index { path: path.to_path_buf(), text, weight_map, total_size })
    }

    /// The shards' names, sorted.
    pub fn shards(&self) -> Vec<String> {
        let mut names: Vec<String> = self.weight_map.values().cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// The text of an index in which tensors are replaced by others of the same shard, with the right total; everything else as it
    /// was, in the layout of Hugging Face (two spaces, sorted).
    pub fn rewritten(&self, changes: &BTreeMap<&str, Vec<String>>, total_size: u64) -> Result<Vec<u8>> {
        let wrong = |e: &dyn fmt::Display| Error::failed(format!("\"{}\": {e}", self.path.display()));
        let mut value: Value = serde_json::from_slice(&self.text).map_err(|e| wrong(&e))?;
        let object = value.as_object_mut().ok_or_else(|| wrong(&"the index is no object"))?;
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("total_size".into(), total_size.into());
        }
        if let Some(map) = object.get_mut("weight_map").and_then(Value::as_object_mut) {
            let old = std::mem::take(map);
            let mut new = BTreeMap::new();
            for (name, shard) in old {
                match changes.get(name.as_str()) {
                    None => _ = new.insert(name, shard),
                    Some(names) => new.extend(names.iter().map(|n| (n.clone(), shard.clone()))),
                }
            }
            *map = new.into_iter().collect();
        }
        let mut text = serde_json::to_vec_pretty(&value).map_err(|e| wrong(&e))?;
        text.push(b'\n');
        Ok(text)
    }
}

/// A name that can only lie in the folder itself.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

#[derive(serde::Deserialize)]
struct Raw {
    weight_map: Pairs,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(serde::Deserialize)]
struct Metadata {
    #[serde(default)]
    total_size: Option<TotalSize>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum TotalSize {
    Whole(u64),
    Real(f64),
    Other(#[allow(dead_code)] serde::de::IgnoredAny),
}

/// Collected as they come, because a map would silently keep one of two equal names.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors and shards")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let place = |e: A::Error| A::Error::custom(format!("tensor {}: {e}", quoted(&name)));
                    let shard = map.next_value().map_err(place)?;
                    pairs.push((name, shard));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
