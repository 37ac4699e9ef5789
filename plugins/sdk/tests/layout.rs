//! The layout of the door: pinned, and the same in the C header.
//!
//! A change of a number here breaks every plugin that was ever built, unless it is a new field at the end of a struct.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use compress_sdk::abi::*;

/// (struct in C, its size, its fields with their offsets)
type Layout = (&'static str, usize, Vec<(&'static str, usize)>);

macro_rules! layouts {
    ($($c:literal = $rust:ident { $($field:ident),* })*) => {
        vec![$(($c, size_of::<$rust>(), vec![$((stringify!($field), offset_of!($rust, $field))),*])),*]
    };
}

fn rust() -> Vec<Layout> {
    layouts! {
        "compress_str" = Str { data, bytes }
        "compress_host" = RawHost { size, abi, context, alloc, error, progress, cancelled, log, threads }
        "compress_option" = RawOption {
            size, kind, name, meaning, integer, integer_min, integer_max, number, number_min, number_max, text, choices,
            choice_count
        }
        "compress_need" = RawNeed { size, required, kind }
        "compress_value" = RawValue { size, kind, name, integer, number, text }
        "compress_options" = RawOptions { size, reserved, values, value_count }
        "compress_part" = RawPart {
            size, reserved, tensor, name, weight_class, data, rows, cols, row_stride, col_stride, first_row,
            first_element, part_rows, part_cols
        }
        "compress_array" = RawArray { size, dims, kind, shape, data, model_mean }
        "compress_evidence" = RawEvidence { size, reserved, arrays, array_count }
        "compress_keep" = RawKeep { size, kind, bits, pruned, n, m }
        "compress_term" = RawTerm { size, layout, bits, rank, seed, values, value_count }
        "compress_encoded" = RawEncoded { size, reserved, kept, terms, term_count }
        "compress_method" = RawEntry {
            abi, size, name, meaning, citation, equation, flags, reach, units, options, option_count, needs, need_count,
            create, destroy, score, encode
        }
    }
}

fn constants() -> Vec<(&'static str, u64)> {
    macro_rules! list {
        ($($name:ident),*) => { vec![$((concat!("COMPRESS_", stringify!($name)), $name as u64)),*] };
    }
    list![
        ABI,
        OK,
        FAILED,
        CANCELLED,
        PANICKED,
        THREAD_SAFE,
        SCORES,
        ENCODES,
        SELECTS,
        RANDOM,
        REACH_WEIGHT,
        REACH_ROW,
        REACH_PART,
        UNITS_MAGNITUDE,
        UNITS_OTHER,
        NEED_OPTIONAL,
        NEED_REQUIRED,
        NEED_ONE_OF,
        OPTION_INTEGER,
        OPTION_FLOAT,
        OPTION_FLAG,
        OPTION_CHOICE,
        OPTION_TEXT,
        KEEP_ALL,
        KEEP_MASK,
        KEEP_QUOTA,
        LAYOUT_DENSE,
        LAYOUT_SPARSE,
        LAYOUT_FACTORED,
        LAYOUT_HASHED
    ]
}

#[test]
#[cfg(target_pointer_width = "64")]
fn sizes_and_offsets_are_pinned() {
    let pinned: &[(&str, usize, &[usize])] = &[
        ("compress_str", 16, &[0, 8]),
        ("compress_host", 64, &[0, 4, 8, 16, 24, 32, 40, 48, 56]),
        ("compress_option", 120, &[0, 4, 8, 24, 40, 48, 56, 64, 72, 80, 88, 104, 112]),
        ("compress_need", 24, &[0, 4, 8]),
        ("compress_value", 56, &[0, 4, 8, 24, 32, 40]),
        ("compress_options", 24, &[0, 4, 8, 16]),
        ("compress_part", 128, &[0, 4, 8, 24, 40, 56, 64, 72, 80, 88, 96, 104, 112, 120]),
        ("compress_array", 48, &[0, 4, 8, 24, 32, 40]),
        ("compress_evidence", 24, &[0, 4, 8, 16]),
        ("compress_keep", 40, &[0, 4, 8, 16, 24, 32]),
        ("compress_term", 48, &[0, 4, 8, 16, 24, 32, 40]),
        ("compress_encoded", 32, &[0, 4, 8, 16, 24]),
        ("compress_method", 152, &[0, 4, 8, 24, 40, 56, 72, 80, 84, 88, 96, 104, 112, 120, 128, 136, 144]),
    ];
    let actual = rust();
    assert_eq!(actual.len(), pinned.len());
    for ((name, bytes, fields), (pinned_name, pinned_bytes, offsets)) in actual.iter().zip(pinned) {
        let actual: Vec<usize> = fields.iter().map(|(_, o)| *o).collect();
        assert_eq!((name, bytes, &actual[..]), (pinned_name, pinned_bytes, *offsets));
    }
}

#[test]
fn the_c_headers_say_the_same() {
    let mut wanted = String::new();
    let mut program =
        "#include \"compress.h\"\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n".to_string();
    for (name, bytes, fields) in rust() {
        writeln!(wanted, "{name} {bytes}").unwrap();
        writeln!(program, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
        for (field, offset) in fields {
            writeln!(wanted, "{name}.{field} {offset}").unwrap();
            writeln!(program, "printf(\"{name}.{field} %zu\\n\", offsetof({name}, {field}));").unwrap();
        }
    }
    for (name, value) in constants() {
        writeln!(wanted, "{name} {value}").unwrap();
        writeln!(program, "printf(\"{name} %d\\n\", (int){name});").unwrap();
    }
    program.push_str("return 0; }\n");
    for (standard, extension) in [("-std=c99", "c"), ("-std=c++11", "cpp")] {
        let folder = std::env::temp_dir().join(format!("compress-layout-{}-{extension}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let source = folder.join(format!("layout.{extension}"));
        std::fs::write(&source, &program).unwrap();
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
        let mut cc = Command::new("cc");
        cc.args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]).arg(include);
        let built = cc.arg("-o").arg(folder.join("layout")).arg(&source).status();
        // Without a compiler for C++ there is still the one for C.
        assert!(extension == "cpp" || built.as_ref().is_ok_and(|s| s.success()), "cc must compile the header");
        if built.is_ok_and(|s| s.success()) {
            let said = Command::new(folder.join("layout")).output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap(), wanted);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
