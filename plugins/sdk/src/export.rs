//! From the [`Method`] trait to the door: what turns Rust into plain C structs and functions, and panics into text.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::abi::*;
use crate::card::{Card, Need, OptionKind, Reach, Units};
use crate::{
    Array, Bitmap, Encoded, Error, Evidence, EvidenceKind, Keep, Layout, Method, OptionValue, Options, Part, Result,
    Scores, host,
};

/// Options that a CARD can have.
pub const MAX_OPTIONS: usize = 32;
/// Words that all choices of a CARD can have together.
pub const MAX_CHOICES: usize = 128;
/// Kinds of evidence that a CARD can have.
pub const MAX_NEEDS: usize = 16;

/// The entry of a method.
pub const fn entry<M: Method>() -> Entry {
    let card = M::CARD;
    let raw = RawEntry {
        abi: ABI,
        size: size_of::<RawEntry>() as u32,
        name: Str::new(card.name),
        meaning: Str::new(card.meaning),
        citation: Str::new(card.citation),
        equation: Str::new(card.equation),
        flags: flags(&card),
        reach: match card.reach {
            Reach::Weight => REACH_WEIGHT,
            Reach::Row => REACH_ROW,
            Reach::Part => REACH_PART,
        },
        units: match card.units {
            Units::Magnitude => UNITS_MAGNITUDE,
            Units::Other => UNITS_OTHER,
        },
        options: Table::<M>::OPTION_LIST.as_ptr(),
        option_count: card.options.len() as u64,
        needs: Table::<M>::NEED_LIST.as_ptr(),
        need_count: card.evidence.len() as u64,
        create: Some(create::<M>),
        destroy: Some(destroy::<M>),
        score: if card.scores { Some(score::<M>) } else { None },
        encode: if card.encodes { Some(encode::<M>) } else { None },
    };
    // SAFETY: the pointers are to constants, the functions are those below.
    unsafe { Entry::from_raw(raw) }
}

const fn flags(card: &Card) -> u64 {
    let mut flags = 0;
    if card.thread_safe {
        flags |= THREAD_SAFE;
    }
    if card.scores {
        flags |= SCORES;
    }
    if card.encodes {
        flags |= ENCODES;
    }
    if card.selects {
        flags |= SELECTS;
    }
    if card.random {
        flags |= RANDOM;
    }
    flags
}

/// The lists of a CARD as constants. Their lengths cannot depend on `M` in today's Rust, hence the fixed capacities.
struct Table<M>(PhantomData<M>);

impl<M: Method> Table<M> {
    const CHOICES: &'static [Str; MAX_CHOICES] = &choices(M::CARD.options);
    const OPTIONS: &'static [RawOption; MAX_OPTIONS] = &options(M::CARD.options, Self::CHOICES);
    const OPTION_LIST: &'static [*const RawOption; MAX_OPTIONS] = &{
        let mut list = [std::ptr::null(); MAX_OPTIONS];
        let mut i = 0;
        while i < M::CARD.options.len() {
            list[i] = &raw const Self::OPTIONS[i];
            i += 1;
        }
        list
    };
    const NEEDS: &'static [RawNeed; MAX_NEEDS] = &needs(M::CARD.evidence);
    const NEED_LIST: &'static [*const RawNeed; MAX_NEEDS] = &{
        let mut list = [std::ptr::null(); MAX_NEEDS];
        let mut i = 0;
        while i < M::CARD.evidence.len() {
            list[i] = &raw const Self::NEEDS[i];
            i += 1;
        }
        list
    };
}

const fn choices(specs: &[crate::OptionSpec]) -> [Str; MAX_CHOICES] {
    let mut all = [Str::EMPTY; MAX_CHOICES];
    let (mut used, mut i) = (0, 0);
    while i < specs.len() {
        if let OptionKind::Choice { choices, .. } = specs[i].kind {
            let mut k = 0;
            while k < choices.len() {
                assert!(used < MAX_CHOICES, "the CARD has more than MAX_CHOICES words of choices");
                all[used] = Str::new(choices[k]);
                used += 1;
                k += 1;
            }
        }
        i += 1;
    }
    all
}

