//! A tensor that a method has encoded: the sum of terms that it became, decoded on demand.
//!
//! The terms are packed once with plain values and read by the same decoder that reads a file, so whatever a later
//! stage sees is, to the bit, what the written tensor will mean.

use std::path::Path;

use compress_sdk::{Bitmap, Encoding, Layout, Term};
use serde::{Deserialize, Serialize};

use super::TensorState;
use crate::convert::{from_f32, to_f32};
use crate::encode::outline::ValueCoding;
use crate::encode::pieces::Pieces;
use crate::encode::terms::pack;
use crate::error::{Error, Result};
use crate::stfile::{Spec, StFile, StWriter};
use crate::tensor::Dtype;

/// A tensor as a sum of terms of f32 values. Rows × cols are the tensor as stored: element (r, c) is at r · cols + c of
/// its flat order, whatever the order in which a method sees it.
pub struct Terms {
    encoding: Encoding,
    values: ValueCoding,
    pieces: Pieces,
    source: Option<Box<TensorState>>,
}

impl Terms {
    /// Takes an encoding of a whole tensor. `source`: the weights that it stands for, where a later stage may ask what
    /// is missing of them.
    pub fn new(encoding: Encoding, dtype: &Dtype, shape: &[u64], source: Option<TensorState>) -> Result<Terms> {
        let pieces = Pieces::of(&pack(&encoding, dtype, shape, ValueCoding::Plain)?)?;
        Ok(Terms { encoding, values: ValueCoding::Plain, pieces, source: source.map(Box::new) })
    }

    /// The same terms with their values coded in another way.
    pub fn recoded(&self, values: ValueCoding) -> Result<Terms> {
        let outline = self.pieces.outline();
        let pieces = Pieces::of(&pack(&self.encoding, &outline.dtype, &outline.shape, values)?)?;
        Ok(Terms { encoding: self.encoding.clone(), values, pieces, source: self.source.clone() })
    }

    /// How its values are coded.
    pub fn values(&self) -> ValueCoding {
        self.values
    }

    /// What is written.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// The terms.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// What it stands for: the weights before the first encoding, where they are kept.
    pub fn source(&self) -> Option<&TensorState> {
        self.source.as_deref()
    }

    /// Fills `out` with dense bytes of the tensor's type from byte `offset`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.pieces.fill(offset, out)
    }

    /// How it is made in a word: `factored`, `factored + sparse`.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.encoding.terms.iter().map(|t| layout_name(&t.layout)).collect();
        names.join(" + ")
    }

    /// Numbers that it is made of: factors, buckets, values.
    pub fn parameters(&self) -> u64 {
        self.encoding.terms.iter().map(|t| t.values.len() as u64).sum()
    }
}

/// The layout's name in reports and state files.
pub fn layout_name(layout: &Layout) -> &'static str {
    match layout {
        Layout::Dense => "dense",
        Layout::Sparse(_) => "sparse",
        Layout::Factored { .. } => "factored",
        Layout::Hashed { .. } => "hashed",
    }
}

/// The terms of a tensor in the metadata of a state file.
#[derive(Serialize, Deserialize)]
struct Record {
    rows: usize,
    cols: usize,
    /// The coding of the values, where it is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    coding: Option<String>,
    terms: Vec<TermRecord>,
}

#[derive(Serialize, Deserialize)]
struct TermRecord {
    layout: String,
    values: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
}

