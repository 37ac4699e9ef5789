//! Methods from shared libraries: the built-in one loaded from its own `.so`, one in C, and all that can be wrong.
#![allow(clippy::unwrap_used)]

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::{Path, PathBuf};

use common::{Through, built, cargo, cc, include, load, refused, root, scores};
use compress_core::registry::{Origin, Registry};
use compress_testkit::conformance_of;

mod common;

fn magnitude() -> PathBuf {
    cargo(&root(), &["build", "--quiet", "--release", "-p", "compress-magnitude"]);
    built("compress_magnitude")
}

fn example(folder: &Path) -> PathBuf {
    let library = folder.join("row_relative.so");
    cc(&root().join("examples/plugin-c/row_relative.c"), &include(), &library, &[]);
    library
}

#[test]
fn a_loaded_method_is_the_built_in_one() {
    let path = magnitude();
    let loaded = load(&path);
    let mut linked = Registry::new();
    linked.add_builtin(&compress_magnitude::ENTRY).unwrap();
    let (loaded, linked) = (loaded.get("magnitude").unwrap(), linked.get("magnitude").unwrap());
    assert_eq!(loaded.card(), linked.card());
    assert_eq!(loaded.origin(), &Origin::Library(path.canonicalize().unwrap()));
    conformance_of(&Through(loaded));
    conformance_of(&Through(linked));
}

/// The other methods of the workspace, each from its own `.so`.
#[test]
fn every_method_conforms_when_it_is_loaded() {
    const NAMES: [&str; 6] = ["obd", "obs", "activation-aware", "low-rank", "hashing", "random"];
    // Cargo puts a dependency's shared library beside the tests.
    let tests = std::env::current_exe().unwrap();
    for name in NAMES {
        let file = format!("{DLL_PREFIX}compress_{}{DLL_SUFFIX}", name.replace('-', "_"));
        conformance_of(&Through(load(&tests.with_file_name(file)).get(name).unwrap()));
    }
}

#[test]
fn a_method_in_c_is_a_method() {
    let folder = tempfile::tempdir().unwrap();
    let source = std::fs::read_to_string(root().join("examples/plugin-c/row_relative.c")).unwrap();
    assert!(source.lines().count() < 60);
    let registry = load(&example(folder.path()));
    let method = registry.get("row-relative").unwrap();
    conformance_of(&Through(method));
    assert_eq!(scores(method, 2, 2, &[3.0, -4.0, 0.0, 2.0]).unwrap(), [0.6, 0.8, 0.0, 1.0]);
    let options = method.check_options(&toml::toml! { floor = 1 }).unwrap();
    let mut out = [0.0];
    let part = compress_sdk::Part::whole("w", 1, 1, &[0.5]);
    method.create(&options, 1).unwrap().score(&part, &Default::default(), &mut out).unwrap();
    assert_eq!(out, [0.5]);
}

/// The first header that was released. Methods that were built with it must load for ever: never change that file.
#[test]
fn a_method_of_the_first_header_loads_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let frozen = std::fs::read(include().join("frozen/compress-abi1.h")).unwrap();
    let hash = frozen.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    assert_eq!(format!("{hash:016x}"), FROZEN, "the frozen header was changed");
    std::fs::write(folder.path().join("compress.h"), frozen).unwrap();
    let library = folder.path().join("old.so");
    cc(&root().join("examples/plugin-c/row_relative.c"), folder.path(), &library, &[]);
    conformance_of(&Through(load(&library).get("row-relative").unwrap()));
}

const FROZEN: &str = "e5d86f3e51076e67";

#[test]
fn a_shorter_entry_has_nothing_beyond_its_end() {
    let folder = tempfile::tempdir().unwrap();
    // As of a time when there was no `encode` yet.
    let text = std::fs::read_to_string(root().join("examples/plugin-c/row_relative.c")).unwrap();
    let text = text.replace(".size = sizeof(compress_method)", ".size = offsetof(compress_method, encode)");
    let text = text.replace(".score = score,", ".score = score, .encode = (void *)1,");
    let source = folder.path().join("short.c");
    std::fs::write(&source, format!("#include <stddef.h>\n{text}")).unwrap();
    let library = folder.path().join("short.so");
    cc(&source, &include(), &library, &["-Wno-pedantic"]);
    assert!(!load(&library).get("row-relative").unwrap().card().encodes);
}

