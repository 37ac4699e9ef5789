//! The host's side of the door: a method's entry as a checked CARD and as calls that are safe to make. Methods do not
//! need this; hosts, test suites and benchmarks do.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::*;
use crate::contract::{check_encoded, check_input, check_scores};
use crate::{Encoded, Evidence, Keep, OptionValue, Options, Part};

pub use crate::caller::card::{MethodCard, OptionInfo, OptionKind};

mod arena;
mod card;

/// Why a method did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It said so, or what it gave breaks the contract: a sentence without place.
    Failed(String),
    /// It panicked with this text.
    Panicked(String),
    /// It was told to stop.
    Cancelled,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Failed(text) => f.write_str(text),
            Failure::Panicked(text) => write!(f, "it panicked: {text}"),
            Failure::Cancelled => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Failure {}

/// Hears what methods say while they work. Called from any thread.
pub trait Listener: Send + Sync {
    /// Whether methods should stop.
    fn cancelled(&self) -> bool {
        false
    }
    /// How much of a call is done, 0 to 1.
    fn progress(&self, fraction: f64) {
        let _ = fraction;
    }
    /// How many threads a call may keep busy just now, its own among them; 0: as many as there are cores.
    fn threads(&self) -> usize {
        0
    }
    /// A line for the user.
    fn log(&self, line: &str) {
        let _ = line;
    }
}

/// Hears nothing.
pub struct Deaf;

impl Listener for Deaf {}

/// A method that can be called.
#[derive(Clone)]
pub struct Caller {
    entry: Arc<Entry>,
    card: Arc<MethodCard>,
    /// Held during calls of a method that is not thread_safe.
    serial: Option<Arc<Mutex<()>>>,
}

impl Caller {
    /// Takes an entry. All methods that share `serial` and are not thread_safe are called one at a time.
    ///
    /// # Errors
    /// What is wrong with its CARD.
    pub fn new(entry: Entry, serial: &Arc<Mutex<()>>) -> Result<Caller, String> {
        // SAFETY: an `Entry` is trusted.
        let card = unsafe { card::read(entry.raw())? };
        let serial = (!card.thread_safe).then(|| serial.clone());
        Ok(Caller { entry: Arc::new(entry), card: Arc::new(card), serial })
    }

    /// Takes the entry of a method that is linked into this program.
    ///
    /// # Errors
    /// What is wrong with its CARD.
    pub fn linked(entry: &'static Entry) -> Result<Caller, String> {
        // SAFETY: an `Entry` is trusted.
        let copy = unsafe { Entry::from_exported(entry.raw()) };
        let copy = copy.map_err(|abi| format!("it speaks version {abi} of the door, this program up to {ABI}"))?;
        Caller::new(copy, &Arc::default())
    }

    /// What the method says of itself.
    pub fn card(&self) -> &MethodCard {
        &self.card
    }

    /// Makes the method's state for one stage.
    pub fn create(&self, options: &Options, seed: u64, listener: Arc<dyn Listener>) -> Result<Instance, Failure> {
        let Some(create) = self.entry.raw().create else { return Err(Failure::Failed("it has no create".into())) };
        let options: Vec<(&str, &OptionValue)> = options.0.iter().map(|(n, v)| (n.as_str(), v)).collect();
        self.card.check_complete(&options).map_err(Failure::Failed)?;
        let values: Vec<RawValue> = options.iter().map(|(name, value)| raw_value(name, value)).collect();
        let pointers: Vec<*const RawValue> = values.iter().map(std::ptr::from_ref).collect();
        let raw = RawOptions {
            size: size_of::<RawOptions>() as u32,
            reserved: 0,
            values: pointers.as_ptr(),
            value_count: pointers.len() as u64,
        };
        let mut state = std::ptr::null_mut();
        // SAFETY: all pointers are live during the call; the entry is trusted.
        self.call(&*listener, |host, _| unsafe { create(&raw, seed, &mut state, host) })?;
        Ok(Instance { method: self.clone(), state, listener })
    }

