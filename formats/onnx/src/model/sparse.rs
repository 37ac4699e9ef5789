//! Sparse tensors of the file, read as if they were dense.

use compress_core::{Error, Result};

use super::dtype::DataType;
use super::spans::MessageId;
use super::tensor::{TensorRef, count_elements};

/// Indices that are read at a time.
const BATCH: u64 = 4096;

/// A sparse tensor, `SparseTensorProto`: values at flat indices, or at rows of coordinates, in increasing order.
#[derive(Clone, Debug)]
pub struct SparseRef {
    /// The values; the tensor's name is theirs.
    pub values: TensorRef,
    /// I64 of shape `[count]` or `[count, rank]`.
    pub indices: TensorRef,
    /// Dimensions of the dense tensor.
    pub dims: Vec<u64>,
    /// Elements of the dense tensor.
    pub elements: u64,
    pub(crate) message: MessageId,
}

impl SparseRef {
    pub(crate) fn new(
        values: TensorRef,
        indices: TensorRef,
        dims: Vec<u64>,
        message: MessageId,
        max_expand: u64,
    ) -> Result<Self> {
        let what = |text: String| Error::failed(format!("sparse tensor \"{}\": {text}", values.name));
        let Some(elements) = count_elements(&dims) else {
            return Err(what(format!("the shape {dims:?} has too many elements")));
        };
        let bits = values.data_type.bits();
        if bits == 0 || !bits.is_multiple_of(8) {
            return Err(what(format!("values of type {}", values.data_type.name())));
        }
        let by_rank = [values.elements, dims.len() as u64];
        let fits = indices.data_type == DataType::INT64
            && (indices.dims == by_rank[..1] || indices.dims == by_rank)
            && values.dims.len() <= 1;
        if !fits {
            return Err(what(format!("indices of shape {:?} for {} values", indices.dims, values.elements)));
        }
        let stored = values.stored_bytes() + indices.stored_bytes();
        let dense = u128::from(elements) * u128::from(bits / 8);
        if dense > u128::from(stored.max(64)) * u128::from(max_expand) {
            let why =
                format!("unfolds from {stored} to {dense} bytes; allow it with --max-expand if you trust the file");
            return Err(what(why));
        }
        let this = SparseRef { values, indices, dims, elements, message };
        this.check_order()?;
        Ok(this)
    }

    /// Bytes of the dense tensor.
    pub fn dense_bytes(&self) -> u64 {
        self.elements * u64::from(self.values.data_type.bits() / 8)
    }

    /// Bytes that it takes in the file.
    pub fn stored_bytes(&self) -> u64 {
        self.values.stored_bytes() + self.indices.stored_bytes()
    }

    /// Fills `out` with the dense tensor's bytes from byte `offset`.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let width = u64::from(self.values.data_type.bits() / 8);
        out.fill(0);
        let end = offset + out.len() as u64;
        let (mut at, mut value) = (self.first_at(offset / width)?, [0u8; 16]);
        let value = &mut value[..width as usize];
        while at < self.values.elements {
            let flat = self.flat_indices(at, BATCH)?;
            for index in &flat {
                let start = index * width;
                if start >= end {
                    return Ok(());
                }
                self.values.read_at(at * width, value)?;
                for (i, byte) in value.iter().enumerate() {
                    let position = start + i as u64;
                    if (offset..end).contains(&position) {
                        out[(position - offset) as usize] = *byte;
                    }
                }
                at += 1;
            }
        }
        Ok(())
    }

    /// The number of the first value whose flat index is at least `element`.
    fn first_at(&self, element: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.values.elements);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.flat_indices(middle, 1)?.first().is_some_and(|flat| *flat < element) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The flat indices of up to `count` values from value `first`.
    fn flat_indices(&self, first: u64, count: u64) -> Result<Vec<u64>> {
        let columns = if self.indices.dims.len() == 2 { self.dims.len() } else { 1 };
        let count = count.min(self.values.elements - first);
        let mut bytes = vec![0; count as usize * columns * 8];
        self.indices.read_at(first * columns as u64 * 8, &mut bytes)?;
        let number = |c: &[u8]| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
        let outside = || {
            Error::failed(format!("sparse tensor \"{}\": an index lies outside of {:?}", self.values.name, self.dims))
        };
        let mut out = Vec::with_capacity(count as usize);
        for row in bytes.chunks_exact(columns.max(1) * 8) {
            let mut flat = 0;
            if self.indices.dims.len() == 2 {
                for (coordinate, dim) in row.chunks_exact(8).map(number).zip(&self.dims) {
                    if coordinate >= *dim {
                        return Err(outside());
                    }
                    flat = flat * dim + coordinate;
                }
            } else {
                flat = number(row);
            }
            if flat >= self.elements {
                return Err(outside());
            }
            out.push(flat);
        }
        if out.len() as u64 != count {
            return Err(outside());
        }
        Ok(out)
    }

    /// Values out of order would be found by no search, so they are refused here.
    fn check_order(&self) -> Result<()> {
        let (mut at, mut last) = (0, None);
        while at < self.values.elements {
            for flat in self.flat_indices(at, BATCH)? {
                if last.is_some_and(|last| last >= flat) {
                    let text =
                        format!("sparse tensor \"{}\": its indices are not in increasing order", self.values.name);
                    return Err(Error::failed(text));
                }
                last = Some(flat);
                at += 1;
            }
        }
        Ok(())
    }
}
