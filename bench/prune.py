#!/usr/bin/env python3
"""Measures pruning against a durable copy of the same files, and against PyTorch. Prints ratios of medians.

    prune.py [--work DIR] [--runs 5] [--torch PYTHON] [--quick]

Both sides run in turn (A B A B …) with the input in the page cache. A durable copy is `cp` followed by `sync` of the
copies; `compress` syncs what it writes and reads it again. PYTHON is an interpreter that has torch and safetensors; the
comparison with PyTorch is left out without it. Needs about 20 GB in DIR (10 with --quick).
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TORCH = """
import sys, torch
from torch.nn.utils import prune
from safetensors.torch import load_file, save_file
weights = load_file(sys.argv[1])
modules = []
for name, weight in weights.items():
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    modules.append((module, "weight"))
prune.global_unstructured(modules, pruning_method=prune.L1Unstructured, amount=0.8)
for module, _ in modules:
    prune.remove(module, "weight")
save_file({name: m.weight.detach().contiguous() for name, (m, _) in zip(weights, modules)}, sys.argv[2])
"""


def measure(command):
    """Wall, user + system CPU seconds and peak resident MB of a command."""
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)])
    _, status, used = os.wait4(pid, 0)
    if status:
        sys.exit(f"{command} ended with status {status}")
    return time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def warm(path):
    files = [f for f in path.iterdir()] if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as f:
            while f.read(1 << 24):
                pass


def medians(rows):
    return [statistics.median(column) for column in zip(*rows)]


def compare(label, ours, theirs, outputs, runs):
    """Both commands in turn; `outputs` are removed before each."""
    rows = {"ours": [], "theirs": []}
    for _ in range(runs):
        for name, command in (("theirs", theirs), ("ours", ours)):
            for output in outputs:
                remove(output)
            os.sync()
            rows[name].append(measure(command))
    for output in outputs:
        remove(output)
    a, b = medians(rows["ours"]), medians(rows["theirs"])
    ratios = sorted(x[0] / y[0] for x, y in zip(rows["ours"], rows["theirs"]))
    print(f"| {label} | {a[0]:.2f} s | {a[1]:.2f} s | {a[2]:.0f} MB | {b[0]:.2f} s | {b[1]:.2f} s "
          f"| **{statistics.median(ratios):.2f}** ({ratios[0]:.2f}–{ratios[-1]:.2f}) |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/compress-bench"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--torch")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "compress"
    args.work.mkdir(parents=True, exist_ok=True)

    def model(name, *options):
        path = args.work / name
        if not path.exists():
            subprocess.run([sys.executable, ROOT / "bench/make_model.py", path, *options], check=True)
        return path

    def recipe(name, source):
        output = args.work / f"out-{source.name}"
        path = args.work / f"{name}.toml"
        path.write_text(f'model = "{source}"\noutput = "{output}"\n[[stage]]\nmethod = "magnitude"\n'
                        'scheme = "class-blind"\namount = "80%"\n')
        return path, output

    def against_copy(label, source, report=False):
        path, output = recipe(source.name, source)
        copy = args.work / "copy"
        extra = ["--report", str(args.work / "report.json")] if report else []
        warm(source)
        cp = ["sh", "-c", f'cp -r "{source}" "{copy}" && find "{copy}" -type f -exec sync {{}} +']
        compare(label, [str(binary), str(path), "--force", "--quiet", *extra], cp, [output, copy], args.runs)

    scale = 0.25 if args.quick else 1
    print("| class-blind 80 % | compress: wall | CPU | peak | peer: wall | CPU | ratio of wall times (range) |")
    print("|---|---|---|---|---|---|---|")
    bf16 = model(f"bf16-{scale}", "--gb", str(4 * scale), "--dtype", "bf16", "--shards", "4")
    against_copy(f"{4 * scale:g} GB bf16, 4 shards, to `cp` + `sync`", bf16)
    against_copy("the same with `--report`", bf16, report=True)
    shutil.rmtree(bf16)
    f32 = model(f"f32-{2.0 * scale}.safetensors", "--gb", str(2 * scale), "--dtype", "f32")
    against_copy(f"{2 * scale:g} GB f32, to `cp` + `sync`", f32)
    single = model(f"single-{scale}.safetensors", "--gb", str(2 * scale), "--dtype", "f32", "--single")
    against_copy(f"{2 * scale:g} GB f32 in one tensor, to `cp` + `sync`", single)
    single.unlink()
    for gb in [0.25, 0.5, 1, 4]:
        source = model(f"f32-{float(gb * scale)}.safetensors", "--gb", str(gb * scale), "--dtype", "f32")
        against_copy(f"{gb * scale:g} GB f32, to `cp` + `sync`", source)
        source.unlink()
    if args.torch:
        source = model("f32-torch.safetensors", "--gb", str(0.5), "--dtype", "f32")
        path, output = recipe("torch", source)
        theirs = [args.torch, "-c", TORCH, str(source), str(args.work / "torch.safetensors")]
        compare("0.5 GB f32, to PyTorch's `global_unstructured`", [str(binary), str(path), "--force", "--quiet"],
                theirs, [output, args.work / "torch.safetensors"], max(1, args.runs // 2))


if __name__ == "__main__":
    main()
