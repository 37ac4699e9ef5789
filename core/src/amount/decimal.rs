//! Exact non-negative decimal numbers with any number of digits.

use std::fmt;

/// An exact non-negative decimal number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decimal {
    /// What stands before the point.
    integer: u64,
    /// The digits after the point, each 0 to 9, the last one not 0.
    fraction: Vec<u8>,
}

impl Decimal {
    /// Reads digits with at most one point within: `12`, `12.5`. No sign, no exponent.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (integer, fraction) = match text.split_once('.') {
            Some((integer, fraction)) if !fraction.is_empty() => (integer, fraction),
            Some(_) => return None,
            None => (text, ""),
        };
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if integer.is_empty() || !digits(integer) || !digits(fraction) {
            return None;
        }
        Some(Decimal::new(integer.parse().ok()?, fraction.bytes().map(|b| b - b'0').collect()))
    }

    fn new(integer: u64, mut fraction: Vec<u8>) -> Decimal {
        while fraction.last() == Some(&0) {
            fraction.pop();
        }
        Decimal { integer, fraction }
    }

    /// Divided by 10^`places`.
    #[must_use]
    pub fn shifted_right(&self, places: usize) -> Decimal {
        let mut integer = self.integer;
        let mut moved = Vec::with_capacity(places + self.fraction.len());
        for _ in 0..places {
            moved.push((integer % 10) as u8);
            integer /= 10;
        }
        moved.reverse();
        moved.extend(&self.fraction);
        Decimal::new(integer, moved)
    }

    /// Whether it is greater than 1.
    pub fn exceeds_one(&self) -> bool {
        self.integer > 1 || (self.integer == 1 && !self.fraction.is_empty())
    }

    /// Whether it is less than 1.
    pub fn is_below_one(&self) -> bool {
        self.integer == 0
    }

    /// ⌊x·n + ½⌋ for x ≤ 1.
    pub fn round_times(&self, n: u64) -> u64 {
        let (floor, tenths) = self.multiply(n);
        // Saturates only where x > 1.
        u64::try_from(floor + u128::from(tenths >= 5)).unwrap_or(u64::MAX)
    }

    /// ⌊x·n⌋.
    pub fn times(&self, n: u64) -> u128 {
        self.multiply(n).0
    }

    /// Whether x·n is exactly the integer `product`.
    pub fn times_is(&self, n: u64, product: u64) -> bool {
        let mut carry = 0u128;
        for d in self.fraction.iter().rev() {
            carry += u128::from(*d) * u128::from(n);
            if !carry.is_multiple_of(10) {
                return false;
            }
            carry /= 10;
        }
        u128::from(self.integer) * u128::from(n) + carry == u128::from(product)
    }

    /// x·n: what stands before the point, and the first digit after it. Long multiplication from the last digit, so
    /// any number of digits is exact.
    fn multiply(&self, n: u64) -> (u128, u8) {
        let mut carry = 0u128;
        let mut digit = 0;
        for d in self.fraction.iter().rev() {
            carry += u128::from(*d) * u128::from(n);
            digit = (carry % 10) as u8;
            carry /= 10;
        }
        (u128::from(self.integer) * u128::from(n) + carry, digit)
    }

    /// Whether [`Decimal::divide`] can be exact.
    pub(super) fn divides_exactly(&self) -> bool {
        self.fraction.len() <= 18
    }

    /// ⌊n / x⌋ for x ≥ 1 with at most 18 decimals: 2⁶⁴·10¹⁸ is below 2¹²⁸.
    pub(super) fn divide(&self, n: u64) -> u64 {
        let scale = 10u128.pow(self.fraction.len().min(18) as u32);
        let fraction = self.fraction.iter().take(18).fold(0u128, |sum, d| sum * 10 + u128::from(*d));
        let divisor = u128::from(self.integer) * scale + fraction;
        (u128::from(n) * scale).checked_div(divisor).and_then(|q| u64::try_from(q).ok()).unwrap_or(u64::MAX)
    }

    /// The nearest float.
    pub fn to_f64(&self) -> f64 {
        self.to_string().parse().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.integer)?;
        if !self.fraction.is_empty() {
            let digits: String = self.fraction.iter().map(|d| char::from(b'0' + d)).collect();
            write!(f, ".{digits}")?;
        }
        Ok(())
    }
}
