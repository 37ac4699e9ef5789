#!/usr/bin/env python3
"""Makes the small seeds of the fuzz targets (numpy, onnx and safetensors are needed):

    python3 fuzz/make_seeds.py [COMPRESS]     COMPRESS is the binary; without it the packed models are left as they are
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

SEEDS = pathlib.Path(__file__).parent / "seeds"
rng = np.random.default_rng(7)


def write_safetensors(name, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = struct.pack("<Q", len(text) if length is None else length) + text + data
    (SEEDS / "safetensors" / name).write_bytes(body)


def safetensors():
    save_file({"encoder.weight_ih_l0": rng.normal(size=(16, 3)).astype(np.float32),
               "encoder.weight_hh_l0": rng.normal(size=(16, 4)).astype(np.float32),
               "encoder.bias_ih_l0": np.zeros(16, np.float32), "ids": np.arange(4)},
              SEEDS / "safetensors" / "lstm.safetensors", {"format": "pt"})
    save_file({"half": rng.normal(size=(8, 8)).astype(np.float16), "flag": np.array([True, False]),
               "empty": np.zeros((0, 4), np.float32), "scalar": np.array(3.0)},
              SEEDS / "safetensors" / "dtypes.safetensors")
    save_file({"fc.weight_orig": rng.normal(size=(4, 4)).astype(np.float32),
               "fc.weight_mask": (rng.random((4, 4)) > 0.5).astype(np.float32)},
              SEEDS / "safetensors" / "torch-prune.safetensors")
    one = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    write_safetensors("truncated.safetensors", one, b"\0" * 7)
    write_safetensors("huge-header.safetensors", one, b"", length=1 << 62)
    write_safetensors("overflow.safetensors", {"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 16]}}, b"\0" * 16)
    write_safetensors("overlap.safetensors", {**one, "b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}}, b"\0" * 24)
    write_safetensors("twice.safetensors", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"\0" * 8)
    write_safetensors("deep.safetensors", b'{"__metadata__":' + b"[" * 2000 + b"]" * 2000 + b"}", b"")


def masks():
    bits = np.packbits(rng.random(48) > 0.5, bitorder="little")
    save_file({"w": bits}, SEEDS / "mask" / "bits.safetensors", {"shape:w": "[6,8]"})
    save_file({"w": rng.random((6, 8)) > 0.5}, SEEDS / "mask" / "bool.safetensors")
    save_file({"w": bits}, SEEDS / "mask" / "wrong-shape.safetensors", {"shape:w": "[99999999999,99999999999]"})


def save(name, graph, **more):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)
    (SEEDS / "onnx" / name).write_bytes(model.SerializeToString())


def tensor(name, array, raw=True):
    if raw:
        return numpy_helper.from_array(array, name)
    return helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.ravel().tolist())


def onnx_models():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    w = rng.normal(size=(4, 3)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    save("raw.onnx", helper.make_graph([node], "g", [x], [y], [tensor("w", w)]))
    save("typed.onnx", helper.make_graph([node], "g", [x], [y], [tensor("w", w, raw=False)]))
    constant = helper.make_node("Constant", [], ["w"], value=tensor("", w))
    save("constant.onnx", helper.make_graph([constant, node], "g", [x], [y]))
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "v"], ["z"])], "b", [],
                               [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3])], [tensor("v", w)])
    condition = tensor("c", np.array(True))
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    save("if.onnx", helper.make_graph([chosen], "g", [x], [y], [condition]))
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(2, np.float32), "w"),
                                       numpy_helper.from_array(np.array([1, 5], np.int64), "i"), [4, 3])
    save("sparse.onnx", helper.make_graph([node], "g", [x], [y], sparse_initializer=[sparse]))
    outside = tensor("w", w)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../../etc/passwd"), ("offset", "0"), ("length", "48")):
        outside.external_data.add(key=key, value=value)
    save("outside.onnx", helper.make_graph([node], "g", [x], [y], [outside]))
    lstm = helper.make_node("LSTM", ["s", "W", "R", "B"], ["o"], hidden_size=2)
    save("lstm.onnx", helper.make_graph(
        [lstm], "g", [helper.make_tensor_value_info("s", TensorProto.FLOAT, ["t", "n", 3])],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        [tensor("W", rng.normal(size=(1, 8, 3)).astype(np.float32)),
         tensor("R", rng.normal(size=(1, 8, 2)).astype(np.float32)), tensor("B", np.zeros((1, 16), np.float32))]))
    whole = (SEEDS / "onnx" / "raw.onnx").read_bytes()
    (SEEDS / "onnx" / "truncated.onnx").write_bytes(whole[:-9])
    (SEEDS / "onnx" / "long-length.onnx").write_bytes(whole.replace(b"\x0a\x03x", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fx", 1))
    nested = b""
    for _ in range(300):
        body = b"\x3a" + varint(len(nested)) + nested if nested else b""
        nested = b"\x0a" + varint(len(body)) + body
    (SEEDS / "onnx" / "nested.onnx").write_bytes(b"\x3a" + varint(len(nested)) + nested)


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def packed():
    """Bytes for the target `packed`: type, shape, and for each term layout, coding, count, rows, no change, filling."""
    def seed(name, shape, terms, body=b""):
        head = bytes([rng.integers(0, 4), len(shape), *shape, len(terms)])
        (SEEDS / "packed" / name).write_bytes(head + b"".join(bytes([*t, 99, 1]) + body for t in terms))

    for layout, name in enumerate(("dense", "mask", "deltas", "factored", "hashed")):
        for coding, values in enumerate(("plain", "plain", "f16", "bf16", "int8", "codebook-1")):
            body = {1: bytes(4 * 4) + b"\x0f\0\0", 2: bytes(4 * 4) + b"\1\2\3\4"}.get(layout, b"\1\2\3\4" * 30)
            seed(f"{name}-{values}", (4, 6), [(layout, coding, 4, 4)], body)
    seed("sum", (4, 6), [(3, 1, 2, 4), (1, 1, 4, 4)], bytes(rng.integers(0, 256, 200).tolist()))
    # Rice codes of four values whose pieces fit: values and their companion, then a unary part and rests of 4 bits.
    for coding, name, size in ((1, "plain", 16), (4, "int8", 4 + 16), (5, "codebook-1", 1 + 8)):
        head = bytes([0, 2, 4, 6, 1, 5, coding, 4, 4, 99, 1])
        (SEEDS / "packed" / f"rice-{name}").write_bytes(head + bytes(range(size)) + b"\x0f" + b"\xff" * 4)


def packed_models(binary):
    """Small models, packed by the program itself: layouts and codings that a recipe can ask for, in both formats."""
    w, v = (rng.normal(size=s).astype(np.float32) for s in ((24, 16), (16, 8)))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])], [tensor("w", w), tensor("v", v)])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "in.onnx")
        save_file({"w": w, "v": v}, folder / "in.safetensors")
        for kind in ("onnx", "safetensors"):
            for amount, values in (("80%", "f32"), ("97%", "f32"), ("80%", "int8"), ("80%", "codebook:3"), ("10%", "bf16")):
                output = f"packed-{amount[:-1]}-{values.replace(':', '')}.{kind}"
                (folder / "p.toml").write_text(
                    f'model = "in.{kind}"\noutput = "{output}"\n[[stage]]\nmethod = "magnitude"\n'
                    f'scheme = "class-blind"\namount = "{amount}"\n[[stage]]\nencode = "sparse"\nvalues = "{values}"\n')
                subprocess.run([binary, folder / "p.toml", "--force", "--quiet"], check=True)
                (SEEDS / kind / output).write_bytes((folder / output).read_bytes())
        # Large enough that a Rice code pays for its operators.
        wide = np.random.default_rng(11).normal(size=(256, 256)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])], [tensor("w", wide)])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "in.onnx")
        save_file({"w": wide}, folder / "in.safetensors")
        for kind in ("onnx", "safetensors"):
            (folder / "p.toml").write_text(
                f'model = "in.{kind}"\noutput = "rice.{kind}"\n[[stage]]\nmethod = "magnitude"\namount = "92%"\n'
                '[[stage]]\nencode = "auto"\nvalues = "codebook:2"\n')
            subprocess.run([binary, folder / "p.toml", "--force", "--quiet"], check=True)
            (SEEDS / kind / f"packed-rice.{kind}").write_bytes((folder / f"rice.{kind}").read_bytes())


def recipes():
    (SEEDS / "recipe" / "everything.toml").write_text('''model = ["encoder.onnx", "decoder.onnx"]
output = "out"
mask = "m.safetensors"
seed = 3
[classes]
"attention" = ["attn*"]
[data]
train = "t.safetensors"
validation = "v.safetensors"
target = "tgt_out"
output = "logits"
ignore = 0
[data.bleu]
prefix = "tgt_in"
begin = 1
end = 2
vocabulary = "v.txt"
references = "ref.txt"
[plugins]
libraries = ["a.so"]
programs = { m = ["python3", "m.py"] }
[[stage]]
method = "magnitude"
scheme = "class-uniform"
amount = { "softmax" = "60%", "*" = 0.85 }
schedule = { steps = 8, shape = "cubic", recover = 2 }
retrain = { epochs = 1, rate = 1e-3 }
[[stage]]
measure = ["gram"]
[[stage]]
reinitialise = { uniform = 0.1 }
[[stage]]
evaluate = ["loss", "bleu"]
[[stage]]
encode = "sparse"
values = "codebook:4"
''')
    (SEEDS / "recipe" / "wrong.toml").write_text('model = 3\namont = "80%"\n[[stage]]\nmethod = "x"\namount = "-3%"\npattern = "9:4"\n')


for name in ("onnx", "safetensors", "recipe", "mask", "packed"):
    (SEEDS / name).mkdir(parents=True, exist_ok=True)
safetensors()
masks()
onnx_models()
recipes()
packed()
if len(sys.argv) > 1:
    packed_models(str(pathlib.Path(sys.argv[1]).resolve()))
