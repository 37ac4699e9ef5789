#!/usr/bin/env python3
"""Measures magnitude through each door on a 1 GB f32 model: built in, loaded from its .so, and as a numpy program.

    door.py [--work DIR] [--runs 5] [--python PYTHON]

Runs take turns. PYTHON needs numpy; the program's own numpy time (the sum over its calls, measured by itself) is printed
and subtracted.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys

from prune import ROOT, measure, remove, warm

PROGRAM = """
import sys, time, atexit
sys.path.insert(0, {folder!r})
import numpy as np
from compress_method import run
spent = 0.0
def score(w, part):
    global spent
    begin = time.perf_counter()
    scores = np.abs(w)
    spent += time.perf_counter() - begin
    return scores
atexit.register(lambda: open({log!r}, "w").write(str(spent)))
run(name="numpy-magnitude", meaning="the smallest weights go first", citation="none", equation="s(w) = |w|",
    reach="weight", units="magnitude", score=score)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/compress-bench"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "compress-cli", "-p", "compress-magnitude"],
                   cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    args.work.mkdir(parents=True, exist_ok=True)
    source, output, log = args.work / "door.safetensors", args.work / "door-out.safetensors", args.work / "door.log"
    if not source.exists():
        subprocess.run([sys.executable, ROOT / "bench/make_model.py", source, "--gb", "1"], check=True)
    program = args.work / "numpy_magnitude.py"
    program.write_text(PROGRAM.format(folder=str(ROOT / "examples/plugin-python"), log=str(log)))
    bare = f'model = "{source}"\noutput = "{output}"\n'
    stage = '[[stage]]\nmethod = "{}"\namount = "80%"\n'
    recipes = {
        "built in": bare + stage.format("magnitude"),
        "numpy program": bare + f'[plugins]\nprograms = {{ numpy-magnitude = ["{args.python}", "{program}"] }}\n'
                         + stage.format("numpy-magnitude"),
    }
    loaded = args.work / "libloaded_magnitude.so"
    if build_loaded(args.work, target, loaded):
        recipes["loaded from .so"] = bare + f'[plugins]\nlibraries = ["{loaded}"]\n' + stage.format("loaded-magnitude")
    rows = {name: [] for name in recipes}
    warm(source)
    for _ in range(args.runs):
        for name, text in recipes.items():
            path = args.work / "door.toml"
            path.write_text(text)
            remove(output)
            os.sync()
            wall, cpu, peak = measure([str(target / "compress"), str(path), "--quiet"])
            own = float(log.read_text()) if name == "numpy program" else 0.0
            rows[name].append((wall - own, cpu - own, peak, own))
    remove(output)
    print("| magnitude, 1 GB f32 | wall | CPU | numpy's own | wall, ratio to built in (range) |\n|---|---|---|---|---|")
    for name, list_ in rows.items():
        wall, cpu, _, own = (statistics.median(column) for column in zip(*list_))
        ratios = sorted(a[0] / b[0] for a, b in zip(list_, rows["built in"]))
        print(f"| {name} | {wall:.2f} s | {cpu:.2f} s | {own:.2f} s "
              f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |")


def build_loaded(work, target, loaded):
    """The magnitude crate under another name, built outside the workspace by the same compiler and profile."""
    if loaded.exists():
        return True
    crate = work / "loaded-magnitude"
    remove(crate) if crate.exists() else None
    subprocess.run([str(target / "compress"), "plugin", "new", "loaded-magnitude"], cwd=work, check=True,
                   stdout=subprocess.DEVNULL)
    built = subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=crate,
                           env={k: v for k, v in os.environ.items() if k != "CARGO_TARGET_DIR"})
    library = crate / "target/release/libloaded_magnitude.so"
    if built.returncode == 0 and library.exists():
        loaded.write_bytes(library.read_bytes())
        return True
    return False


if __name__ == "__main__":
    main()
