//! The layout of the door between a host and a method: plain C structs, the same for Rust, C and any other language.
//!
//! `include/compress.h` is the same in C; a test compares sizes and offsets. Rules that keep old plugins working:
//!
//! - A method is one exported, constant [`RawEntry`] under a symbol that begins with [`SYMBOL_PREFIX`]. Reading it runs
//!   no code of the library.
//! - Every struct begins with its `size` in bytes as its writer knows it (in [`RawEntry`] after the `abi` number). A
//!   struct may grow at its end; a reader takes what lies beyond `size` as zero. Lists are lists of pointers, so their
//!   elements may grow too. The `abi` number rises only when the meaning of what is there already changes.
//! - Memory never changes owner: a side frees what it allocated itself. What the host gives is valid during the call;
//!   what a method returns (an encoding) lies in memory from [`RawHost::alloc`], which the host frees.
//! - A function returns [`OK`], [`FAILED`], [`CANCELLED`] or [`PANICKED`]; the reason goes through [`RawHost::error`].
//!   Nothing unwinds across the door.
#![allow(unsafe_code)]

/// The version of the door that this SDK speaks. A host accepts every version from 1 to its own.
pub const ABI: u32 = 1;

/// How the symbol of every method begins. What follows must only be unlike that of any other method in the program.
pub const SYMBOL_PREFIX: &str = "compress_method_";

/// The call did what was asked.
pub const OK: i32 = 0;
/// The call failed; its reason was given through [`RawHost::error`].
pub const FAILED: i32 = 1;
/// The call stopped because [`RawHost::cancelled`] said so.
pub const CANCELLED: i32 = 2;
/// The method panicked; its text was given through [`RawHost::error`].
pub const PANICKED: i32 = 3;

/// [`RawEntry::flags`]: may be called from several threads at once.
pub const THREAD_SAFE: u64 = 1;
/// [`RawEntry::flags`]: gives scores.
pub const SCORES: u64 = 2;
/// [`RawEntry::flags`]: gives encodings.
pub const ENCODES: u64 = 4;
/// [`RawEntry::flags`]: chooses within a quota itself.
pub const SELECTS: u64 = 8;
/// [`RawEntry::flags`]: its result depends on the seed.
pub const RANDOM: u64 = 16;

/// [`RawEntry::reach`]: any slice of a part.
pub const REACH_WEIGHT: u32 = 0;
/// [`RawEntry::reach`]: blocks of whole rows.
pub const REACH_ROW: u32 = 1;
/// [`RawEntry::reach`]: the whole part.
pub const REACH_PART: u32 = 2;

/// [`RawEntry::units`]: scores are in units of |w|.
pub const UNITS_MAGNITUDE: u32 = 0;
/// [`RawEntry::units`]: scores are in any other units.
pub const UNITS_OTHER: u32 = 1;

/// [`RawNeed::required`]: passed where it exists.
pub const NEED_OPTIONAL: u32 = 0;
/// [`RawNeed::required`]: the stage is refused without it.
pub const NEED_REQUIRED: u32 = 1;
/// [`RawNeed::required`]: the stage is refused where none of the kinds marked so exists.
pub const NEED_ONE_OF: u32 = 2;

/// [`RawOption::kind`] and [`RawValue::kind`]: a whole number.
pub const OPTION_INTEGER: u32 = 0;
/// A finite number.
pub const OPTION_FLOAT: u32 = 1;
/// True or false, in `integer` as 1 or 0.
pub const OPTION_FLAG: u32 = 2;
/// One of a list of words.
pub const OPTION_CHOICE: u32 = 3;
/// Any text.
pub const OPTION_TEXT: u32 = 4;

/// [`RawKeep::kind`]: nothing is pruned.
pub const KEEP_ALL: u32 = 0;
/// [`RawKeep::kind`]: exactly the weights whose bit is 1.
pub const KEEP_MASK: u32 = 1;
/// [`RawKeep::kind`]: the method chooses `pruned` weights.
pub const KEEP_QUOTA: u32 = 2;

/// [`RawTerm::layout`]: rows · cols values, row-major.
pub const LAYOUT_DENSE: u32 = 0;
/// [`RawTerm::layout`]: one value for each 1 of `bits`.
pub const LAYOUT_SPARSE: u32 = 1;
/// [`RawTerm::layout`]: U·V, U [rows, rank] then V [rank, cols].
pub const LAYOUT_FACTORED: u32 = 2;
/// [`RawTerm::layout`]: the values are buckets that weights share by hash.
pub const LAYOUT_HASHED: u32 = 3;

/// UTF-8 text, not ended by a zero byte.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// Its first byte; anything where `bytes` is 0.
    pub data: *const u8,
    /// How many bytes.
    pub bytes: u64,
}

impl Str {
    /// The empty text.
    pub const EMPTY: Str = Str::new("");

    /// Borrows a text.
    pub const fn new(text: &str) -> Str {
        Str { data: text.as_ptr(), bytes: text.len() as u64 }
    }
}

