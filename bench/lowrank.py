#!/usr/bin/env python3
"""Measures low-rank at rank 128 of a 4096 × 4096 matrix against numpy's full SVD, and how near it comes to the best error.

    lowrank.py [--size 4096] [--rank 128] [--runs 3] [--work DIR]

The matrix is what trained ones look like: normal noise over directions that fall off slowly, σ_i ~ i^-1/2. Runs take turns;
numpy runs in a process of its own with OpenBLAS as it comes (whatever kernel the environment names for it is unset), ours
as the example `svd_speed` of the crate, both with all cores. The method alone is timed, not reading and writing.
"""
import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

PEER = """
import sys, time, numpy as np
a = np.fromfile(sys.argv[1], dtype="<f4").reshape(int(sys.argv[2]), -1)
begin = time.perf_counter()
u, s, v = np.linalg.svd(a, full_matrices=False)
print(time.perf_counter() - begin)
s.astype("<f4").tofile(sys.argv[3])
"""


def matrix(size):
    rng = np.random.default_rng(1)
    low = size // 4
    u = rng.standard_normal((size, low), dtype=np.float32)
    v = rng.standard_normal((low, size), dtype=np.float32)
    scale = np.arange(1, low + 1, dtype=np.float32) ** -0.5
    return (u * scale) @ v / np.float32(low) ** 0.5 + rng.standard_normal((size, size), dtype=np.float32)


def run(command, env):
    """Seconds that it prints, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(out), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/compress-bench"))
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "compress-low-rank", "--example", "svd_speed"],
                   cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    args.work.mkdir(parents=True, exist_ok=True)
    file, spectrum, factors = (args.work / f"lowrank.{kind}" for kind in ("f32", "s", "uv"))
    a = matrix(args.size)
    a.astype("<f4").tofile(file)
    env = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    ours = [str(target / "examples/svd_speed"), str(file), str(args.size), str(args.size), str(args.rank), str(factors)]
    peer = [sys.executable, "-c", PEER, str(file), str(args.size), str(spectrum)]
    rows = [(run(ours, env), run(peer, env)) for _ in range(args.runs)]
    ratios = sorted(p[0] / o[0] for o, p in rows)
    median = lambda values: statistics.median(list(values))  # noqa: E731
    print(f"low-rank: {median(o[0] for o, _ in rows):.2f} s, {median(o[1] for o, _ in rows):.2f} CPU s")
    print(f"numpy:    {median(p[0] for _, p in rows):.2f} s, {median(p[1] for _, p in rows):.2f} CPU s")
    print(f"numpy / low-rank: {statistics.median(ratios):.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f})")
    uv = np.fromfile(factors, dtype="<f4")
    u = uv[:args.size * args.rank].reshape(args.size, args.rank)
    v = uv[args.size * args.rank:].reshape(args.rank, args.size)
    made = np.linalg.norm((a - u @ v).astype(np.float64))
    best = np.sqrt(np.sum(np.fromfile(spectrum, dtype="<f4")[args.rank:].astype(np.float64) ** 2))
    norm = np.linalg.norm(a.astype(np.float64))
    print(f"error / ‖W‖: {made / norm:.5f}, best possible at rank {args.rank}: {best / norm:.5f}, ratio {made / best:.5f}")


if __name__ == "__main__":
    main()