#[test]
fn two_libraries_with_one_name_are_refused_and_one_twice_is_one() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (example(a.path()), example(b.path()));
    let mut registry = load(&first);
    registry.load_library(&first).unwrap();
    assert_eq!(registry.iter().count(), 1);
    let (first, second) = (first.canonicalize().unwrap(), second.canonicalize().unwrap());
    assert_eq!(
        refused(registry.load_library(&second)),
        format!(
            "two methods are called \"row-relative\": one is \"{}\", one \"{}\"; leave one out or rename it",
            first.display(),
            second.display()
        )
    );
}

/// What is wrong with a library, and the sentence about it after `cannot load the library "…": `.
#[test]
fn every_wrong_library_has_its_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sentence = |path: &Path| {
        let text = refused(Registry::new().load_library(path));
        let head = format!("cannot load the library \"{}\": ", path.display());
        text.strip_prefix(&head).unwrap_or(&text).to_string()
    };
    let good = std::fs::read(example(folder.path())).unwrap();
    let change = |name: &str, work: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        work(&mut bytes);
        std::fs::write(at(name), bytes).unwrap();
        at(name)
    };
    // A constructor that would be noticed if any of these were loaded.
    let c = |name: &str, text: &str| {
        let source = at(&format!("{name}.c"));
        let alarm = "#include <stdlib.h>\n__attribute__((constructor)) static void alarm_(void) { abort(); }\n";
        std::fs::write(&source, format!("#include <compress.h>\n{alarm}{text}")).unwrap();
        cc(&source, &include(), &at(name), &[]);
        at(name)
    };
    let method = std::fs::read_to_string(root().join("examples/plugin-c/row_relative.c")).unwrap();
    let edited = |name: &str, from: &str, to: &str| {
        assert!(method.contains(from));
        let source = at(&format!("{name}.c"));
        std::fs::write(&source, method.replace(from, to)).unwrap();
        cc(&source, &include(), &at(name), &["-Wno-unused-function"]);
        at(name)
    };

    assert_eq!(
        sentence(&at("none.so")),
        "there is no such file or folder; build it first, or correct its path (relative to the recipe)"
    );
    assert_eq!(sentence(folder.path()), "it is not a file; name the library itself");
    let not_one =
        "it is not a shared library; name what \"cargo build --release\" made (lib….so, .dylib or .dll)".to_string();
    std::fs::write(at("text.so"), "import numpy\n").unwrap();
    assert_eq!(sentence(&at("text.so")), not_one);
    std::fs::write(at("empty.so"), "").unwrap();
    assert_eq!(sentence(&at("empty.so")), not_one);
    assert_eq!(sentence(&change("object.so", &|b| b[16] = 1)), not_one);
    assert_eq!(
        sentence(&change("arm.so", &|b| b[18] = 40)).replace("X86_64", "Aarch64"),
        "it is made for Arm of 64 bits (Linux or alike), this machine is Aarch64 of 64 bits (Linux or alike); build it \
         here, or with --target for this machine"
    );
    assert_eq!(sentence(&change("half.so", &|b| b.truncate(b.len() / 2))), not_one);
    let none = "no method is exported from it (no constant compress_method_…); add compress_sdk::export_method! and \
                crate-type = [\"cdylib\"]";
    assert_eq!(sentence(&c("plain.so", "int other = 1;")), none);
    assert_eq!(
        sentence(&c(
            "function.so",
            "COMPRESS_EXPORT int compress_method_f(void);int compress_method_f(void) { return 1; }"
        )),
        none
    );
    assert_eq!(
        sentence(&edited("newer.so", ".abi = COMPRESS_ABI", ".abi = 7")),
        "compress_method_row_relative speaks version 7 of the plugin door, this program speaks 1 to 1; use a newer \
         compress or an older SDK"
    );
    assert_eq!(
        sentence(&edited("zero.so", ".abi = COMPRESS_ABI", ".abi = 0")),
        "compress_method_row_relative speaks version 0 of the plugin door, this program speaks 1 to 1; build it with \
         the SDK or its header"
    );
    assert_eq!(
        sentence(&edited("longer.so", ".size = sizeof(compress_method)", ".size = 4096")),
        "compress_method_row_relative says that it has 4096 bytes and has fewer; use the SDK's header"
    );
    assert_eq!(
        sentence(&edited("nameless.so", "COMPRESS_STR(\"row-relative\")", "COMPRESS_STR(\"Row\")")),
        "method compress_method_row_relative: its name \"Row\" is not made of lower case letters, digits and hyphens"
    );
    assert_eq!(
        sentence(&edited("idle.so", ".score = score,", "")),
        "method compress_method_row_relative: its function score is missing"
    );
    let missing = edited(
        "missing.so",
        "static int32_t score",
        "double no_such_function(double, double);\n#define fmax no_such_function\nstatic int32_t score",
    );
    let text = sentence(&missing);
    assert!(text.starts_with("the system refuses it (") && text.contains("no_such_function"), "{text}");
}

