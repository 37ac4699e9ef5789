#!/usr/bin/env python3
"""Makes a large seeded safetensors checkpoint: normals with a scale of its own for each tensor.

    make_model.py OUT --gb 4 --dtype bf16 --shards 4      a sharded folder
    make_model.py OUT --gb 2 --dtype f32                  one file
    make_model.py OUT --gb 2 --dtype f32 --single         one tensor

Needs numpy only: safetensors is a JSON header and raw data. The bytes depend on the arguments and the seed alone.
"""
import argparse
import json
import pathlib
import struct

import numpy as np

WIDTH = {"f32": 4, "bf16": 2, "f16": 2}
NAME = {"f32": "F32", "bf16": "BF16", "f16": "F16"}


def shapes(weights, single):
    """Layers like a transformer's, until the weights are used up."""
    if single:
        return [("weight", (weights // 4096, 4096))]
    found, left, layer = [], weights, 0
    while left > 0:
        for name, shape in [
            ("self_attn.q_proj", (2048, 2048)), ("self_attn.k_proj", (2048, 2048)),
            ("self_attn.v_proj", (2048, 2048)), ("self_attn.o_proj", (2048, 2048)),
            ("mlp.gate_proj", (5632, 2048)), ("mlp.up_proj", (5632, 2048)), ("mlp.down_proj", (2048, 5632)),
        ]:
            rows = min(shape[0], left // shape[1])
            if rows == 0:
                return found
            found.append((f"model.layers.{layer}.{name}.weight", (rows, shape[1])))
            left -= rows * shape[1]
        layer += 1
    return found


def to_bytes(values, dtype):
    if dtype == "bf16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return values.astype(np.float16 if dtype == "f16" else np.float32).tobytes()


def write(path, tensors, dtype, rng):
    header, at = {}, 0
    for name, shape in tensors:
        size = int(np.prod(shape)) * WIDTH[dtype]
        header[name] = {"dtype": NAME[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # A pool of normals, drawn once and read from random places: fast, and no two tensors are alike.
    pool = rng.standard_normal(1 << 24, dtype=np.float32)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            scale, left = np.float32(0.02 * np.exp(rng.normal(0, 0.25))), int(np.prod(shape))
            while left:
                start = int(rng.integers(0, pool.size // 2))
                run = min(left, pool.size - start)
                out.write(to_bytes(pool[start:start + run] * scale, dtype))
                left -= run
    return at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--gb", type=float, required=True)
    parser.add_argument("--dtype", choices=WIDTH, default="f32")
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    tensors = shapes(int(args.gb * 1e9) // WIDTH[args.dtype], args.single)
    if not args.shards:
        write(args.out, tensors, args.dtype, rng)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    weight_map, total = {}, 0
    cuts = np.array_split(np.arange(len(tensors)), args.shards)
    for index, cut in enumerate(cuts):
        name = f"model-{index + 1:05}-of-{args.shards:05}.safetensors"
        mine = [tensors[i] for i in cut]
        total += write(args.out / name, mine, args.dtype, rng)
        weight_map.update({tensor: name for tensor, _ in mine})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    main()
