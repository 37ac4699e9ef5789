//! Methods that are programs: the Python helper, a method that encodes, and all that can go wrong.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Through, refused, root, scores};
use compress_core::registry::{Origin, Registry};
use compress_sdk::{Bitmap, Evidence, Keep, Layout, Part};
use compress_testkit::conformance_of;

mod common;

/// A Python with numpy, as `tests/python/prepare.sh` makes it; tests without say that they were skipped.
fn python() -> Option<String> {
    let said = std::process::Command::new("bash").arg(root().join("tests/python/prepare.sh")).output().ok()?;
    let path = String::from_utf8(said.stdout).ok()?.trim().to_string();
    if path.is_empty() {
        eprintln!("skipped: there is no Python with numpy");
    }
    (!path.is_empty()).then_some(path)
}

fn add(name: &str, argv: &[&str], folder: &Path, timeout: Duration) -> compress_core::Result<Registry> {
    let argv: Vec<String> = argv.iter().map(|w| w.to_string()).collect();
    let mut registry = Registry::new();
    registry.add_program(name, &argv, folder, timeout).map(|()| registry)
}

const LONG: Duration = Duration::from_secs(60);

fn example() -> PathBuf {
    root().join("examples/plugin-python")
}

#[test]
fn a_method_in_python_is_a_method() {
    let Some(python) = python() else { return };
    let registry = add("row-relative", &[&python, "row_relative.py"], &example(), LONG).unwrap();
    let method = registry.get("row-relative").unwrap();
    assert_eq!(method.origin(), &Origin::Program(vec![python, "row_relative.py".into()]));
    conformance_of(&Through(method));
    assert_eq!(scores(method, 2, 2, &[3.0, -4.0, 0.0, 2.0]).unwrap(), [0.6, 0.8, 0.0, 1.0]);
    assert_eq!(left_behind(), 0);
}

/// Files of this process that were not removed.
fn left_behind() -> usize {
    let mine = format!("compress-door-{}-", std::process::id());
    let here = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let folders = here.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(&mine));
    // Other tests of this process may be at work: their folders hold no file that was answered for.
    folders.filter_map(|f| std::fs::read_dir(f.unwrap().path()).ok()).map(|f| f.count().saturating_sub(1)).sum()
}

/// A method in Python out of the lines of a file.
fn write(folder: &Path, text: &str) {
    std::fs::copy(example().join("compress_method.py"), folder.join("compress_method.py")).unwrap();
    let head = "import os, sys, time\nimport numpy as np\nfrom compress_method import run\n";
    let tail = "card = dict(name=\"mine\", meaning=\"m\", citation=\"c\", equation=\"e\")\n";
    std::fs::write(folder.join("mine.py"), format!("{head}{tail}{text}")).unwrap();
}

#[test]
fn encodings_masks_quotas_and_evidence_cross() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        r#"
def score(w, part):
    return np.abs(w) * np.sqrt(np.diag(part.evidence["gram"]))

def encode(w, part):
    print("this goes to stderr")
    if part.keep is None:
        u, s, v = np.linalg.svd(w, full_matrices=False)
        k = max(min(part.options["rank"], s.size), 1)
        if s.size == 0:
            return [("dense", w)]
        return [("factored", u[:, :k] * s[:k], v[:k]), ("hashed", 7, [0.0, 0.0])]
    kept = part.keep[1]
    return [("sparse", kept, w[kept])]

run(**card, reach="part", score=score, encode=encode, evidence=["gram", ("row_count", False)],
    options={"rank": dict(default=2, min=1, max=9, meaning="columns of U"),
             "by": dict(default="a", choices=["a", "b"], meaning="which")})
"#,
    );
    let registry = add("mine", &[&python, "mine.py"], folder.path(), LONG).unwrap();
    let method = registry.get("mine").unwrap();
    conformance_of(&Through(method));

    let instance = method.create(&method.check_options(&toml::toml! { rank = 1 }).unwrap(), 1).unwrap();
    let part = Part::whole("w", 2, 2, &[1.0, 2.0, 2.0, 4.0]);
    let all = instance.encode(&part, Keep::All, &Evidence::default()).unwrap();
    assert_eq!(all.encoding.terms[0].layout, Layout::Factored { rank: 1 });
    assert_eq!(all.encoding.terms[1].layout, Layout::Hashed { seed: 7 });
    let v = &all.encoding.terms[0].values;
    assert!((v[0] * v[2] - 1.0).abs() < 1e-5 && (v[1] * v[3] - 4.0).abs() < 1e-5, "{v:?}");
    let mask = Bitmap::from_bytes(vec![0b0110], 4).unwrap();
    let masked = instance.encode(&part, Keep::Mask(&mask), &Evidence::default()).unwrap();
    assert_eq!((&masked.kept, &masked.encoding.terms[0].values[..]), (&mask, &[2.0, 2.0][..]));
    assert_eq!(masked.encoding.terms[0].layout, Layout::Sparse(mask));
}