/// A method in C that encodes: every weight rounded to a quarter.
const ENCODES: &str = r#"
#include <compress.h>
#include <math.h>
static float elsewhere[4096];
static int32_t create(const compress_options *o, uint64_t seed, void **state, const compress_host *host) {
    (void)o, (void)seed, (void)host, (void)elsewhere;
    *state = 0;
    return COMPRESS_OK;
}
static int32_t encode(const void *state, const compress_part *part, const compress_keep *keep,
                      const compress_evidence *evidence, compress_encoded *result, const compress_host *host) {
    (void)state, (void)evidence;
    if (keep->kind != COMPRESS_KEEP_ALL) return compress_fail(host, "only all can be kept");
    uint64_t count = part->rows * part->cols;
    compress_term *term = host->alloc(host, sizeof *term);
    const compress_term **terms = host->alloc(host, sizeof *terms);
    float *values = host->alloc(host, 4 * count);
    for (uint64_t i = 0; i < count; i++) {
        float w = part->data[i / part->cols * part->row_stride + i % part->cols * part->col_stride];
        values[i] = rintf(w * 4) / 4;
        if (!isfinite(values[i])) values[i] = w;
    }
    term->size = sizeof *term;
    term->values = values;
    term->value_count = count;
    terms[0] = term;
    result->terms = terms;
    result->term_count = 1;
    return COMPRESS_OK;
}
COMPRESS_EXPORT const compress_method compress_method_quarters = {
    .abi = COMPRESS_ABI, .size = sizeof(compress_method), .name = COMPRESS_STR("quarters"),
    .meaning = COMPRESS_STR("m"), .citation = COMPRESS_STR("c"), .equation = COMPRESS_STR("e"),
    .flags = COMPRESS_THREAD_SAFE | COMPRESS_ENCODES, .reach = COMPRESS_REACH_PART, .create = create, .encode = encode,
};
"#;

#[test]
fn encodings_in_c_are_checked_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, from: &str, to: &str| {
        assert!(ENCODES.contains(from));
        let source = folder.path().join(format!("{name}.c"));
        std::fs::write(&source, ENCODES.replace(from, to)).unwrap();
        let library = folder.path().join(format!("{name}.so"));
        cc(&source, &include(), &library, &[]);
        load(&library)
    };
    conformance_of(&Through(build("good", "e", "e").get("quarters").unwrap()));
    for (name, from, to, sentence) in [
        (
            "static",
            "term->values = values",
            "term->values = elsewhere",
            "the values of its result do not lie in memory that the host gave it",
        ),
        (
            "long",
            "term->value_count = count",
            "term->value_count = 1000",
            "the values of its result do not lie in memory",
        ),
        ("short", "term->value_count = count", "term->value_count = 1", "term 0 has 1 values where its layout needs 2"),
        (
            "layout",
            "term->values = values",
            "term->layout = 9, term->values = values",
            "its result has an unknown layout 9",
        ),
        ("none", "result->term_count = 1", "result->term_count = 0", "its encoding has no terms"),
        (
            "wild",
            "terms[0] = term",
            "terms[0] = (const compress_term *)8",
            "the terms of its result do not lie in memory",
        ),
        (
            "silent",
            "*state = 0;\n    return COMPRESS_OK;\n}\nstatic",
            "*state = 0;\n    return 1;\n}\nstatic",
            "it failed and did not say why",
        ),
    ] {
        let registry = build(name, from, to);
        let method = registry.get("quarters").unwrap();
        let part = compress_sdk::Part::whole("w", 1, 2, &[0.3, 0.6]);
        let encode = |i: Box<dyn compress_core::registry::Instance>| {
            i.encode(&part, compress_sdk::Keep::All, &Default::default())
        };
        let error = method.create(&method.card().defaults(), 1).and_then(encode).unwrap_err().to_string();
        assert!(error.contains(sentence), "{name}: {error}");
    }
}
