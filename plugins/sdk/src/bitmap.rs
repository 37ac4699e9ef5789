//! One bit a weight.

/// A fixed number of bits, packed lowest bit first: bit `i` is bit `i % 8` of byte `i / 8`. In a mask 1 = kept.
/// Bits beyond `len` are zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bitmap {
    bytes: Vec<u8>,
    len: usize,
}

impl Bitmap {
    /// `len` bits, all of them `value`.
    pub fn new(len: usize, value: bool) -> Bitmap {
        let mut map = Bitmap { bytes: vec![if value { 0xff } else { 0 }; len.div_ceil(8)], len };
        map.clear_tail();
        map
    }

    /// Takes packed bytes; `None` where their number is not `ceil(len / 8)`. Bits beyond `len` are cleared.
    pub fn from_bytes(bytes: Vec<u8>, len: usize) -> Option<Bitmap> {
        if bytes.len() != len.div_ceil(8) {
            return None;
        }
        let mut map = Bitmap { bytes, len };
        map.clear_tail();
        Some(map)
    }

    fn clear_tail(&mut self) {
        let used = self.len % 8;
        if used != 0
            && let Some(last) = self.bytes.last_mut()
        {
            *last &= (1u8 << used) - 1;
        }
    }

    /// Number of bits.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no bit at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bit `i`. Panics where `i >= len`.
    pub fn get(&self, i: usize) -> bool {
        assert!(i < self.len, "bit {i} of a bitmap of {}", self.len);
        self.bytes[i / 8] >> (i % 8) & 1 == 1
    }

    /// Sets bit `i` to `value`. Panics where `i >= len`.
    pub fn set(&mut self, i: usize, value: bool) {
        assert!(i < self.len, "bit {i} of a bitmap of {}", self.len);
        let bit = 1 << (i % 8);
        if value {
            self.bytes[i / 8] |= bit;
        } else {
            self.bytes[i / 8] &= !bit;
        }
    }

    /// How many bits are 1.
    pub fn count_ones(&self) -> u64 {
        self.bytes.iter().map(|b| u64::from(b.count_ones())).sum()
    }

    /// The packed bytes, `ceil(len / 8)` of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The packed bytes themselves.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// All bits in order.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.len).map(|i| self.bytes[i / 8] >> (i % 8) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_packed_lowest_first() {
        let mut map = Bitmap::new(10, false);
        map.set(0, true);
        map.set(9, true);
        assert_eq!(map.as_bytes(), [1, 2]);
        assert_eq!(map.count_ones(), 2);
    }

    #[test]
    fn bits_beyond_the_end_are_cleared() {
        for len in [0, 1, 2, 7, 8, 63, 64, 65] {
            assert_eq!(Bitmap::new(len, true).count_ones(), len as u64);
            assert_eq!(Bitmap::from_bytes(vec![0xff; len.div_ceil(8)], len).map(|m| m.count_ones()), Some(len as u64));
        }
        assert_eq!(Bitmap::from_bytes(vec![0], 9), None);
    }
}