#[test]
fn what_a_program_does_wrong_is_one_sentence() {
    let Some(python) = python() else { return };
    for (text, sentence) in [
        (
            "def score(w, part):\n    os._exit(3)",
            "it ended before it answered (exit status: 3); what it said on stderr stands above",
        ),
        (
            "def score(w, part):\n    os.kill(os.getpid(), 9)",
            "it ended before it answered (signal: 9 (SIGKILL)); what it said on stderr stands above",
        ),
        (
            "def score(w, part):\n    time.sleep(60)",
            "it gave no answer for 8 s and was ended; raise [plugins] timeout if it needs longer",
        ),
        (
            "def score(w, part):\n    return np.abs(w)[:, :-1]",
            "ValueError: score gave (1, 1) scores for (1, 2) weights (compress_method.py:",
        ),
        ("def score(w, part):\n    return np.log(-np.abs(w))", "its score of weight (0, 0) is NaN"),
        ("def score(w, part):\n    w[0, 0] = 1", "ValueError: assignment destination is read-only (mine.py:"),
        ("def score(w, part):\n    return w / part.options['none']", "KeyError: 'none' (mine.py:"),
        (
            "keep = os.dup(1)\ndef score(w, part):\n    os.write(keep, b'hello\\n')\n    return w",
            "it wrote \"hello\" on stdout, which is for its answers alone; print to stderr instead",
        ),
        (
            "keep = os.dup(1)\ndef score(w, part):\n    os.write(keep, b'{\"id\": 2, \"ok\": {\"count\": 1}}\\n')\n    return w",
            "it gave 1 scores for 2 weights",
        ),
        (
            "keep = os.dup(1)\ndef score(w, part):\n    os.write(keep, b'{\"id\": 2, \"ok\": {}}\\n')\n    return w",
            "its answer has no \"count\" of its scores",
        ),
        (
            "keep = os.dup(1)\ndef score(w, part):\n    os.write(keep, b'{}\\n')\n    return w",
            "its answer \"{}\" does not have the \"id\" 2 of the call",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &format!("{text}\nrun(**card, score=score)\n"));
        let timeout = if text.contains("sleep") { Duration::from_secs(8) } else { LONG };
        let registry = add("mine", &[&python, "mine.py"], folder.path(), timeout).unwrap();
        let method = registry.get("mine").unwrap();
        let instance = method.create(&method.card().defaults(), 1).unwrap();
        let mut out = [0.0; 2];
        let mut go = || instance.score(&Part::whole("fc1.weight", 1, 2, &[1.0, 2.0]), &Evidence::default(), &mut out);
        let error = go().unwrap_err();
        let wanted = format!("\"fc1.weight\": method \"mine\" of \"{python} mine.py\": {sentence}");
        assert!(error.to_string().starts_with(&wanted), "{error}\n{wanted}");
        assert_eq!(error.status(), 1);
        // Whoever asks again, from another thread, hears of it too.
        assert!(go().is_err());
    }
}

#[test]
fn a_program_that_cannot_describe_itself_is_refused() {
    let here = std::env::temp_dir();
    let short = Duration::from_millis(1500);
    let error = refused(add("mine", &["no-such-program"], &here, LONG));
    assert!(
        error.contains("cannot start \"no-such-program\": there is no such file or folder; is it installed"),
        "{error}"
    );
    let error = refused(add("mine", &[], &here, LONG));
    assert!(error.ends_with("has no command; give its words as a list"), "{error}");
    for (script, sentence) in [
        ("exit 0", "it ended before it answered (exit status: 0)"),
        ("echo hello; sleep 9", "it wrote \"hello\" on stdout"),
        ("sleep 60", "it gave no answer for 1.5 s"),
        ("echo '{\"id\": 1, \"error\": \"not today\"}'", "not today"),
        ("echo '{\"id\": 1}'", "has neither \"ok\" nor \"error\""),
        ("echo '{\"id\": 1, \"ok\": {}}'", "its description has no \"name\""),
    ] {
        let timeout = if script == "sleep 60" { short } else { LONG };
        let error = add("mine", &["sh", "-c", script], &here, timeout).err().unwrap().to_string();
        assert!(
            error.starts_with(&format!("method \"mine\" of \"sh -c {script}\": ")) && error.contains(sentence),
            "{error}"
        );
    }
    let Some(python) = python() else { return };
    let error = refused(add("other", &[&python, "row_relative.py"], &example(), LONG));
    assert!(error.contains("calls itself \"row-relative\"; use one name"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "run(**dict(card, equation=\"\"), score=lambda w, part: w)\n");
    let error = refused(add("mine", &[&python, "mine.py"], folder.path(), LONG));
    assert!(error.ends_with("its CARD has no equation"), "{error}");
}

#[test]
fn a_program_at_work_stops_when_the_user_does() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static STOP: AtomicBool = AtomicBool::new(false);
    struct Stop;
    impl compress_core::registry::Listener for Stop {
        fn cancelled(&self) -> bool {
            STOP.load(Ordering::Relaxed)
        }
    }
    let script = r#"read -r line; echo '{"id": 1, "ok": {"name": "mine", "meaning": "m", "citation": "c",
        "equation": "e", "reach": "weight", "scores": true}}' | tr -d '\n'; echo; sleep 60"#;
    let mut registry = Registry::new().listened(std::sync::Arc::new(Stop));
    let start = std::time::Instant::now();
    let argv = ["sh", "-c", script].map(String::from);
    registry.add_program("mine", &argv, &std::env::temp_dir(), LONG).unwrap();
    STOP.store(true, Ordering::Relaxed);
    let error = registry.get("mine").unwrap().create(&Default::default(), 1).and_then(|i| {
        i.score(&Part::whole("w", 1, 1, &[1.0]), &Evidence::default(), &mut [0.0]) //
    });
    assert!(matches!(error, Err(compress_core::Error::Interrupted)), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "what the program started ends with it");
}