const fn options(specs: &[crate::OptionSpec], words: &'static [Str; MAX_CHOICES]) -> [RawOption; MAX_OPTIONS] {
    assert!(specs.len() <= MAX_OPTIONS, "the CARD has more than MAX_OPTIONS options");
    let none = RawOption {
        size: size_of::<RawOption>() as u32,
        kind: OPTION_INTEGER,
        name: Str::EMPTY,
        meaning: Str::EMPTY,
        integer: 0,
        integer_min: 0,
        integer_max: 0,
        number: 0.0,
        number_min: 0.0,
        number_max: 0.0,
        text: Str::EMPTY,
        choices: std::ptr::null(),
        choice_count: 0,
    };
    let mut all = [none; MAX_OPTIONS];
    let (mut used, mut i) = (0, 0);
    while i < specs.len() {
        let o = &mut all[i];
        o.name = Str::new(specs[i].name);
        o.meaning = Str::new(specs[i].meaning);
        match specs[i].kind {
            OptionKind::Integer { default, min, max } => {
                (o.kind, o.integer, o.integer_min, o.integer_max) = (OPTION_INTEGER, default, min, max);
            }
            OptionKind::Float { default, min, max } => {
                (o.kind, o.number, o.number_min, o.number_max) = (OPTION_FLOAT, default, min, max);
            }
            OptionKind::Flag { default } => (o.kind, o.integer) = (OPTION_FLAG, default as i64),
            OptionKind::Choice { default, choices } => {
                (o.kind, o.text) = (OPTION_CHOICE, Str::new(default));
                if !choices.is_empty() {
                    o.choices = &raw const words[used];
                }
                o.choice_count = choices.len() as u64;
                used += choices.len();
            }
            OptionKind::Text { default } => (o.kind, o.text) = (OPTION_TEXT, Str::new(default)),
        }
        i += 1;
    }
    all
}

const fn needs(kinds: &[(EvidenceKind, Need)]) -> [RawNeed; MAX_NEEDS] {
    assert!(kinds.len() <= MAX_NEEDS, "the CARD has more than MAX_NEEDS kinds of evidence");
    let mut all = [RawNeed { size: size_of::<RawNeed>() as u32, required: 0, kind: Str::EMPTY }; MAX_NEEDS];
    let mut i = 0;
    while i < kinds.len() {
        all[i].kind = Str::new(kinds[i].0.name());
        all[i].required = match kinds[i].1 {
            Need::Optional => NEED_OPTIONAL,
            Need::Required => NEED_REQUIRED,
            Need::OneOf => NEED_ONE_OF,
        };
        i += 1;
    }
    all
}

unsafe extern "C" fn create<M: Method>(
    options: *const RawOptions,
    seed: u64,
    state: *mut *mut (),
    host: *const RawHost,
) -> i32 {
    call(host, || {
        // SAFETY: the host keeps the rules of the door: what it gives is valid during the call.
        let options = unsafe { read_options(options) };
        let made = M::create(&options, seed)?;
        // SAFETY: as above; the host gives the box back to `destroy` and to nobody else.
        unsafe { *state = Box::into_raw(Box::new(made)).cast() };
        Ok(())
    })
}

unsafe extern "C" fn destroy<M: Method>(state: *mut ()) {
    if !state.is_null() {
        // A panic in a destructor has nobody to tell.
        // SAFETY: `create` made this box, and the host gives it back once.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(state.cast::<M>()) })));
    }
}

unsafe extern "C" fn score<M: Method>(
    state: *const (),
    part: *const RawPart,
    evidence: *const RawEvidence,
    out: *mut f32,
    host: *const RawHost,
) -> i32 {
    call(host, || {
        // SAFETY: `create` made the state; the host keeps the rules of the door; `out` has an f32 for each weight.
        let (method, part, arrays, data) = unsafe {
            let part = read_part(&*part);
            let data =
                if part.data.is_empty() { &mut [] } else { std::slice::from_raw_parts_mut(out, part.data.len()) };
            (&*state.cast::<M>(), part, read_evidence(evidence), data)
        };
        let mut scores = Scores { data, row_stride: part.row_stride, col_stride: part.col_stride };
        method.score(&part, &Evidence { arrays: &arrays }, &mut scores)
    })
}