    fn call(
        &self,
        listener: &dyn Listener,
        work: impl FnOnce(*const RawHost, &arena::Arena) -> i32,
    ) -> Result<arena::Arena, Failure> {
        let context = Context { listener, error: Mutex::new(None), arena: arena::Arena::default() };
        let host = RawHost {
            size: size_of::<RawHost>() as u32,
            abi: ABI,
            context: std::ptr::from_ref(&context).cast(),
            alloc: Some(alloc),
            error: Some(error),
            progress: Some(progress),
            cancelled: Some(cancelled),
            log: Some(log),
            threads: Some(threads),
        };
        let _turn = self.turn();
        let status = work(&host, &context.arena);
        let text = lock(&context.error).take().unwrap_or_else(|| "it failed and did not say why".into());
        match status {
            OK => Ok(context.arena),
            CANCELLED => Err(Failure::Cancelled),
            PANICKED => Err(Failure::Panicked(text)),
            _ => Err(Failure::Failed(text)),
        }
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        self.serial.as_deref().map(lock)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of a method for one stage.
pub struct Instance {
    method: Caller,
    state: *mut (),
    listener: Arc<dyn Listener>,
}

// SAFETY: methods promise that a state may move between threads; those that are not thread_safe are called under a
// lock, the others promise that they may be called at once.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Instance {
    /// Writes a score for each weight of the block, in the strides of the block.
    pub fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let entry = self.method.entry.raw();
        let Some(score) = entry.score else { return Err(Failure::Failed("it gives no scores".into())) };
        check_input(part, evidence).map_err(Failure::Failed)?;
        if out.len() != part.data.len() {
            return Err(Failure::Failed(format!("{} scores for {} weights", out.len(), part.data.len())));
        }
        let arrays: Vec<RawArray> = evidence.arrays.iter().map(raw_array).collect();
        let pointers: Vec<*const RawArray> = arrays.iter().map(std::ptr::from_ref).collect();
        let (part_, evidence_) = (raw_part(part), raw_evidence(&pointers));
        let (state, to) = (self.state.cast_const(), out.as_mut_ptr());
        // SAFETY: all pointers are live during the call, lengths and strides were checked; the entry is trusted.
        self.method.call(&*self.listener, |host, _| unsafe { score(state, &part_, &evidence_, to, host) })?;
        check_scores(part, out).map_err(Failure::Failed)
    }

    /// Encodes a whole part anew.
    pub fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded, Failure> {
        let entry = self.method.entry.raw();
        let Some(encode) = entry.encode else { return Err(Failure::Failed("it gives no encodings".into())) };
        check_input(part, evidence).map_err(Failure::Failed)?;
        let keep_ = raw_keep(part, keep).map_err(Failure::Failed)?;
        let arrays: Vec<RawArray> = evidence.arrays.iter().map(raw_array).collect();
        let pointers: Vec<*const RawArray> = arrays.iter().map(std::ptr::from_ref).collect();
        let (part_, evidence_) = (raw_part(part), raw_evidence(&pointers));
        let mut out = RawEncoded {
            size: size_of::<RawEncoded>() as u32,
            reserved: 0,
            kept: std::ptr::null(),
            terms: std::ptr::null(),
            term_count: 0,
        };
        let state = self.state.cast_const();
        let arena = self.method.call(&*self.listener, |host, _| {
            // SAFETY: all pointers are live during the call, lengths and strides were checked; the entry is trusted.
            unsafe { encode(state, &part_, &keep_, &evidence_, &mut out, host) }
        })?;
        let encoded = arena.read_encoded(part, &out).map_err(Failure::Failed)?;
        check_encoded(part, keep, &encoded).map_err(Failure::Failed)?;
        Ok(encoded)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(destroy) = self.method.entry.raw().destroy {
            let _turn = self.method.turn();
            // SAFETY: `create` made this state, and nothing uses it any more.
            unsafe { destroy(self.state) }
        }
    }
}

fn raw_value(name: &str, value: &OptionValue) -> RawValue {
    let mut raw = RawValue {
        size: size_of::<RawValue>() as u32,
        kind: OPTION_INTEGER,
        name: Str::new(name),
        integer: 0,
        number: 0.0,
        text: Str::EMPTY,
    };
    match value {
        OptionValue::Integer(v) => raw.integer = *v,
        OptionValue::Float(v) => (raw.kind, raw.number) = (OPTION_FLOAT, *v),
        OptionValue::Flag(v) => (raw.kind, raw.integer) = (OPTION_FLAG, i64::from(*v)),
        OptionValue::Text(v) => (raw.kind, raw.text) = (OPTION_TEXT, Str::new(v)),
    }
    raw
}

