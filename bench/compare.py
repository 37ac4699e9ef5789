#!/usr/bin/env python3
"""What comparing costs beyond the work of the candidates themselves.

Ten candidates on the date model: `compress compare` with all its controls left out of the count is not fair to either
side, so both sides do the same work: every recipe of the study's cells, its controls too, is run alone with
`compress recipe.toml` and evaluated, one after the other; then the whole study runs anew. Processor seconds (user and
system) of both, children included. The bound is 1.1.

    bench/compare.py target/release/compress [--threads 2]
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATES = ROOT / "examples" / "dates"

STUDY = """
model  = "{dates}/model.onnx"
output = "study"
[data]
train      = "{dates}/train.safetensors"
validation = "{dates}/val.safetensors"
target     = "tgt_out"
output     = "logits"
ignore     = 0
{candidates}
"""

CANDIDATE = """
[[candidate]]
name = "{name}"
[[candidate.stage]]
method = "magnitude"
scheme = "{scheme}"
amount = "{amount}"
[[candidate.stage]]
retrain = {{ epochs = 1, rate = 1e-3 }}
"""


def cpu(command, folder):
    """Processor and wall seconds of a command with everything that it starts."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("compress", type=pathlib.Path)
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    binary = str(args.compress.resolve())
    points = [(s, a) for s in ["class-blind", "class-uniform"] for a in ["50%", "60%", "70%", "80%", "90%"]]
    candidates = "".join(CANDIDATE.format(name=f"{s} {a}", scheme=s, amount=a) for s, a in points)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "study.toml").write_text(STUDY.format(dates=DATES, candidates=candidates))
        together, wall = cpu([binary, "compare", "study.toml", "--quiet", "--threads", args.threads], folder)
        cells = json.loads((folder / "study" / "report.json").read_text())["cells"]
        alone = alone_wall = 0.0
        ran = 0
        for cell in cells:
            if cell["candidate"].startswith("zstd only"):
                continue
            recipe = (folder / "study" / "cells" / cell["key"] / "recipe.toml").read_text()
            (folder / "alone.toml").write_text(f'output = "alone.onnx"\n{recipe}')
            command = [binary, "alone.toml", "--force", "--quiet", "--report", "alone.json", "--threads", args.threads]
            measure = [binary, "evaluate", "alone.toml", "--model", "alone.onnx", "--quiet", "--threads", args.threads]
            for one in (command, measure):
                used, took = cpu(one, folder)
                alone, alone_wall = alone + used, alone_wall + took
            ran += 1
    ratio = together / alone
    print(f"{ran} cells ({len(points)} candidates and controls) on {os.cpu_count()} cores, {args.threads} threads")
    print(f"alone, one after the other: {alone:.1f} s processor, {alone_wall:.1f} s wall")
    print(f"compress compare:           {together:.1f} s processor, {wall:.1f} s wall")
    print(f"ratio of processor seconds: {ratio:.3f} (bound 1.1)")
    return 0 if ratio <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
