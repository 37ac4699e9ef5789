#!/usr/bin/env python3
"""Measures how factored weights run in ONNX Runtime: a layer of each kind, dense and through `compress` with low-rank.

    factors.py [--compress FILE] [--rank 128] [--runs 15] [--work DIR]

A model has one weight, of 1024 × 1024 (Conv: 256 channels, 3 × 3; LSTM: hidden size 256). What is said of each is what the
report says of it, and the measured load and run time against dense: CPU seconds of one thread, median of the ratios of runs
in turn.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent
RNG = np.random.default_rng(1)


def weight(name, *shape):
    return numpy_helper.from_array(RNG.standard_normal(shape, dtype=np.float32) / np.float32(32), name)


def layers():
    """Name, node, weights, input shape, output rank."""
    node = helper.make_node
    yield "MatMul", node("MatMul", ["x", "W"], ["y"]), [weight("W", 1024, 1024)], [64, 1024], 2
    yield "Gemm", node("Gemm", ["x", "W", "c"], ["y"], transB=1), [weight("W", 1024, 1024), weight("c", 1024)], [64, 1024], 2
    yield "Conv", node("Conv", ["x", "W"], ["y"], pads=[1, 1, 1, 1]), [weight("W", 256, 256, 3, 3)], [1, 256, 28, 28], 4
    yield "LSTM, W", node("LSTM", ["x", "W", "R"], ["y"], hidden_size=256), \
        [weight("W", 1, 1024, 1024), weight("R", 1, 1024, 256)], [16, 8, 1024], 4
    yield "LSTM, R", node("LSTM", ["x", "V", "W"], ["y"], hidden_size=512), \
        [weight("V", 1, 2048, 64), weight("W", 1, 2048, 512)], [16, 8, 64], 4
    yield "Gather", node("Gather", ["W", "x"], ["y"]), [weight("W", 1024, 1024)], [16, 8], 3


def model(path, node, weights, shape, rank):
    kind = TensorProto.INT64 if node.op_type == "Gather" else TensorProto.FLOAT
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    begin = time.thread_time()
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return made, time.thread_time() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compress", type=pathlib.Path)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/compress-bench/factors"))
    args = parser.parse_args()
    if args.compress is None:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "compress-cli"], cwd=ROOT, check=True)
        args.compress = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/compress"
    args.work.mkdir(parents=True, exist_ok=True)
    print("| weight of | report | file | load | run | largest difference |\n|---|---|---|---|---|---|")
    for name, node, weights, shape, rank in layers():
        dense, small, recipe, report = (args.work / f for f in ("dense.onnx", "small.onnx", "p.toml", "report.json"))
        model(dense, node, weights, shape, rank)
        recipe.write_text(f'model = "{dense}"\noutput = "{small}"\n[classes]\n"it" = ["W"]\n[[stage]]\n'
                          f'method = "low-rank"\nclasses = ["it"]\noptions = {{ rank = {args.rank} }}\n')
        subprocess.run([args.compress, recipe, "--force", "--quiet", "--report", report], check=True,
                       stdout=subprocess.DEVNULL)
        said = json.loads(report.read_text())["output"]["factored"][0]["runs"]
        # What the small file means, dense again: both compute the same.
        again = args.work / "again.onnx"
        subprocess.run([args.compress, "decompress", small, "-o", again, "--force", "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)
        x = RNG.integers(0, 1024, shape) if node.op_type == "Gather" else RNG.standard_normal(shape, dtype=np.float32)
        runs = []
        for _ in range(args.runs):
            turn = []
            for path in (again, small):
                made, load = session(path)
                made.run(None, {"x": x})
                begin = time.thread_time()
                for _ in range(5):
                    y = made.run(None, {"x": x})[0]
                turn.append((load, (time.thread_time() - begin) / 5, y))
            runs.append(turn)
        ratio = lambda i: statistics.median(s[i] / d[i] for d, s in runs)  # noqa: E731
        off = np.abs(runs[0][0][2] - runs[0][1][2]).max() / np.abs(runs[0][0][2]).max()
        print(f"| {name} | {said} | {small.stat().st_size / dense.stat().st_size:.2f} of dense | {ratio(0):.2f} × dense "
              f"| {ratio(1):.2f} × dense | {off:.1e} of the largest |")


if __name__ == "__main__":
    main()
