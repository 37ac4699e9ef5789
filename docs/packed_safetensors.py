"""Reads safetensors files with packed tensors, as docs/packed-safetensors.md has them: read(path)[name]."""

import json
import math

import ml_dtypes
import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}
TYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
PRIME = 2**31 - 1


def fields(stream, bits, count):
    """Numbers of some bits each, along the last axis."""
    stream = np.unpackbits(stream, axis=-1, bitorder="little")[..., : count * bits]
    return stream.reshape(*stream.shape[:-1], count, bits) @ (1 << np.arange(bits))


def array(p, role, coding, count):
    """The values of an array, int8 not yet scaled."""
    if not coding.startswith("codebook:"):
        return p[role]
    return p["codebook" if role == "values" else role + "_codebook"][fields(p[role], int(coding[9:]), count)]


def wide(p, role, coding, count):
    scale = p.get("scale" if role == "values" else role + "_scale", np.float32(1))
    return array(p, role, coding, count).astype(np.float32) * scale


def term(layout, coding, p, n, shape):
    if layout == "factored":
        u, v = wide(p, "u", coding, len(p["v"])), wide(p, "v", coding, n // len(p["u"]))
        return sum((u[:, k : k + 1] * v[k] for k in range(len(v))), np.float32(0))
    if layout == "hashed":
        *c, buckets = p["hash"].tolist()
        b, x, t = wide(p, "values", coding, buckets), np.arange(n) % PRIME, c[0]
        for k in c[1:]:
            t = (t * x + k) % PRIME
        return np.concatenate([b, -b])[t % (2 * buckets)]
    if layout == "mask":
        places = np.flatnonzero(np.unpackbits(p["mask"], count=n, bitorder="little"))
    elif layout == "rice":
        ones, bits = np.flatnonzero(np.unpackbits(p["unary"], bitorder="little")), p["rest"].shape[1]
        places = ((ones + 1) << bits) - np.cumsum(fields(p["rest"].ravel(), bits, len(ones))) - 1
    else:
        places = np.cumsum(p["deltas"], dtype=np.int64) - 1 if layout == "deltas" else np.arange(n)
    values = array(p, "values", coding, len(places))
    out = np.zeros(n, values.dtype)
    out[places] = values
    return out.reshape(shape) * p["scale"] if coding == "int8" else out


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    about, found = header.pop("__metadata__", {}), {}
    for name, e in header.items():
        found[name] = np.frombuffer(data[slice(*e["data_offsets"])], TYPES[e["dtype"]]).reshape(e["shape"])
    for key in [k for k in about if k.startswith("compress.packed:")]:
        name, packed, total = key[16:], json.loads(about[key]), None
        for i, t in enumerate(packed["terms"]):
            p = {r: found.pop(f"{name}.packed.{i}.{r}")[: math.prod(s)].reshape(s) for r, s in t["pieces"].items()}
            value = term(t["layout"], t["values"], p, math.prod(packed["shape"]), packed["shape"])
            value = value.reshape(packed["shape"])
            total = value if total is None else total.astype(np.float32) + value.astype(np.float32)
        found[name] = total.astype(TYPES[packed["dtype"]], copy=False)
    return found
