#!/usr/bin/env python3
"""The engine beside PyTorch and ONNX Runtime on the translation model: training, evaluation, memory.

    python bench/engine.py FOLDER --torch PYTHON [--rounds 5] [--threads 1] [--steps 60]

FOLDER is laid out as ../shared/nmt; PYTHON has torch, safetensors and onnxruntime. Builds the engine's side first. The
sides take turns (A B A B …), each a process of its own that warms up and then measures; printed are the medians and the
median of the ratios of neighbours, by CPU seconds (user + system), which say the same on a busy machine, and by the clock.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--torch", required=True, help="a Python with torch, safetensors, onnxruntime")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="training steps that are measured")
    args = parser.parse_args()
    build = ["cargo", "build", "--release", "-p", "compress-engine", "--example", "speed"]
    subprocess.run(build, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    ours = [target / "release/examples/speed", args.folder]
    torch = [args.torch, ROOT / "bench/engine/torch_nmt.py", args.folder]
    environment = dict(os.environ, THREADS=str(args.threads), RAYON_NUM_THREADS=str(args.threads),
                       OMP_NUM_THREADS=str(args.threads))

    def run(words):
        done = subprocess.run([str(w) for w in words], env=environment, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.strip().splitlines()[-1])

    train, evaluate = ["train", args.steps], ["evaluate"]
    for title, a, b in (
        ("training, PyTorch beside it", ours + train, torch + train),
        ("evaluation, ONNX Runtime beside it", ours + evaluate, torch + ["onnxruntime"]),
        ("evaluation, PyTorch beside it", ours + evaluate, torch + evaluate),
    ):
        pairs = [(run(a), run(b)) for _ in range(args.rounds)]
        print(f"{title}: {args.rounds} rounds, {args.threads} thread(s)")
        for i, who in enumerate(("engine", "other")):
            side = [p[i] for p in pairs]
            speed = lambda key: statistics.median(s["tokens"] / s[key] for s in side)
            peak = statistics.median(s["peak_mb"] for s in side)
            print(f"  {who:7} {speed('cpu'):7.0f} tokens a CPU second, {speed('wall'):7.0f} a second, peak {peak:.0f} MB, "
                  f"value {side[-1]['value']}")
        for key in ("cpu", "wall"):
            ratios = sorted(x["tokens"] / x[key] / (y["tokens"] / y[key]) for x, y in pairs)
            middle = statistics.median(ratios)
            print(f"  engine / other by {key}: {middle:.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
