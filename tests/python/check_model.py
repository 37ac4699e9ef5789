#!/usr/bin/env python3
"""Judges model files with other eyes than our own: the onnx, onnxruntime and safetensors packages.

Exit status 0: all is well; 1: the files fail the check, and the output says where; 2: the command line is wrong.
"""

import argparse
import hashlib
import json
import math
import struct
import sys

import ml_dtypes  # noqa: F401 (gives numpy the name bfloat16)
import numpy as np


class Failed(Exception):
    """The check says no; the text says where."""


# Tensors and files


def same_bits(a, b):
    """Equal to the last bit: −0.0 is not 0.0, and a NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def worst_difference(a, b):
    """The largest |a − b|; infinite where only one is NaN or the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    return float(np.nan_to_num(difference, nan=math.inf).max(initial=0))


def read_safetensors(path):
    from safetensors import numpy

    return numpy.load_file(path)


def header(path):
    """The header of a safetensors file, read by hand: the only place that still has the stored dtypes."""
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        return json.loads(f.read(size))


def mask_of(masks, shapes, name, shape):
    """One tensor's mask as booleans, true = kept: bits packed lowest first, or a BOOL tensor of the full shape."""
    mask = masks[name]
    if mask.dtype == np.bool_:
        kept = mask
    else:
        if shapes.get(f"shape:{name}") is not None and json.loads(shapes[f"shape:{name}"]) != list(shape):
            raise Failed(f"mask of {name}: shape {shapes[f'shape:{name}']}, the model has {list(shape)}")
        count = math.prod(shape)
        if mask.dtype != np.uint8 or mask.shape != ((count + 7) // 8,):
            raise Failed(f"mask of {name}: {mask.dtype} {list(mask.shape)}, expected uint8 [{(count + 7) // 8}]")
        kept = np.unpackbits(mask, bitorder="little")[:count].astype(bool).reshape(shape)
    if kept.shape != tuple(shape):
        raise Failed(f"mask of {name}: shape {list(kept.shape)}, the model has {list(shape)}")
    return kept


def model_tensors(path):
    """Name → array of a safetensors file, or of the initialisers of an ONNX file (external data included)."""
    if not str(path).endswith(".onnx"):
        return read_safetensors(path)
    import onnx

    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def masks_for(model, mask_path):
    """(name, weights, kept) of each mask; a mask for no tensor is a failure."""
    masks, shapes = read_safetensors(mask_path), header(mask_path).get("__metadata__", {})
    for name in masks:
        if name not in model:
            raise Failed(f"mask of {name}: the model has no such tensor")
        yield name, model[name], mask_of(masks, shapes, name, model[name].shape)


def session(path, threads=1, optimise=True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(path, inputs, optimise=True):
    """Output name → array of one run."""
    s = session(path, optimise=optimise)
    names = [o.name for o in s.get_outputs()]
    return dict(zip(names, s.run(names, {i.name: inputs[i.name] for i in s.get_inputs() if i.name in inputs}), strict=True))


def named(tensors, prefix):
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


# Subcommands


def onnx_check(args):
    """The ONNX checker with shape inference, by path; then ONNX Runtime loads the file."""
    import onnx

    onnx.checker.check_model(args.file, full_check=True)
    s = session(args.file)
    print("inputs", [(i.name, i.type, i.shape) for i in s.get_inputs()])
    print("outputs", [(o.name, o.type, o.shape) for o in s.get_outputs()])


def differences(a, b, at=""):
    """Where two protobuf messages differ, field by field; payloads of tensors by the tensor's name."""
    from google.protobuf.message import Message

    def label(message, index):
        return f"[{getattr(message, 'name', '') or getattr(message, 'key', '') or index}]"

    def short(value):
        if isinstance(value, bytes) and len(value) > 40:
            return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:12]}"
        return repr(value)

    if type(a) is not type(b):
        yield f"{at}: {type(a).__name__} | {type(b).__name__}"
        return
    if not isinstance(a, Message):
        if a != b:
            yield f"{at}: {short(a)} | {short(b)}"
        return
    for field in a.DESCRIPTOR.fields:
        path, x, y = f"{at}.{field.name}", getattr(a, field.name), getattr(b, field.name)
        if not field.is_repeated:
            sets = [not field.has_presence or m.HasField(field.name) for m in (a, b)]
            if sets[0] != sets[1]:
                yield f"{path}: only in {'the first' if sets[0] else 'the second'}"
            elif sets[0]:
                yield from differences(x, y, path)
        elif field.message_type is None:
            if len(x) != len(y) or list(x) != list(y):
                yield f"{path}: {list(x)[:8]} ({len(x)}) | {list(y)[:8]} ({len(y)})"
        else:
            if len(x) != len(y):
                yield f"{path}: {len(x)} | {len(y)} entries"
            for i, (p, q) in enumerate(zip(x, y, strict=False)):
                yield from differences(p, q, f"{path}{label(p, i)}")


def onnx_diff(args):
    """Compares two ONNX files as messages, and as bytes where the messages are alike."""
    import onnx

    a, b = (onnx.load(path, load_external_data=args.external) for path in (args.a, args.b))
    found = list(differences(a, b, "model"))
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        raise Failed(f"{len(found)} differences")
    if a.SerializeToString(deterministic=True) != b.SerializeToString(deterministic=True):
        raise Failed("the known fields are alike, fields that the onnx package does not know differ")


