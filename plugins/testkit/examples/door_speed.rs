//! How fast scores come through each way in: linked, loaded, a program.
//!
//!     cargo run --release -p compress-testkit --example door_speed -- [MiB] [MiB a block] [threads] [python]
//!
//! The weights are made once and scored block after block by |w|; of several rounds the fastest counts. The numpy time
//! is what the program itself measured around its one line.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use compress_core::registry::{Instance, Registry};
use compress_sdk::{Evidence, Part};

const PROGRAM: &str = r#"
import sys, time
import numpy as np
from compress_method import run
spent = 0
def score(w, part):
    global spent
    start = time.perf_counter()
    s = np.abs(w)
    spent += time.perf_counter() - start
    open(sys.argv[1], "w").write(str(spent))
    return s
run(name="numpy", meaning="m", citation="c", equation="s(w) = |w|", score=score)
"#;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: usize| words.get(i).map_or(or, |w| w.parse().expect("a number"));
    let (count, block, threads) = (number(0, 1024) << 18, number(1, 4) << 18, number(2, 2));
    let python = words.get(3).map_or("python3", String::as_str);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::temp_dir().join(format!("door-speed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(root.join("examples/plugin-python/compress_method.py"), folder.join("compress_method.py"))
        .expect("it");
    std::fs::write(folder.join("numpy_method.py"), PROGRAM).expect("it");

    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / 2f32.powi(31) - 1.0
    };
    let weights: Vec<f32> = (0..count).map(|_| next()).collect();

    let mut linked = Registry::new();
    linked.add_builtin(&compress_magnitude::ENTRY).expect("built in");
    let mut loaded = Registry::new();
    loaded.load_library(&library()).expect("cargo build --release -p compress-magnitude");
    let mut program = Registry::new();
    let argv = [python, "numpy_method.py", "spent.txt"].map(String::from);
    program.add_program("numpy", &argv, &folder, Duration::from_secs(60)).expect("numpy");
    let make = |registry: &Registry, name| {
        let method = registry.get(name).expect("it");
        method.create(&method.card().defaults(), 1).expect("it")
    };
    let (linked, loaded) = (make(&linked, "magnitude"), make(&loaded, "magnitude"));
    let mut best = [f64::MAX; 3];
    for _ in 0..5 {
        best[0] = best[0].min(seconds(&*linked, &weights, block, threads));
        best[1] = best[1].min(seconds(&*loaded, &weights, block, threads));
    }
    let mut own = 0.0;
    for _ in 0..3 {
        let instance = make(&program, "numpy");
        let spent = seconds(&*instance, &weights, block, threads);
        if spent < best[2] {
            best[2] = spent;
            own = std::fs::read_to_string(folder.join("spent.txt")).expect("it").parse().expect("seconds");
        }
    }
    let speed = |s: f64| (count * 4) as f64 / s / 1e9;
    println!("linked   {:.4} s  {:.2} GB/s", best[0], speed(best[0]));
    println!("loaded   {:.4} s  {:.2} GB/s  {:.3} × linked", best[1], speed(best[1]), best[1] / best[0]);
    println!("program  {:.4} s  {:.2} GB/s, of it numpy {own:.4} s", best[2], speed(best[2]));
    println!("program without numpy's own  {:.3} × linked", (best[2] - own) / best[0]);
    let _ = std::fs::remove_dir_all(folder);
}

fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("it");
    let name = format!("{}compress_magnitude{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    exe.ancestors().nth(2).expect("target/release").join(name)
}

fn seconds(instance: &dyn Instance, weights: &[f32], block: usize, threads: usize) -> f64 {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut out = vec![0.0; block];
                while let Some(data) = weights.chunks(block).nth(next.fetch_add(1, Ordering::Relaxed)) {
                    let out = &mut out[..data.len()];
                    instance.score(&Part::whole("w", 1, data.len(), data), &Evidence::default(), out).expect("scores");
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}