unsafe extern "C" fn encode<M: Method>(
    state: *const (),
    part: *const RawPart,
    keep: *const RawKeep,
    evidence: *const RawEvidence,
    out: *mut RawEncoded,
    host: *const RawHost,
) -> i32 {
    call(host, || {
        // SAFETY: `create` made the state; the host keeps the rules of the door.
        let (method, part, arrays, keep) =
            unsafe { (&*state.cast::<M>(), read_part(&*part), read_evidence(evidence), &*keep) };
        let bits = match keep.kind {
            KEEP_ALL => Bitmap::default(),
            // SAFETY: as above: a bit for each weight.
            _ => unsafe { read_bits(keep.bits, part.rows * part.cols) },
        };
        let keep = match keep.kind {
            KEEP_ALL => Keep::All,
            KEEP_MASK => Keep::Mask(&bits),
            KEEP_QUOTA => Keep::Quota { eligible: &bits, pruned: keep.pruned, n: keep.n as usize, m: keep.m as usize },
            other => return Err(Error::new(format!("the host asks for an unknown kind {other} of quota"))),
        };
        let encoded = method.encode(&part, keep, &Evidence { arrays: &arrays })?;
        check_shape(&part, &encoded)?;
        // SAFETY: as above; `out` is the host's to be filled.
        unsafe { write_encoded(&encoded, &mut *out, host) }
    })
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a call with everything caught: an error or a panic goes to the host as text.
fn call(raw: *const RawHost, work: impl FnOnce() -> Result<()>) -> i32 {
    quiet_panics();
    // SAFETY: the host is live during the call, and the guard ends with it.
    let guard = unsafe { host::Guard::enter(raw) };
    let (status, text) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return OK,
        Ok(Err(_)) if host::cancelled() => return CANCELLED,
        Ok(Err(e)) => (FAILED, e.0),
        Err(payload) => {
            let text = PANIC.take();
            let text = if text.is_empty() { payload_text(&*payload).to_string() } else { text };
            // The payload may panic when dropped.
            std::mem::forget(payload);
            (PANICKED, text)
        }
    };
    drop(guard);
    // SAFETY: as above; the text outlives the call.
    unsafe {
        if let Some(error) = raw.as_ref().and_then(|h| h.error) {
            error(raw, Str::new(&text));
        }
    }
    status
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "a panic without a text",
    }
}

/// A panic within a method's call is told to the host with its place, not printed. All others go where they went.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let outer = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !host::inside() {
                return outer(info);
            }
            let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
            PANIC.set(format!("{}{place}", payload_text(info.payload())));
        }));
    });
}

/// # Safety
/// `data` must be valid for `len` elements for as long as the caller says, or `len` be 0.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// # Safety
/// As the door says of a [`Str`].
unsafe fn text<'a>(raw: Str) -> &'a str {
    // SAFETY: the caller's promise; hosts give UTF-8 only, and what is not becomes a sign that it was not.
    std::str::from_utf8(unsafe { slice(raw.data, raw.bytes as usize) }).unwrap_or("\u{fffd}")
}

/// # Safety
/// As the door says of a [`RawOptions`].
unsafe fn read_options(raw: *const RawOptions) -> Options {
    // SAFETY: the caller's promise.
    let values = unsafe { slice((*raw).values, (*raw).value_count as usize) };
    let read = |value: &*const RawValue| {
        // SAFETY: the caller's promise.
        let (v, name) = unsafe { (&**value, text((**value).name).to_string()) };
        let value = match v.kind {
            OPTION_INTEGER => OptionValue::Integer(v.integer),
            OPTION_FLOAT => OptionValue::Float(v.number),
            OPTION_FLAG => OptionValue::Flag(v.integer != 0),
            // SAFETY: the caller's promise.
            _ => OptionValue::Text(unsafe { text(v.text) }.to_string()),
        };
        (name, value)
    };
    Options(values.iter().map(read).collect())
}

/// # Safety
/// As the door says of a [`RawPart`].
unsafe fn read_part(raw: &RawPart) -> Part<'_> {
    // SAFETY: the caller's promise.
    unsafe {
        Part {
            tensor: text(raw.tensor),
            name: text(raw.name),
            class: text(raw.weight_class),
            rows: raw.rows as usize,
            cols: raw.cols as usize,
            row_stride: raw.row_stride as usize,
            col_stride: raw.col_stride as usize,
            data: slice(raw.data, (raw.rows * raw.cols) as usize),
            first_row: raw.first_row as usize,
            first_element: raw.first_element,
            part_rows: raw.part_rows as usize,
            part_cols: raw.part_cols as usize,
        }
    }
}

/// # Safety
/// As the door says of a [`RawEvidence`].
unsafe fn read_evidence<'a>(raw: *const RawEvidence) -> Vec<Array<'a>> {
    // SAFETY: the caller's promise.
    let arrays = unsafe { slice((*raw).arrays, (*raw).array_count as usize) };
    let read = |array: &*const RawArray| {
        // SAFETY: the caller's promise.
        unsafe {
            let kind = EvidenceKind::from_name(text((**array).kind))?;
            let shape: &[u64] = slice((**array).shape, (**array).dims as usize);
            let count = shape.iter().product::<u64>() as usize;
            // A host of an older SDK ends before the mean.
            let known = (**array).size as usize > offset_of!(RawArray, model_mean);
            let model_mean = if known { (**array).model_mean } else { 0.0 };
            Some(Array { kind, shape, data: slice((**array).data, count), model_mean })
        }
    };
    arrays.iter().filter_map(read).collect()
}