fn raw_part(part: &Part<'_>) -> RawPart {
    RawPart {
        size: size_of::<RawPart>() as u32,
        reserved: 0,
        tensor: Str::new(part.tensor),
        name: Str::new(part.name),
        weight_class: Str::new(part.class),
        data: part.data.as_ptr(),
        rows: part.rows as u64,
        cols: part.cols as u64,
        row_stride: part.row_stride as u64,
        col_stride: part.col_stride as u64,
        first_row: part.first_row as u64,
        first_element: part.first_element,
        part_rows: part.part_rows as u64,
        part_cols: part.part_cols as u64,
    }
}

fn raw_array(array: &crate::Array<'_>) -> RawArray {
    RawArray {
        size: size_of::<RawArray>() as u32,
        dims: array.shape.len() as u32,
        kind: Str::new(array.kind.name()),
        shape: array.shape.as_ptr(),
        data: array.data.as_ptr(),
        model_mean: array.model_mean,
    }
}

fn raw_evidence(arrays: &[*const RawArray]) -> RawEvidence {
    RawEvidence {
        size: size_of::<RawEvidence>() as u32,
        reserved: 0,
        arrays: arrays.as_ptr(),
        array_count: arrays.len() as u64,
    }
}

fn raw_keep(part: &Part<'_>, keep: Keep<'_>) -> Result<RawKeep, String> {
    let all =
        RawKeep { size: size_of::<RawKeep>() as u32, kind: KEEP_ALL, bits: std::ptr::null(), pruned: 0, n: 0, m: 0 };
    let (bits, raw) = match keep {
        Keep::All => return Ok(all),
        Keep::Mask(mask) => (mask, RawKeep { kind: KEEP_MASK, ..all }),
        Keep::Quota { eligible, pruned, n, m } => {
            (eligible, RawKeep { kind: KEEP_QUOTA, pruned, n: n as u64, m: m as u64, ..all })
        }
    };
    if bits.len() != part.rows * part.cols {
        return Err(format!("a mask of {} bits for {} weights", bits.len(), part.rows * part.cols));
    }
    Ok(RawKeep { bits: bits.as_bytes().as_ptr(), ..raw })
}

struct Context<'a> {
    listener: &'a dyn Listener,
    error: Mutex<Option<String>>,
    arena: arena::Arena,
}

/// # Safety
/// `host` must be the one that `Caller::call` made, during its call.
unsafe fn context<'a>(host: *const RawHost) -> &'a Context<'a> {
    // SAFETY: the caller's promise.
    unsafe { &*(*host).context.cast::<Context<'a>>() }
}

unsafe extern "C" fn alloc(host: *const RawHost, bytes: u64) -> *mut () {
    // SAFETY: methods call this during their call and with the host that they were given.
    unsafe { context(host) }.arena.alloc(bytes)
}

unsafe extern "C" fn error(host: *const RawHost, text: Str) {
    // SAFETY: as in `alloc`; the text is live during this call.
    let (context, text) = unsafe { (context(host), card::text(text)) };
    *lock(&context.error) = Some(text);
}

unsafe extern "C" fn progress(host: *const RawHost, fraction: f64) {
    // SAFETY: as in `alloc`.
    unsafe { context(host) }.listener.progress(fraction);
}

unsafe extern "C" fn cancelled(host: *const RawHost) -> i32 {
    // SAFETY: as in `alloc`.
    i32::from(unsafe { context(host) }.listener.cancelled())
}

unsafe extern "C" fn log(host: *const RawHost, line: Str) {
    // SAFETY: as in `alloc`; the text is live during this call.
    let (context, line) = unsafe { (context(host), card::text(line)) };
    context.listener.log(&line);
}

unsafe extern "C" fn threads(host: *const RawHost) -> u32 {
    // SAFETY: as in `alloc`.
    unsafe { context(host) }.listener.threads().try_into().unwrap_or(u32::MAX)
}