/// A method: its CARD and its functions.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawEntry {
    /// [`ABI`] of the SDK that wrote this.
    pub abi: u32,
    /// Bytes of this struct.
    pub size: u32,
    /// The method's name in recipes.
    pub name: Str,
    /// One line: what it does.
    pub meaning: Str,
    /// The paper.
    pub citation: Str,
    /// The equation in plain Unicode.
    pub equation: Str,
    /// [`THREAD_SAFE`], [`SCORES`], …, added.
    pub flags: u64,
    /// [`REACH_WEIGHT`], [`REACH_ROW`] or [`REACH_PART`].
    pub reach: u32,
    /// [`UNITS_MAGNITUDE`] or [`UNITS_OTHER`].
    pub units: u32,
    /// The options.
    pub options: *const *const RawOption,
    /// How many.
    pub option_count: u64,
    /// The kinds of evidence that it reads.
    pub needs: *const *const RawNeed,
    /// How many.
    pub need_count: u64,
    /// Makes the state for one stage.
    pub create: Option<CreateFn>,
    /// Frees a state. May be null where there is nothing to free.
    pub destroy: Option<DestroyFn>,
    /// Scores a block. Null where the method gives no scores.
    pub score: Option<ScoreFn>,
    /// Encodes a part. Null where the method gives no encodings.
    pub encode: Option<EncodeFn>,
}

/// (options, seed, where to put the state, host)
pub type CreateFn = unsafe extern "C" fn(*const RawOptions, u64, *mut *mut (), *const RawHost) -> i32;
/// (state)
pub type DestroyFn = unsafe extern "C" fn(*mut ());
/// (state, part, evidence, scores: one f32 a weight with the strides of the part, host)
pub type ScoreFn = unsafe extern "C" fn(*const (), *const RawPart, *const RawEvidence, *mut f32, *const RawHost) -> i32;
/// (state, part, what to keep, evidence, result, host)
pub type EncodeFn = unsafe extern "C" fn(
    *const (),
    *const RawPart,
    *const RawKeep,
    *const RawEvidence,
    *mut RawEncoded,
    *const RawHost,
) -> i32;

/// An option of the CARD. What its kind does not need is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawOption {
    /// Bytes of this struct.
    pub size: u32,
    /// [`OPTION_INTEGER`], …
    pub kind: u32,
    /// The key in the recipe.
    pub name: Str,
    /// What it means, with its unit.
    pub meaning: Str,
    /// Default of an integer or a flag.
    pub integer: i64,
    /// Least allowed integer.
    pub integer_min: i64,
    /// Greatest allowed integer.
    pub integer_max: i64,
    /// Default of a float.
    pub number: f64,
    /// Least allowed float.
    pub number_min: f64,
    /// Greatest allowed float.
    pub number_max: f64,
    /// Default of a choice or a text.
    pub text: Str,
    /// The words of a choice.
    pub choices: *const Str,
    /// How many.
    pub choice_count: u64,
}

/// A kind of evidence of the CARD.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawNeed {
    /// Bytes of this struct.
    pub size: u32,
    /// [`NEED_OPTIONAL`], [`NEED_REQUIRED`] or [`NEED_ONE_OF`].
    pub required: u32,
    /// `"gram"`, `"fisher_diag"`, …
    pub kind: Str,
}

/// The options of a stage, one value for each option of the CARD, in its order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawOptions {
    /// Bytes of this struct.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// The values.
    pub values: *const *const RawValue,
    /// How many.
    pub value_count: u64,
}

/// The value of an option. What its kind does not need is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawValue {
    /// Bytes of this struct.
    pub size: u32,
    /// [`OPTION_INTEGER`], …
    pub kind: u32,
    /// The option's name.
    pub name: Str,
    /// An integer, or a flag as 1 or 0.
    pub integer: i64,
    /// A float.
    pub number: f64,
    /// A choice or a text.
    pub text: Str,
}

/// Weights: see [`crate::Part`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawPart {
    /// Bytes of this struct.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// The tensor's name.
    pub tensor: Str,
    /// The part's name.
    pub name: Str,
    /// The weight class.
    pub weight_class: Str,
    /// rows · cols weights.
    pub data: *const f32,
    /// Rows of this block.
    pub rows: u64,
    /// Columns of this block.
    pub cols: u64,
    /// Step from one row to the next, in elements.
    pub row_stride: u64,
    /// Step from one column to the next, in elements.
    pub col_stride: u64,
    /// First row of this block within the part.
    pub first_row: u64,
    /// Position of the first element within the part as stored.
    pub first_element: u64,
    /// Rows of the whole part.
    pub part_rows: u64,
    /// Columns of the whole part.
    pub part_cols: u64,
}

/// All evidence for a block.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawEvidence {
    /// Bytes of this struct.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// The arrays.
    pub arrays: *const *const RawArray,
    /// How many.
    pub array_count: u64,
}