/// # Safety
/// `data` must be valid for `bits` bits.
unsafe fn read_bits(data: *const u8, bits: usize) -> Bitmap {
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice(data, bits.div_ceil(8)) };
    Bitmap::from_bytes(bytes.to_vec(), bits).unwrap_or_default()
}

/// What the door cannot say, because its result has no shape of its own.
fn check_shape(part: &Part<'_>, encoded: &Encoded) -> Result<()> {
    let (rows, cols) = (part.rows, part.cols);
    let e = &encoded.encoding;
    if (e.rows, e.cols) != (rows, cols) {
        return Err(Error::new(format!("its encoding is {} × {}, the part is {rows} × {cols}", e.rows, e.cols)));
    }
    let sparse = e.terms.iter().filter_map(|t| match &t.layout {
        Layout::Sparse(bits) => Some(bits),
        _ => None,
    });
    match sparse.chain([&encoded.kept]).find(|b| b.len() != rows * cols) {
        Some(b) => Err(Error::new(format!("its bitmap has {} bits, the part has {} weights", b.len(), rows * cols))),
        None => Ok(()),
    }
}

/// # Safety
/// `host` must be live.
unsafe fn write_encoded(encoded: &Encoded, out: &mut RawEncoded, host: *const RawHost) -> Result<()> {
    let mut terms = Vec::with_capacity(encoded.encoding.terms.len());
    for term in &encoded.encoding.terms {
        let mut raw = RawTerm {
            size: size_of::<RawTerm>() as u32,
            layout: LAYOUT_DENSE,
            bits: std::ptr::null(),
            rank: 0,
            seed: 0,
            // SAFETY: the caller's promise.
            values: unsafe { give(&term.values, host)? },
            value_count: term.values.len() as u64,
        };
        match &term.layout {
            Layout::Dense => {}
            Layout::Sparse(bits) => {
                raw.layout = LAYOUT_SPARSE;
                // SAFETY: the caller's promise.
                raw.bits = unsafe { give(bits.as_bytes(), host)? };
            }
            Layout::Factored { rank } => (raw.layout, raw.rank) = (LAYOUT_FACTORED, *rank as u64),
            Layout::Hashed { seed } => (raw.layout, raw.seed) = (LAYOUT_HASHED, u64::from(*seed)),
        }
        // SAFETY: the caller's promise.
        terms.push(unsafe { give(&[raw], host)? });
    }
    // SAFETY: the caller's promise.
    unsafe {
        out.kept = give(encoded.kept.as_bytes(), host)?;
        out.terms = give(&terms, host)?;
    }
    out.term_count = terms.len() as u64;
    Ok(())
}

/// Copies into the host's memory.
///
/// # Safety
/// `host` must be live.
unsafe fn give<T: Copy>(data: &[T], host: *const RawHost) -> Result<*const T> {
    const { assert!(align_of::<T>() <= 8) };
    // SAFETY: the caller's promise.
    let alloc = unsafe { host.as_ref() }.and_then(|h| h.alloc);
    let bytes = size_of_val(data);
    // SAFETY: the caller's promise.
    let to = alloc.map_or(std::ptr::null_mut(), |f| unsafe { f(host, bytes as u64) }).cast::<T>();
    if to.is_null() {
        return Err(Error::new(format!("there is no memory for {bytes} bytes of its result")));
    }
    // SAFETY: the host gave that many bytes, aligned to 8.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    Ok(to)
}

/// Makes a method's entry: `pub static ENTRY`, exported from the library under a symbol of its own.
///
/// ```
/// # use compress_sdk::*;
/// # struct Mine;
/// # impl Method for Mine {
/// #     const CARD: Card = Card { name: "mine", ..Card::SCORES_WEIGHTS };
/// #     fn create(_: &Options, _: u64) -> Result<Self> { Ok(Mine) }
/// # }
/// compress_sdk::export_method!(Mine);
/// # fn main() {}
/// ```
///
/// The symbol is `compress_method_<crate>`. A second method in one crate takes a name of its own and a module for its
/// `ENTRY`: `export_method!(Other, "other")`.
#[macro_export]
macro_rules! export_method {
    ($method:ty) => {
        $crate::export_method!($method, env!("CARGO_CRATE_NAME"));
    };
    ($method:ty, $symbol:expr) => {
        /// The method's way in: what a host registers.
        // SAFETY: no other symbol of the program has this prefix and the crate's name.
        #[allow(unsafe_code)]
        #[unsafe(export_name = concat!("compress_method_", $symbol))]
        pub static ENTRY: $crate::Entry = $crate::entry::<$method>();
    };
}