def st_dump(args):
    """Names, dtypes, shapes, zeros and hashes of a safetensors file as JSON."""
    from safetensors import safe_open

    stored = header(args.file)
    with safe_open(args.file, "numpy") as f:
        tensors = {}
        for name in sorted(f.keys()):  # noqa: SIM118 (it is no dict)
            t = f.get_tensor(name)
            tensors[name] = {
                "dtype": stored[name]["dtype"],
                "shape": list(t.shape),
                "zeros": int((t == 0).sum()),
                "sha256": hashlib.sha256(np.ascontiguousarray(t).tobytes()).hexdigest(),
            }
        dump = {"metadata": f.metadata() or {}, "order": [n for n in stored if n != "__metadata__"], "tensors": tensors}
    json.dump(dump, sys.stdout, indent=1)
    print()


def ort_run(args):
    """Runs a model on the `in:` tensors of --io and compares with its `out:` tensors."""
    io = read_safetensors(args.io)
    got = answers(args.file, named(io, "in:"), not args.no_optimise)
    worst = 0.0
    for name, expected in named(io, "out:").items():
        difference = worst_difference(got[name], expected)
        print(f"{name}: {list(got[name].shape)}, differs by {difference:.3e} at most")
        worst = max(worst, difference / max(1.0, float(np.abs(expected).max(initial=0))))
    if worst > args.tol:
        raise Failed(f"differs by {worst:.3e} of the largest value, {args.tol:.0e} is allowed")


def ort_compare(args):
    """Runs two models on the same inputs: equal bits, or no further apart than --tol."""
    inputs = named(read_safetensors(args.io), "in:")
    a, b = (answers(path, inputs, not args.no_optimise) for path in (args.a, args.b))
    if list(a) != list(b):
        raise Failed(f"outputs {list(a)} | {list(b)}")
    for name in a:
        difference, equal = worst_difference(a[name], b[name]), same_bits(a[name], b[name])
        print(f"{name}: {'equal bits' if equal else f'differs by {difference:.3e} at most'}")
        if not equal and (args.tol is None or difference > args.tol):
            raise Failed(f"{name}: not {'bit-equal' if args.tol is None else f'within {args.tol:.0e}'}")


def tensors_equal(args):
    """All tensors of two models (safetensors or ONNX) are equal to the last bit."""
    a, b = model_tensors(args.a), model_tensors(args.b)
    found = [f"{n}: only in one" for n in sorted(a.keys() ^ b.keys())]
    for n in sorted(a.keys() & b.keys()):
        if not same_bits(a[n], b[n]):
            found.append(f"{n}: {a[n].dtype} {list(a[n].shape)} | {b[n].dtype} {list(b[n].shape)}, {worst_difference(a[n], b[n]):.3e}")
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        raise Failed(f"{len(found)} of {len(a.keys() | b.keys())} tensors differ")


def mask_apply(args):
    """Sets to zero what a mask file prunes: a safetensors model in, a safetensors model out."""
    from safetensors import numpy

    model = model_tensors(args.model)
    for name, weights, kept in masks_for(model, args.mask):
        model[name] = np.where(kept, weights, np.zeros((), weights.dtype))
    numpy.save_file({n: np.ascontiguousarray(t) for n, t in model.items()}, args.out)


def mask_check(args):
    """A pruned model is its mask: zero where the mask says so, and elsewhere the bits of --original where given."""
    model = model_tensors(args.model)
    original = model_tensors(args.original) if args.original else None
    counts = {}
    for name, weights, kept in masks_for(model, args.mask):
        wrong = int((weights[~kept] != 0).sum())
        if wrong:
            raise Failed(f"{name}: {wrong} pruned weights are not zero")
        if original and not same_bits(weights[kept], original[name][kept]):
            raise Failed(f"{name}: a kept weight has changed")
        counts[name] = {"weights": weights.size, "pruned": int((~kept).sum())}
    masked = counts.keys()
    if original:
        for name in original:
            if name not in masked and not same_bits(model[name], original[name]):
                raise Failed(f"{name}: has no mask, and has changed")
    json.dump(counts, sys.stdout, indent=1)
    print()


def bleu(args):
    """sacrebleu's figure for two files of sentences."""
    import sacrebleu

    hypotheses, references = (open(path, encoding="utf-8").read().splitlines() for path in (args.hypotheses, args.references))
    print(sacrebleu.corpus_bleu(hypotheses, [references], tokenize=args.tokenize, force=True).score)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, *positional):
        p = commands.add_parser(function.__name__.replace("_", "-"), help=function.__doc__)
        for name in positional:
            p.add_argument(name)
        p.set_defaults(function=function)
        return p

    command(onnx_check, "file")
    command(onnx_diff, "a", "b").add_argument("--external", action="store_true", help="read external data too")
    command(st_dump, "file")
    p = command(ort_run, "file")
    p.add_argument("--io", required=True)
    p.add_argument("--tol", type=float, default=1e-5, help="of the largest value, or of 1 (%(default)s)")
    p.add_argument("--no-optimise", action="store_true")
    p = command(ort_compare, "a", "b")
    p.add_argument("--io", required=True)
    p.add_argument("--tol", type=float, help="largest absolute difference; without it the bits must be equal")
    p.add_argument("--no-optimise", action="store_true")
    command(tensors_equal, "a", "b")
    command(mask_apply, "model", "mask").add_argument("--out", required=True)
    command(mask_check, "model", "mask").add_argument("--original")
    command(bleu, "hypotheses", "references").add_argument("--tokenize", default="none")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        args.function(args)
    except Exception as error:  # the checkers raise types of their own
        kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
        print(f"check_model.py: {kind}{error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