/// An array of evidence: see [`crate::Array`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawArray {
    /// Bytes of this struct.
    pub size: u32,
    /// Length of `shape`.
    pub dims: u32,
    /// `"gram"`, `"fisher_diag"`, …
    pub kind: Str,
    /// Its shape.
    pub shape: *const u64,
    /// Its numbers, as many as the shape's product.
    pub data: *const f32,
    /// Mean over all weights of the model that have such numbers, or 0.
    pub model_mean: f64,
}

/// Which weights an encoding may keep: see [`crate::Keep`]. Bits are packed lowest first, row-major.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawKeep {
    /// Bytes of this struct.
    pub size: u32,
    /// [`KEEP_ALL`], [`KEEP_MASK`] or [`KEEP_QUOTA`].
    pub kind: u32,
    /// ceil(rows · cols / 8) bytes: the mask, or the eligible weights of a quota; null for [`KEEP_ALL`].
    pub bits: *const u8,
    /// Weights that must be pruned in total, of a quota.
    pub pruned: u64,
    /// 0, or n of an n:m pattern.
    pub n: u64,
    /// 0, or m of an n:m pattern.
    pub m: u64,
}

/// The result of an encoding. All of it lies in memory from [`RawHost::alloc`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawEncoded {
    /// Bytes of this struct, set by the host.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// ceil(rows · cols / 8) bytes, 1 = kept; null = all are kept.
    pub kept: *const u8,
    /// The terms.
    pub terms: *const *const RawTerm,
    /// How many.
    pub term_count: u64,
}

/// One term of an encoding: see [`crate::Term`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawTerm {
    /// Bytes of this struct.
    pub size: u32,
    /// [`LAYOUT_DENSE`], …
    pub layout: u32,
    /// ceil(rows · cols / 8) bytes of a sparse term.
    pub bits: *const u8,
    /// Rank of a factored term.
    pub rank: u64,
    /// Seed of a hashed term.
    pub seed: u64,
    /// The values.
    pub values: *const f32,
    /// How many.
    pub value_count: u64,
}

/// What a host offers a method during a call. The functions may be called from any thread until the call returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawHost {
    /// Bytes of this struct.
    pub size: u32,
    /// [`ABI`] of the host.
    pub abi: u32,
    /// The host's own.
    pub context: *const (),
    /// Memory of so many bytes, aligned to 8, zeroed, owned by the host; null where there is none.
    pub alloc: Option<unsafe extern "C" fn(*const RawHost, u64) -> *mut ()>,
    /// Says why the call fails. The last text counts.
    pub error: Option<unsafe extern "C" fn(*const RawHost, Str)>,
    /// Says how much of the call is done, 0 to 1.
    pub progress: Option<unsafe extern "C" fn(*const RawHost, f64)>,
    /// 1 where the call should stop with [`CANCELLED`].
    pub cancelled: Option<unsafe extern "C" fn(*const RawHost) -> i32>,
    /// Shows the user a line.
    pub log: Option<unsafe extern "C" fn(*const RawHost, Str)>,
    /// How many threads the call may keep busy just now, its own among them; 0 where the host does not say.
    pub threads: Option<unsafe extern "C" fn(*const RawHost) -> u32>,
}

/// A method's entry whose content can be trusted: made by [`crate::entry`], or vouched for by who loaded it.
#[repr(transparent)]
#[derive(Debug)]
pub struct Entry(RawEntry);

// SAFETY: an entry is constant, and all that it points to is constant and lives for ever (the contract of `from_raw`).
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Entry {
    /// Vouches for an entry.
    ///
    /// # Safety
    /// All pointers must hold what this module says of them, for the rest of the program; the functions must keep its
    /// rules.
    pub const unsafe fn from_raw(raw: RawEntry) -> Entry {
        Entry(raw)
    }

    /// Reads the entry that a library exports: at most as much as it says that it has, the rest as zero.
    ///
    /// # Errors
    /// The `abi` number that it has, where this SDK does not know it.
    ///
    /// # Safety
    /// `exported` must point to a [`RawEntry`] of any version, valid as [`Entry::from_raw`] says.
    pub unsafe fn from_exported(exported: *const RawEntry) -> Result<Entry, u32> {
        let head = exported.cast::<u32>();
        // SAFETY: `abi` and `size` are the first eight bytes of every version.
        let (abi, size) = unsafe { (head.read(), head.add(1).read()) };
        if abi == 0 || abi > ABI {
            return Err(abi);
        }
        let mut raw = std::mem::MaybeUninit::<RawEntry>::zeroed();
        let bytes = (size as usize).min(size_of::<RawEntry>());
        // SAFETY: `size` bytes are readable there, and no more than fit are written. All fields may be zero.
        let raw = unsafe {
            std::ptr::copy_nonoverlapping(exported.cast::<u8>(), raw.as_mut_ptr().cast::<u8>(), bytes);
            raw.assume_init()
        };
        Ok(Entry(raw))
    }

    /// The fields.
    pub const fn raw(&self) -> &RawEntry {
        &self.0
    }
}
