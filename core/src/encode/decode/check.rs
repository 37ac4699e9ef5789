//! Whether the arrays of a packed tensor fit together, as far as their shapes tell.

use crate::encode::coding::packed_bytes;
use crate::encode::outline::{
    Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding, i8_type, i64_type, u8_type,
};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// Sizes of a term.
#[derive(Clone, Copy, Default, Debug)]
pub struct Facts {
    /// Values; of packed indices whose number only the payload tells, their bytes.
    pub count: u64,
    /// Columns of U.
    pub rank: u64,
    /// Columns of V.
    pub cols: u64,
}

/// The number of elements and the terms' sizes.
pub fn check(outline: &Outline, max_expand: u64) -> Result<(u64, Vec<Facts>)> {
    let width = outline.dtype.float_bytes().ok_or_else(|| {
        Error::failed(format!("packed as {}, which is no floating-point type that can be packed", outline.dtype.name()))
    })?;
    let elements = product(&outline.shape)?;
    let dense = elements.checked_mul(width as u64).filter(|b| *b < 1 << 62).ok_or_else(too_large)?;
    let mut stored = 0u64;
    for piece in outline.terms.iter().flat_map(|t| &t.pieces) {
        let bits = product(&piece.shape)?.checked_mul(u64::from(piece.dtype.bits())).ok_or_else(too_large)?;
        stored = stored.checked_add(bits / 8).ok_or_else(too_large)?;
    }
    if outline.terms.is_empty() || outline.terms.len() > 64 {
        return Err(Error::failed(format!("packed as a sum of {} terms; 1 to 64 can be", outline.terms.len())));
    }
    if u128::from(dense) > u128::from(stored) * u128::from(max_expand) {
        return Err(Error::failed(format!(
            "its {stored} bytes would unfold to {dense}, more than {max_expand} times as many; --max-expand allows more"
        )));
    }
    let facts = outline.terms.iter().map(|t| term(outline, t, elements)).collect::<Result<_>>()?;
    Ok((elements, facts))
}

fn product(shape: &[u64]) -> Result<u64> {
    shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).ok_or_else(too_large)
}

fn too_large() -> Error {
    Error::failed("the shape is too large")
}

fn term(outline: &Outline, term: &TermOutline, n: u64) -> Result<Facts> {
    let mut expected = match term.layout {
        PackedLayout::Factored => vec!["u", "v"],
        _ => vec!["values"],
    };
    let companion = match term.values {
        ValueCoding::Int8 => Some("scale"),
        ValueCoding::Codebook(bits) if (1..=8).contains(&bits) => Some("codebook"),
        ValueCoding::Codebook(bits) => return Err(Error::failed(format!("a codebook of {bits} bits; 1 to 8 can be"))),
        _ => None,
    };
    expected = match (companion, term.layout) {
        (None, _) => expected,
        (Some("scale"), PackedLayout::Factored) => vec!["u", "u_scale", "v", "v_scale"],
        (Some(_), PackedLayout::Factored) => vec!["u", "u_codebook", "v", "v_codebook"],
        (Some(role), _) => vec!["values", role],
    };
    let places: &[&str] = match term.layout {
        PackedLayout::Mask => &["mask"],
        PackedLayout::Deltas => &["deltas"],
        PackedLayout::Rice => &["unary", "rest"],
        PackedLayout::Hashed => &["hash"],
        _ => &[],
    };
    expected.extend(places);
    let found: Vec<&str> = term.pieces.iter().map(|p| p.role).collect();
    if found != expected {
        let text = format!("a {} term of {} values has the pieces {found:?}", term.layout.name(), term.values);
        return Err(Error::failed(format!("{text}; it needs {expected:?}")));
    }
    let check = Check { outline, term, n };
    match term.layout {
        PackedLayout::Factored => check.factored(),
        PackedLayout::Hashed => check.hashed(),
        _ => check.placed(),
    }
}

struct Check<'a> {
    outline: &'a Outline,
    term: &'a TermOutline,
    n: u64,
}

