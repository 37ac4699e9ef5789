//! safetensors files by hand: well-formed ones of any type, and the way back through the `safetensors` crate.

use std::collections::BTreeMap;

use half::{bf16, f16};

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// Values in a float type of the format.
pub fn encode(dtype: &str, values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|v| match dtype {
            "F64" => v.to_le_bytes().to_vec(),
            "F32" => (*v as f32).to_le_bytes().to_vec(),
            "F16" => f16::from_f64(*v).to_le_bytes().to_vec(),
            "BF16" => bf16::from_f64(*v).to_le_bytes().to_vec(),
            other => panic!("{other} is no float"),
        })
        .collect()
}

/// And back.
pub fn decode(dtype: &str, bytes: &[u8]) -> Vec<f64> {
    fn each<const W: usize>(bytes: &[u8], f: impl Fn([u8; W]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<W>().0.iter().map(|b| f(*b)).collect()
    }
    match dtype {
        "F64" => each(bytes, f64::from_le_bytes),
        "F32" => each(bytes, |b| f32::from_le_bytes(b).into()),
        "F16" => each(bytes, |b| f16::from_le_bytes(b).into()),
        "BF16" => each(bytes, |b| bf16::from_le_bytes(b).into()),
        other => panic!("{other} is no float"),
    }
}

/// A float tensor.
pub fn tensor(name: &str, dtype: &'static str, shape: &[u64], values: &[f64]) -> Tensor {
    assert_eq!(shape.iter().product::<u64>(), values.len() as u64);
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes: encode(dtype, values) }
}

/// An I64 tensor, which nobody prunes.
pub fn i64s(name: &str, values: &[i64]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: "I64", shape: vec![values.len() as u64], bytes }
}

/// A file around any header text.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file of these tensors in this order.
pub fn file(tensors: &[Tensor], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let entries = metadata.iter().map(|(k, v)| (k.to_string(), (*v).into()));
        header.insert("__metadata__".into(), serde_json::Value::Object(entries.collect()));
    }
    let mut data = Vec::new();
    for t in tensors {
        let offsets = [data.len(), data.len() + t.bytes.len()];
        let entry = serde_json::json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": offsets });
        header.insert(t.name.clone(), entry);
        data.extend_from_slice(&t.bytes);
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    raw(&text, &data)
}

/// Name → (type, shape, bytes) as the `safetensors` crate reads them.
pub fn read(bytes: &[u8]) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let file = safetensors::SafeTensors::deserialize(bytes).expect("the safetensors crate reads it");
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let shape = view.shape().iter().map(|d| *d as u64).collect();
            (name, (format!("{:?}", view.dtype()), shape, view.data().to_vec()))
        })
        .collect()
}

/// The `__metadata__` of a file.
pub fn metadata(bytes: &[u8]) -> BTreeMap<String, String> {
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes).expect("the safetensors crate reads it");
    header.metadata().clone().unwrap_or_default().into_iter().collect()
}

/// The masks of a mask file by the design's sentence: bit i, lowest first, is flat index i; 1 = kept.
pub fn masks(bytes: &[u8]) -> BTreeMap<String, (Vec<u64>, Vec<bool>)> {
    let shapes = metadata(bytes);
    read(bytes)
        .into_iter()
        .map(|(name, (dtype, stored, bits))| {
            if dtype == "BOOL" {
                return (name, (stored, bits.iter().map(|b| *b != 0).collect()));
            }
            assert_eq!(dtype, "U8", "{name}");
            let shape: Vec<u64> = serde_json::from_str(&shapes[&format!("shape:{name}")]).unwrap();
            let n = shape.iter().product::<u64>() as usize;
            assert_eq!(stored, [n.div_ceil(8) as u64], "{name}");
            assert!((n..bits.len() * 8).all(|i| bits[i / 8] >> (i % 8) & 1 == 0), "{name}: stray bits");
            let kept = (0..n).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
            (name, (shape, kept))
        })
        .collect()
}

/// A mask file of packed bits.
pub fn mask_file(masks: &[(&str, &[u64], Vec<bool>)]) -> Vec<u8> {
    let tensors: Vec<Tensor> = masks
        .iter()
        .map(|(name, _, kept)| {
            let mut bytes = vec![0u8; kept.len().div_ceil(8)];
            kept.iter().enumerate().for_each(|(i, k)| bytes[i / 8] |= u8::from(*k) << (i % 8));
            Tensor { name: name.to_string(), dtype: "U8", shape: vec![bytes.len() as u64], bytes }
        })
        .collect();
    let shapes: Vec<(String, String)> =
        masks.iter().map(|(n, s, _)| (format!("shape:{n}"), format!("{s:?}").replace(' ', ""))).collect();
    let shapes: Vec<(&str, &str)> = shapes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    file(&tensors, &shapes)
}
