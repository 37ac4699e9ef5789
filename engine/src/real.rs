//! The two number types that all kernels are generic over: f32 for work, f64 for checking gradients.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::buffer::Elem;

/// A floating-point type of the engine. The f32 functions are polynomials without branches or fused operations, so that
/// they vectorise, with the same bits for every vector width.
pub trait Real:
    Elem
    + PartialOrd
    + Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// Rounds to this type.
    fn of(v: f64) -> Self;
    /// Widens.
    fn f64(self) -> f64;
    /// e^x.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// |x|.
    fn abs(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// 1 / (1 + e^−x).
    fn sigmoid(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// x^y.
    fn powf(self, y: Self) -> Self;
    /// Whether it is neither infinite nor NaN.
    fn finite(self) -> bool;
    /// The larger; NaN if either is NaN.
    #[inline(always)]
    fn maximum(self, o: Self) -> Self {
        if self > o || self.is_nan() { self } else { o }
    }
    /// The smaller; NaN if either is NaN.
    #[inline(always)]
    fn minimum(self, o: Self) -> Self {
        if self < o || self.is_nan() { self } else { o }
    }
    /// Whether it is NaN.
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }
    /// A count as a number.
    #[inline(always)]
    fn count(n: usize) -> Self {
        Self::of(n as f64)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    fn of(v: f64) -> f64 {
        v
    }
    fn f64(self) -> f64 {
        self
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    fn sigmoid(self) -> f64 {
        1.0 / (1.0 + f64::exp(-self))
    }
    fn erf(self) -> f64 {
        libm::erf(self)
    }
    fn powf(self, y: f64) -> f64 {
        f64::powf(self, y)
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn of(v: f64) -> f32 {
        v as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> f32 {
        exp_f32(self)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn tanh(self) -> f32 {
        tanh_f32(self)
    }
    #[inline(always)]
    fn sigmoid(self) -> f32 {
        1.0 / (1.0 + exp_f32(-self))
    }
    #[inline(always)]
    fn erf(self) -> f32 {
        erf_f32(self)
    }
    #[inline(always)]
    fn powf(self, y: f32) -> f32 {
        f32::powf(self, y)
    }
    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// e^x after Cephes `expf`: x = n·ln 2 + r, a polynomial in r, and 2^n in two factors so that the ends of the range
/// come out right (subnormal, 0, ∞). About 1 ulp.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer
    let x = x.clamp(-104.0, 89.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    let i = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = i >> 1;
    let a = f32::from_bits(((half + 127) << 23) as u32);
    let b = f32::from_bits(((i - half + 127) << 23) as u32);
    p * a * b
}

/// tanh after Cephes `tanhf`: a polynomial below 0.625, else by e^2x.
#[inline(always)]
fn tanh_f32(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p * z + 2.063_909e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328e-1;
    let small = p * z * x + x;
    let a = x.abs();
    let large = (1.0 - 2.0 / (exp_f32(a + a) + 1.0)).copysign(x);
    if a < 0.625 { small } else { large }
}

/// erf: its Taylor series below 0.75; above, 1 − erfc by the Chebyshev fit of Numerical Recipes (§ 6.2, 1.2e-7 relative).
#[inline(always)]
fn erf_f32(x: f32) -> f32 {
    let z = x * x;
    let mut s = -1.0 / 75600.0f32;
    s = s * z + 1.0 / 9360.0;
    s = s * z - 1.0 / 1320.0;
    s = s * z + 1.0 / 216.0;
    s = s * z - 1.0 / 42.0;
    s = s * z + 0.1;
    s = s * z - 1.0 / 3.0;
    let small = std::f32::consts::FRAC_2_SQRT_PI * (s * z * x + x);
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.5 * a);
    let mut p = 0.170_872_77f32;
    p = p * t - 0.822_152_23;
    p = p * t + 1.488_515_9;
    p = p * t - 1.135_204;
    p = p * t + 0.278_868_07;
    p = p * t - 0.186_288_06;
    p = p * t + 0.096_784_18;
    p = p * t + 0.374_091_96;
    p = p * t + 1.000_023_7;
    p = p * t - 1.265_512_2;
    let large = (1.0 - t * exp_f32(p - z)).copysign(x);
    if a < 0.75 { small } else { large }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(a: f32, b: f64) -> f64 {
        let spacing = f64::from(f32::from_bits((b.abs() as f32).to_bits() + 1)) - f64::from((b.abs()) as f32);
        (f64::from(a) - b).abs() / spacing.max(1e-45)
    }

    #[test]
    fn functions_are_right_to_a_few_ulp() {
        let (mut e, mut t, mut s, mut f) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        let mut x = -87.0f32;
        while x < 88.0 {
            e = e.max(ulps(Real::exp(x), f64::from(x).exp()));
            x += 0.003_7;
        }
        let mut x = -9.0f32;
        while x < 9.0 {
            t = t.max(ulps(Real::tanh(x), f64::from(x).tanh()));
            s = s.max(ulps(Real::sigmoid(x), Real::sigmoid(f64::from(x))));
            f = f.max(ulps(Real::erf(x), libm::erf(f64::from(x))));
            x += 0.000_37;
        }
        assert!(e < 2.0 && t < 2.5 && s < 3.0 && f < 4.0, "exp {e} tanh {t} sigmoid {s} erf {f}");
    }

    #[test]
    fn ends_of_the_range() {
        for (x, y) in [(f32::NEG_INFINITY, 0.0), (-200.0, 0.0), (0.0, 1.0), (f32::INFINITY, f32::INFINITY)] {
            assert_eq!(Real::exp(x), y);
        }
        assert!(Real::exp(f32::NAN).is_nan() && Real::tanh(f32::NAN).is_nan() && Real::erf(f32::NAN).is_nan());
        assert_eq!((Real::tanh(50f32), Real::tanh(-50f32), Real::erf(-50f32)), (1.0, -1.0, -1.0));
        assert!(Real::maximum(f32::NAN, 1.0).is_nan() && Real::maximum(1.0, f32::NAN).is_nan());
    }
}