impl Check<'_> {
    fn piece(&self, role: &str) -> Result<&PieceOutline> {
        let found = self.term.pieces.iter().find(|p| p.role == role);
        found.ok_or_else(|| Error::failed(format!("its piece \"{role}\" is missing")))
    }

    fn is(&self, role: &str, dtype: &Dtype, shape: &[u64]) -> Result<()> {
        let piece = self.piece(role)?;
        if piece.dtype == *dtype && piece.shape == shape {
            return Ok(());
        }
        let (found, want) = ((piece.dtype.name(), &piece.shape), (dtype.name(), shape));
        Err(Error::failed(format!(
            "its piece \"{role}\" is {} {:?} where {} {:?} is needed",
            found.0, found.1, want.0, want.1
        )))
    }

    /// The type of an array of values.
    fn array(&self) -> Dtype {
        match self.term.values {
            ValueCoding::Plain => self.outline.dtype.clone(),
            ValueCoding::F16 => Dtype::F16,
            ValueCoding::Bf16 => Dtype::Bf16,
            ValueCoding::Int8 => i8_type(),
            ValueCoding::Codebook(_) => u8_type(),
        }
    }

    fn book(&self, role: &str) -> Result<()> {
        match self.term.values {
            ValueCoding::Codebook(bits) => self.is(role, &self.outline.dtype, &[1 << bits]),
            _ => Ok(()),
        }
    }

    /// Dense, mask, deltas, rice.
    fn placed(&self) -> Result<Facts> {
        let values = self.piece("values")?;
        let [found] = values.shape.as_slice() else {
            return Err(Error::failed(format!(
                "its piece \"values\" has the shape {:?}, not one dimension",
                values.shape
            )));
        };
        let count = match self.term.layout {
            PackedLayout::Dense => self.n,
            PackedLayout::Deltas => match self.piece("deltas")?.shape.as_slice() {
                [count] => *count,
                _ => 0,
            },
            _ => *found,
        };
        let bytes = match (self.term.values, self.term.layout) {
            (ValueCoding::Codebook(bits), PackedLayout::Dense | PackedLayout::Deltas) => packed_bytes(count, bits),
            _ => count,
        };
        self.is("values", &self.array(), &[bytes])?;
        self.book("codebook")?;
        match self.term.layout {
            PackedLayout::Mask => self.is("mask", &u8_type(), &[self.n.div_ceil(8)])?,
            PackedLayout::Deltas => self.is("deltas", &u8_type(), &[count])?,
            PackedLayout::Rice => self.rice(count)?,
            _ => {}
        }
        if self.term.layout != PackedLayout::Dense && bytes > self.n {
            return Err(Error::failed(format!("it has {bytes} values for {} elements", self.n)));
        }
        if self.term.values == ValueCoding::Int8 {
            let scale = self.piece("scale")?;
            let shape = &self.outline.shape;
            let mut axes = scale.shape.iter().zip(shape).filter(|(s, _)| **s != 1);
            let fits = axes.next().is_none_or(|(s, d)| s == d && *d > 0) && axes.next().is_none();
            if scale.dtype != Dtype::F32 || scale.shape.len() != shape.len() || !fits {
                let text = format!("its scales {} {:?} do not fit its shape", scale.dtype.name(), scale.shape);
                return Err(Error::failed(format!("{text} {shape:?}")));
            }
        }
        Ok(Facts { count, ..Facts::default() })
    }

    /// The Rice code of `count` gaps; of packed indices `count` is their bytes.
    fn rice(&self, count: u64) -> Result<()> {
        let (unary, rest) = (self.piece("unary")?, self.piece("rest")?);
        let groups = |bits: u8| {
            // Values whose indices fill so many bytes: a range of them.
            let (bits, bytes) = (u64::from(bits), u128::from(count) * 8);
            let least = count.saturating_sub(1).saturating_mul(8) / bits + u64::from(count > 0);
            least.div_ceil(8)..=(bytes / u128::from(bits)).div_ceil(8) as u64
        };
        let fits = match (self.term.values, rest.shape.as_slice()) {
            (ValueCoding::Codebook(bits), [found, 1..=8]) => groups(bits).contains(found),
            (_, [found, 1..=8]) => *found == count.div_ceil(8),
            _ => false,
        };
        if unary.dtype != u8_type() || unary.shape.len() != 1 || rest.dtype != u8_type() || !fits {
            let (unary, rest) = (&unary.shape, &rest.shape);
            return Err(Error::failed(format!(
                "its Rice code of the shapes {unary:?} and {rest:?} does not fit its values"
            )));
        }
        // A gap takes at most as many bits as it is long.
        if unary.elements() > self.n.div_ceil(8) {
            return Err(Error::failed(format!("its Rice code is longer than {} elements can need", self.n)));
        }
        Ok(())
    }

    fn hashed(&self) -> Result<Facts> {
        self.is("hash", &i64_type(), &[5])?;
        let values = self.piece("values")?;
        let count = match values.shape.as_slice() {
            [count] if (1..=1 << 30).contains(count) => *count,
            other => return Err(Error::failed(format!("{other:?} buckets; 1 to 2³⁰ can be"))),
        };
        self.is("values", &self.array(), &[count])?;
        self.book("codebook")?;
        if self.term.values == ValueCoding::Int8 {
            self.is("scale", &Dtype::F32, &[1])?;
        }
        Ok(Facts { count, ..Facts::default() })
    }

    fn factored(&self) -> Result<Facts> {
        let (u, v) = (self.piece("u")?, self.piece("v")?);
        let ([rows, u_cols], [rank, v_cols]) = (u.shape.as_slice(), v.shape.as_slice()) else {
            let text = format!("its factors have the shapes {:?} and {:?}", u.shape, v.shape);
            return Err(Error::failed(format!("{text}, not two dimensions each")));
        };
        let cols = if *rows > 0 && self.n.is_multiple_of(*rows) { self.n / rows } else { 0 };
        let across = |n: u64| match self.term.values {
            ValueCoding::Codebook(bits) => packed_bytes(n, bits),
            _ => n,
        };
        if cols == 0 || *rank == 0 || *u_cols != across(*rank) || *v_cols != across(cols) {
            let (u, v, n) = (&u.shape, &v.shape, self.n);
            return Err(Error::failed(format!("its factors {u:?} and {v:?} do not multiply to its {n} elements")));
        }
        self.is("u", &self.array(), &[*rows, *u_cols])?;
        self.is("v", &self.array(), &[*rank, *v_cols])?;
        self.book("u_codebook")?;
        self.book("v_codebook")?;
        if self.term.values == ValueCoding::Int8 {
            self.is("u_scale", &Dtype::F32, &[*rows, 1])
                .or_else(|e| self.is("u_scale", &Dtype::F32, &[1, 1]).map_err(|_| e))?;
            self.is("v_scale", &Dtype::F32, &[1, cols])
                .or_else(|e| self.is("v_scale", &Dtype::F32, &[1, 1]).map_err(|_| e))?;
        }
        Ok(Facts { count: 0, rank: *rank, cols })
    }
}
