#!/usr/bin/env python3
"""Times obs (blocked form) on one layer against the same algorithm in PyTorch, in turn, on the same cores.

    obs.py [--rows 1024] [--cols 4096] [--share 0.6] [--runs 5] [--cores 0,1] [--work DIR]

Run it by a Python that has torch. PyTorch's side is the pruning loop of the authors' sparsegpt.py (fasterprune: three
factorisations by LAPACK, then column by column), float32, weights and Hessian in memory; ours is the method's whole
call through the door, which also computes magnitude's loss and its own to compare them. Both losses are printed:
tr(ΔW·G·ΔWᵀ) in float64.
"""
import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def layer(rows, cols, seed=1):
    """Weights, and the Gram matrix of inputs that are correlated as a layer's inputs are."""
    import torch
    torch.manual_seed(seed)
    few = torch.randn(cols // 8, cols) / (cols // 8) ** 0.5
    x = torch.relu(torch.randn(2 * cols, cols // 8) @ few + 0.5 * torch.randn(2 * cols, cols))
    gram = x.T @ x / len(x)
    return torch.randn(rows, cols) * 0.05, (gram + gram.T) / 2


def sparsegpt(weights, gram, share, damping=0.01, block=128):
    """Frantar & Alistarh 2023, algorithm 1, as the authors run it."""
    import torch
    w, h = weights.clone(), 2 * gram
    cols = w.shape[1]
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    index = torch.arange(cols)
    h[index, index] += damping * torch.mean(torch.diag(h))
    h = torch.linalg.cholesky(h)
    h = torch.cholesky_inverse(h)
    h_inv = torch.linalg.cholesky(h, upper=True)
    for a in range(0, cols, block):
        b = min(a + block, cols)
        w1 = w[:, a:b].clone()
        q1, err1 = torch.zeros_like(w1), torch.zeros_like(w1)
        h1 = h_inv[a:b, a:b]
        score = w1**2 / torch.diag(h1).reshape(1, -1) ** 2
        threshold = torch.sort(score.flatten())[0][int(score.numel() * share)]
        mask = score <= threshold
        for i in range(b - a):
            column, d = w1[:, i], h1[i, i]
            q = column.clone()
            q[mask[:, i]] = 0
            q1[:, i] = q
            err = (column - q) / d
            w1[:, i:] -= err.unsqueeze(1).matmul(h1[i, i:].unsqueeze(0))
            err1[:, i] = err
        w[:, a:b] = q1
        w[:, b:] -= err1.matmul(h_inv[a:b, b:])
    return w


def loss(weights, new, gram):
    delta = (weights - new).double()
    return float(((delta @ gram.double()) * delta).sum())


def cpu(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cores", default="0,1")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/compress-bench"))
    args = parser.parse_args()
    cores = {int(c) for c in args.cores.split(",")}
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    import torch
    torch.set_num_threads(len(cores))
    args.work.mkdir(parents=True, exist_ok=True)
    build = ["cargo", "build", "--release", "--quiet", "-p", "compress-obs", "--example", "layer"]
    subprocess.run(build, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/layer"
    weights, gram = layer(args.rows, args.cols)
    files = [args.work / f"obs-{name}.f32" for name in ("weights", "gram", "out")]
    weights.numpy().tofile(files[0])
    gram.numpy().tofile(files[1])
    pruned = round(args.share * args.rows * args.cols)
    command = [target, str(args.rows), str(args.cols), files[0], files[1], str(pruned), "blocked", "1", files[2]]
    print(f"{args.rows} × {args.cols}, {args.share:.0%} pruned, cores {args.cores}")
    ratios, ratios_cpu = [], []
    for run in range(args.runs):
        begin, begin_cpu = time.perf_counter(), cpu(resource.RUSAGE_SELF)
        theirs = sparsegpt(weights, gram.clone(), args.share)
        torch_s, torch_cpu = time.perf_counter() - begin, cpu(resource.RUSAGE_SELF) - begin_cpu
        begin_cpu = cpu(resource.RUSAGE_CHILDREN)
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        ours_s, ours_cpu = float(said.stdout), cpu(resource.RUSAGE_CHILDREN) - begin_cpu
        ratios.append(torch_s / ours_s)
        ratios_cpu.append(torch_cpu / ours_cpu)
        print(f"run {run}: PyTorch {torch_s:.2f} s ({torch_cpu:.2f} s CPU), obs {ours_s:.2f} s "
              f"({ours_cpu:.2f} s CPU with reading the files), PyTorch / obs {ratios[-1]:.2f}")
    ours = torch.from_file(str(files[2]), size=weights.numel()).reshape(weights.shape)
    print(f"PyTorch / obs: wall {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f}), "
          f"CPU {statistics.median(ratios_cpu):.2f}")
    smallest = weights.clone()
    smallest.view(-1)[weights.abs().flatten().argsort()[:pruned]] = 0
    print(f"tr(ΔW·G·ΔWᵀ): PyTorch {loss(weights, theirs, gram):.4f} ({(theirs == 0).sum()} zeros), obs "
          f"{loss(weights, ours, gram):.4f} ({(ours == 0).sum()} zeros), magnitude {loss(weights, smallest, gram):.4f}")


if __name__ == "__main__":
    main()
