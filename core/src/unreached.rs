//! Rows of a weight that the data never reached: rows of an embedding that were never read, outputs that no gradient came
//! to. Their scores are zero, so they go first, and whoever measured on too little data should know.

use compress_sdk::EvidenceKind;

use crate::error::Result;
use crate::evidence::EvidenceFile;
use crate::report::Unreached;
use crate::tensor::TensorInfo;

/// Numbers that are read at once.
const READ: u64 = 1 << 18;

/// The rows of these tensors whose evidence of the given kinds is zero throughout, where there are any. `gram` says
/// nothing of rows.
pub fn unreached<'a>(
    file: &EvidenceFile,
    kinds: &[EvidenceKind],
    tensors: impl Iterator<Item = &'a TensorInfo>,
) -> Result<Vec<Unreached>> {
    let mut found = Vec::new();
    for tensor in tensors {
        let [rows, cols] = tensor.shape[..] else { continue };
        let kind = kinds.iter().find(|kind| **kind != EvidenceKind::Gram && file.has(&tensor.name, **kind));
        let Some(kind) = kind.filter(|_| rows > 0 && cols > 0) else { continue };
        let width = if *kind == EvidenceKind::RowCount { 1 } else { cols };
        let zero = zero_rows(file, &tensor.name, *kind, rows, width)?;
        if !zero.is_empty() {
            found.push(Unreached { tensor: tensor.name.clone(), of: rows, rows: zero });
        }
    }
    Ok(found)
}

fn zero_rows(file: &EvidenceFile, name: &str, kind: EvidenceKind, rows: u64, width: u64) -> Result<Vec<u64>> {
    let step = (READ / width).max(1);
    let mut zero = Vec::new();
    for first in (0..rows).step_by(step as usize) {
        let mut numbers = vec![0f32; (step.min(rows - first) * width) as usize];
        file.read(name, kind, first * width, &mut numbers)?;
        let of_block = numbers.chunks_exact(width as usize).zip(first..);
        zero.extend(of_block.filter(|(row, _)| row.iter().all(|x| *x == 0.0)).map(|(_, r)| r));
    }
    Ok(zero)
}

impl Unreached {
    /// One line: how many, and the first of them.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 6;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for row in &self.rows {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *row => *last = *row,
                _ => ranges.push((*row, *row)),
            }
        }
        let words: Vec<String> = ranges
            .iter()
            .take(SHOWN)
            .map(|(a, b)| if a == b { a.to_string() } else { format!("{a}–{b}") })
            .chain((ranges.len() > SHOWN).then(|| "…".into()))
            .collect();
        format!(
            "\"{}\": {} of {} rows were never reached by the data of the evidence, so their evidence is 0 and they go early or first: {}",
            self.tensor,
            self.rows.len(),
            self.of,
            words.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shown_as_ranges() {
        let rows = vec![0, 3, 4, 5, 9, 11, 13, 15, 17];
        let text = Unreached { tensor: "embed".into(), of: 20, rows }.describe();
        assert!(text.starts_with("\"embed\": 9 of 20 rows"), "{text}");
        assert!(text.ends_with("first: 0, 3–5, 9, 11, 13, 15, …"), "{text}");
    }
}