/// Writes the terms of tensors as a safetensors file of the run's state: `<name>.<k>.values`, and `<name>.<k>.bits` of
/// sparse ones.
pub fn save(tensors: &[(&str, &Terms)], path: &Path) -> Result<()> {
    let (mut specs, mut data, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
    for (name, terms) in tensors {
        let coding = Some(terms.values).filter(|v| *v != ValueCoding::Plain).map(|v| v.to_string());
        let (rows, cols) = (terms.encoding.rows, terms.encoding.cols);
        let mut record = Record { rows, cols, coding, terms: Vec::new() };
        for (k, term) in terms.encoding.terms.iter().enumerate() {
            let mut bytes = vec![0; term.values.len() * 4];
            from_f32(&Dtype::F32, &term.values, &mut bytes);
            let shape = vec![term.values.len() as u64];
            specs.push(Spec { name: format!("{name}.{k}.values"), dtype: Dtype::F32, shape });
            data.push(bytes);
            let (mut rank, mut seed) = (None, None);
            match &term.layout {
                Layout::Dense => {}
                Layout::Factored { rank: r } => rank = Some(*r),
                Layout::Hashed { seed: s } => seed = Some(*s),
                Layout::Sparse(bits) => {
                    let shape = vec![bits.as_bytes().len() as u64];
                    let dtype = crate::encode::outline::u8_type();
                    specs.push(Spec { name: format!("{name}.{k}.bits"), dtype, shape });
                    data.push(bits.as_bytes().to_vec());
                }
            }
            let layout = layout_name(&term.layout).to_string();
            record.terms.push(TermRecord { layout, values: term.values.len(), rank, seed });
        }
        let text = serde_json::to_string(&record).map_err(|e| Error::failed(e.to_string()))?;
        metadata.push((name.to_string(), text));
    }
    let writer = StWriter::create(path, &specs, &metadata)?;
    for (i, bytes) in data.iter().enumerate() {
        writer.write_at(i, 0, bytes)?;
    }
    writer.finish()?.persist(path)
}

/// Reads what [`save`] wrote: names, terms and the coding of their values.
pub fn load(path: &Path) -> Result<Vec<(String, Encoding, ValueCoding)>> {
    let file = StFile::open(path)?;
    let damaged =
        |what: &str| Error::failed(format!("\"{}\" is damaged ({what}); --force starts anew", path.display()));
    let read = |name: String| {
        let entry = file.entry(&name).ok_or_else(|| damaged(&name))?;
        let mut bytes = vec![0; entry.bytes() as usize];
        file.read_at(entry, 0, &mut bytes)?;
        Ok::<_, Error>(bytes)
    };
    let mut found = Vec::new();
    for (name, text) in file.metadata() {
        let record: Record = serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
        let mut terms = Vec::new();
        for (k, term) in record.terms.into_iter().enumerate() {
            let layout = match (term.layout.as_str(), term.rank, term.seed) {
                ("dense", ..) => Layout::Dense,
                ("factored", Some(rank), _) => Layout::Factored { rank },
                ("hashed", _, Some(seed)) => Layout::Hashed { seed },
                ("sparse", ..) => {
                    let bits = read(format!("{name}.{k}.bits"))?;
                    let bits = Bitmap::from_bytes(bits, record.rows * record.cols);
                    Layout::Sparse(bits.ok_or_else(|| damaged("bits"))?)
                }
                _ => return Err(damaged(&term.layout)),
            };
            let bytes = read(format!("{name}.{k}.values"))?;
            let mut values = vec![0f32; term.values];
            if bytes.len() != values.len() * 4 {
                return Err(damaged("values"));
            }
            to_f32(&Dtype::F32, &bytes, &mut values);
            terms.push(Term { layout, values });
        }
        let coding = match &record.coding {
            Some(name) => ValueCoding::named(name).ok_or_else(|| damaged(name))?,
            None => ValueCoding::Plain,
        };
        found.push((name.clone(), Encoding { rows: record.rows, cols: record.cols, terms }, coding));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum() -> Encoding {
        let mut bits = Bitmap::new(6, false);
        bits.set(4, true);
        let factored = Term { layout: Layout::Factored { rank: 1 }, values: vec![1.0, 2.0, 10.0, 20.0, 30.0] };
        let sparse = Term { layout: Layout::Sparse(bits), values: vec![0.5] };
        let hashed = Term { layout: Layout::Hashed { seed: 7 }, values: vec![0.25, -0.25] };
        Encoding { rows: 2, cols: 3, terms: vec![factored, sparse, hashed] }
    }

    fn decoded(terms: &Terms, dtype: &Dtype, first: usize, count: usize) -> Vec<f32> {
        let width = dtype.float_bytes().unwrap();
        let mut bytes = vec![0; count * width];
        terms.fill((first * width) as u64, &mut bytes).unwrap();
        let mut values = vec![0.0; count];
        to_f32(dtype, &bytes, &mut values);
        values
    }

    #[test]
    fn a_sum_is_decoded_from_anywhere() {
        let mut encoding = sum();
        encoding.terms.truncate(2);
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F64] {
            let terms = Terms::new(encoding.clone(), &dtype, &[1, 2, 3], None).unwrap();
            let all = decoded(&terms, &dtype, 0, 6);
            assert_eq!(all, [10., 20., 30., 20., 40.5, 60.], "{dtype:?}");
            for first in 0..6 {
                assert_eq!(decoded(&terms, &dtype, first, 6 - first), all[first..]);
            }
            assert_eq!(terms.describe(), "factored + sparse");
            assert_eq!(terms.parameters(), 6);
        }
    }

    #[test]
    fn an_encoding_of_another_size_is_refused() {
        let error = Terms::new(sum(), &Dtype::F32, &[7], None).err().unwrap();
        assert_eq!(error.to_string(), "an encoding of 2 × 3 weights for a tensor of [7]");
    }

    #[test]
    fn the_state_file_gives_the_same_terms_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("terms.safetensors");
        let terms = Terms::new(sum(), &Dtype::F32, &[2, 3], None).unwrap();
        let coded = terms.recoded(ValueCoding::Int8).unwrap();
        save(&[("b", &terms), ("a.0.values", &coded)], &path).unwrap();
        let found = load(&path).unwrap();
        assert_eq!(
            found,
            [("b".to_string(), sum(), ValueCoding::Plain), ("a.0.values".to_string(), sum(), ValueCoding::Int8)]
        );
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("terms.safetensors"));
    }
}
