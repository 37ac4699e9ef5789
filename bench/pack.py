#!/usr/bin/env python3
"""Measures packed files: how fast they are made and unpacked, how small they are, and what they cost to load.

    pack.py speed [--gb 1] [--work DIR] [--runs 3]     prune by 80 % into packed form, decompress; cp + sync, zstd -3
    pack.py load MODEL.onnx [--work DIR] [--runs 5]    file; CPU seconds to load, memory, CPU time of a run in ONNX Runtime

Both sides of `speed` run in turn with the input in the page cache; a durable copy is `cp` followed by `sync` of the copy,
and `compress` syncs what it writes and reads it again. zstd is run with one thread and with as many as there are cores,
its output synced. Needs numpy, for `load` onnxruntime as well; about 6 × GB in DIR.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

from prune import ROOT, measure, medians, remove, warm

LOAD = """
import json, resource, sys, time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
loaded = time.process_time() - started
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
feed = {}
for i in session.get_inputs():
    shape = [d if isinstance(d, int) else 16 for d in i.shape]
    kind = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(i.type, np.float32)
    feed[i.name] = np.ones(shape, kind)
session.run(None, feed)
times = []
for _ in range(10):
    started = time.process_time()
    out = session.run(None, feed)
    times.append(time.process_time() - started)
import hashlib
digest = hashlib.sha256(b"".join(np.ascontiguousarray(o).tobytes() for o in out)).hexdigest()[:12]
print(json.dumps([loaded, memory / 1024, sorted(times)[len(times) // 2], digest]))
"""


def recipe(path, source, output, amount="80%", encode="sparse", values="f32"):
    stages = '[[stage]]\nmethod = "magnitude"\nscheme = "class-blind"\n' + f'amount = "{amount}"\n'
    if encode:
        stages += f'[[stage]]\nencode = "{encode}"\nvalues = "{values}"\n'
    path.write_text(f'model = "{source}"\noutput = "{output}"\n{stages}')
    return path


def size(path):
    return sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else path.stat().st_size


def speed(args, binary):
    source = args.work / f"f32-{args.gb}.safetensors"
    if not source.exists():
        subprocess.run([sys.executable, ROOT / "bench/make_model.py", source, "--gb", str(args.gb)], check=True)
    packed, plain, copy, small = (args.work / n for n in ("packed.safetensors", "plain.safetensors", "copy", "small.zst"))
    run = [str(binary), str(recipe(args.work / "pack.toml", source, packed)), "--force", "--quiet"]
    prune = [str(binary), str(recipe(args.work / "prune.toml", source, plain, encode="")), "--force", "--quiet"]
    unpack = [str(binary), "decompress", str(packed), "-o", str(plain), "--force", "--quiet"]
    cp = ["sh", "-c", f'cp "{source}" "{copy}" && sync "{copy}"']
    zstd = ["sh", "-c", f'zstd -q -3 -f "{plain}" -o "{small}" && sync "{small}"']
    unzstd = ["sh", "-c", f'zstd -q -d -f "{small}" -o "{copy}" && sync "{copy}"']
    steps = [
        ("a durable copy (`cp`, `sync`)", cp, [copy], copy),
        ("`compress`: prune 80 %, dense", prune, [plain], plain),
        ("`compress`: prune 80 %, packed", run, [packed], packed),
        ("`zstd -3` of the pruned file", zstd, [small], small),
        ("`zstd -d` of it", unzstd, [copy], copy),
        ("`compress decompress` of the packed file", unpack, [plain], plain),
    ]
    rows = {label: [] for label, *_ in steps}
    sizes = {}
    warm(source)
    for _ in range(args.runs):
        for label, command, outputs, made in steps:
            for output in outputs:
                remove(output)
            os.sync()
            rows[label].append(measure(command))
            sizes[label] = size(made)
    print(f"| {args.gb:g} GB f32 | wall | CPU | peak | bytes written | GB/s of weights | to the copy |")
    print("|---|---|---|---|---|---|---|")
    copied = medians(rows[steps[0][0]])[0]
    for label, *_ in steps:
        wall, cpu, peak = medians(rows[label])
        print(f"| {label} | {wall:.2f} s | {cpu:.2f} s | {peak:.0f} MB | {sizes[label]} | {args.gb / wall:.2f} "
              f"| {wall / copied:.2f} |", flush=True)
    for output in (packed, plain, copy, small):
        remove(output)


def load(args, binary):
    source = args.model.resolve()
    print("| pruned | values | file | of dense | load | memory at load | run | output |")
    print("|---|---|---|---|---|---|---|---|")
    dense = {}
    for amount in ("0%", "80%", "90%", "95%"):
        variants = [("", "f32")] if amount == "0%" else [
            ("", "f32"), ("sparse", "f32"), ("sparse", "int8"), ("sparse", "codebook:4")]
        for encode, values in variants:
            output = args.work / "load.onnx"
            toml = recipe(args.work / "load.toml", source, output, amount, encode, values)
            subprocess.run([binary, toml, "--force", "--quiet"], check=True, stderr=subprocess.DEVNULL)
            found = []
            for _ in range(args.runs):
                said = subprocess.run([sys.executable, "-c", LOAD, output], check=True, capture_output=True, text=True)
                found.append(json.loads(said.stdout))
            loaded, memory, ran = (sorted(f[i] for f in found)[len(found) // 2] for i in range(3))
            digest = found[0][3]
            if not encode:
                dense[amount] = digest
            same = "" if values != "f32" or not encode else (
                "equal" if digest == dense[amount] else "**differs**")
            print(f"| {amount} | {values + ', packed' if encode else 'dense'} | {output.stat().st_size} "
                  f"| {100 * output.stat().st_size / source.stat().st_size:.2f} % | {loaded:.3f} s | {memory:.0f} MB "
                  f"| {1000 * ran:.1f} ms | {same} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("speed", "load"):
        command = commands.add_parser(name)
        command.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/compress-bench"))
        command.add_argument("--runs", type=int, default=3)
        command.add_argument("--binary", type=pathlib.Path, help="not built anew, but this one")
        if name == "speed":
            command.add_argument("--gb", type=float, default=1)
        else:
            command.add_argument("model", type=pathlib.Path)
    args = parser.parse_args()
    binary = args.binary
    if binary is None:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        binary = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "compress"
    args.work.mkdir(parents=True, exist_ok=True)
    args.work = args.work.resolve()
    {"speed": speed, "load": load}[args.command](args, binary)


if __name__ == "__main__":
    main()
