//! Methods from shared libraries. What a file is is read from it before it is loaded, so that nothing of a wrong file
//! runs, and every refusal is a sentence about the file and not what the system's loader happens to say.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use compress_sdk::abi::{ABI, Entry, RawEntry, SYMBOL_PREFIX};
use compress_sdk::caller::Caller;
use object::read::ReadCache;
use object::{Architecture, BinaryFormat, Object, ObjectKind, ObjectSegment, ObjectSymbol, SymbolKind};

use crate::error::{Error, Result};

/// The methods of a library and its full path.
pub(super) fn load(path: &Path) -> Result<(PathBuf, Vec<Caller>)> {
    let full = path.canonicalize().map_err(|e| {
        let remedy = "build it first, or correct its path (relative to the recipe)";
        Error::usage(format!("{}; {remedy}", Error::io("load the library", path, &e)))
    })?;
    let refuse = |text: String| Error::usage(format!("cannot load the library \"{}\": {text}", path.display()));
    let symbols = inspect(&full).map_err(refuse)?;
    let library = open(&full).map_err(refuse)?;
    let serial = Arc::new(Mutex::new(()));
    let mut callers = Vec::new();
    for Symbol { name, bytes } in symbols {
        // SAFETY: the symbol is only taken as an address; what it must be is checked below and in `Entry`.
        let exported = unsafe { library.get::<*const RawEntry>(name.as_bytes()) };
        let exported = exported.map_err(|e| refuse(format!("{name} cannot be found{}", because(&e))))?;
        // SAFETY: libloading's symbol is the address itself; it stays valid because libraries are never unloaded.
        let exported = unsafe { exported.into_raw().as_raw_ptr() }.cast::<RawEntry>();
        // SAFETY: `abi` and `size` are the first eight bytes of every version, and the symbol has as many.
        let size = unsafe { exported.cast::<u32>().add(1).read() };
        if bytes.is_some_and(|b| u64::from(size) > b) {
            return Err(refuse(format!("{name} says that it has {size} bytes and has fewer; use the SDK's header")));
        }
        // SAFETY: who names a library in a recipe trusts it to keep the door's rules, as the documentation says.
        let entry = unsafe { Entry::from_exported(exported) }.map_err(|abi| {
            refuse(format!(
                "{name} speaks version {abi} of the plugin door, this program speaks 1 to {ABI}; {}",
                if abi == 0 { "build it with the SDK or its header" } else { "use a newer compress or an older SDK" }
            ))
        })?;
        callers.push(Caller::new(entry, &serial).map_err(|e| refuse(format!("method {name}: {e}")))?);
    }
    // Threads, thread locals and constants of it may be in use as long as the program runs.
    std::mem::forget(library);
    Ok((full, callers))
}

struct Symbol {
    name: String,
    /// Its length, where the format tells.
    bytes: Option<u64>,
}

/// The symbols of methods in a library for this machine.
fn inspect(path: &Path) -> Result<Vec<Symbol>, String> {
    let file = File::open(path).map_err(|e| Error::io("open", path, &e).to_string())?;
    let length = file.metadata().map_err(|e| Error::io("read", path, &e).to_string())?;
    if !length.is_file() {
        return Err("it is not a file; name the library itself".into());
    }
    let cache = ReadCache::new(file);
    let not_one = "it is not a shared library; name what \"cargo build --release\" made (lib….so, .dylib or .dll)";
    let object = object::File::parse(&cache).map_err(|_| not_one.to_string())?;
    if object.kind() != ObjectKind::Dynamic {
        return Err(not_one.into());
    }
    let here = (FORMAT, ARCHITECTURE, size_of::<usize>() == 8, cfg!(target_endian = "little"));
    let there = (object.format(), object.architecture(), object.is_64(), object.is_little_endian());
    if here != there {
        return Err(format!(
            "it is made for {}, this machine is {}; build it here, or with --target for this machine",
            machine(there),
            machine(here)
        ));
    }
    let ends = object.segments().map(|s| s.file_range()).filter_map(|(start, bytes)| start.checked_add(bytes));
    if ends.max().is_some_and(|end| end > length.len()) {
        return Err("the file ends too early; copy or build it again".into());
    }
    let symbols = methods(&object).map_err(|e| format!("its symbols cannot be read: {e}"))?;
    if symbols.is_empty() {
        return Err(format!(
            "no method is exported from it (no constant {SYMBOL_PREFIX}…); add compress_sdk::export_method! and \
             crate-type = [\"cdylib\"]"
        ));
    }
    Ok(symbols)
}

fn methods<'a>(object: &object::File<'a, &'a ReadCache<File>>) -> object::Result<Vec<Symbol>> {
    let mut found = Vec::new();
    for export in object.exports()? {
        let export = export?;
        let object::NameOrOrdinal::Name(name) = export.name() else { continue };
        let name = String::from_utf8_lossy(name).into_owned();
        let name = if FORMAT == BinaryFormat::MachO { name.trim_start_matches('_').to_string() } else { name };
        if !name.starts_with(SYMBOL_PREFIX) {
            continue;
        }
        let symbol = object.dynamic_symbols().find(|s| s.name() == Ok(&name) && s.is_definition());
        // A function of that name is no entry.
        if symbol.as_ref().is_some_and(|s| s.kind() == SymbolKind::Text) {
            continue;
        }
        found.push(Symbol { name, bytes: symbol.map(|s| s.size()).filter(|b| *b > 0) });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn machine((format, architecture, wide, little): (BinaryFormat, Architecture, bool, bool)) -> String {
    let system = match format {
        BinaryFormat::Elf => "Linux or alike",
        BinaryFormat::MachO => "macOS",
        BinaryFormat::Pe | BinaryFormat::Coff => "Windows",
        _ => "another system",
    };
    let order = if little { "" } else { ", big-endian" };
    format!("{architecture:?} of {} bits{order} ({system})", if wide { 64 } else { 32 })
}

const FORMAT: BinaryFormat = if cfg!(windows) {
    BinaryFormat::Pe
} else if cfg!(target_vendor = "apple") {
    BinaryFormat::MachO
} else {
    BinaryFormat::Elf
};

const ARCHITECTURE: Architecture = if cfg!(target_arch = "x86_64") {
    Architecture::X86_64
} else if cfg!(target_arch = "aarch64") {
    Architecture::Aarch64
} else if cfg!(target_arch = "riscv64") {
    Architecture::Riscv64
} else if cfg!(target_arch = "x86") {
    Architecture::I386
} else {
    Architecture::Unknown
};

fn open(path: &Path) -> Result<libloading::Library, String> {
    // SAFETY: who names a library in a recipe trusts it, its constructors too, as the documentation says.
    #[cfg(unix)]
    let library = unsafe {
        use libloading::os::unix;
        // All symbols now, so that a missing one is a sentence here and not the end of the process later.
        unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_LOCAL).map(libloading::Library::from)
    };
    // SAFETY: as above.
    #[cfg(not(unix))]
    let library = unsafe { libloading::Library::new(path) };
    library.map_err(|e| format!("the system refuses it{}; build it on this machine", because(&e)))
}

/// What libloading's own text leaves out.
fn because(error: &dyn std::error::Error) -> String {
    error.source().map(|s| format!(" ({s})")).unwrap_or_default()
}
