#!/usr/bin/env python3
"""Compares packed models with their dense twins: the ONNX checker, ONNX Runtime, onnx.reference.

The argument is a file with a pair a line: packed file, dense file, tolerance (0: equal to the last bit), a label.
"""

import re
import sys

import ml_dtypes  # noqa: F401
import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator


def feeds(path, branch):
    rng = np.random.default_rng(1)
    out = {}
    for i in onnx.load(path, load_external_data=False).graph.input:
        shape = [d.dim_value or 3 for d in i.type.tensor_type.shape.dim]
        kind = i.type.tensor_type.elem_type
        if kind == onnx.TensorProto.INT64:
            out[i.name] = rng.integers(0, 11, shape)
        elif kind == onnx.TensorProto.BOOL:
            out[i.name] = np.array(branch)
        else:
            out[i.name] = rng.standard_normal(shape).astype(np.float32)
    return out


def run(path, x, folded=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if folded:
        options.optimized_model_filepath = path + ".folded"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {k: v for k, v in x.items() if k in {i.name for i in session.get_inputs()}})


def near(a, b, tolerance):
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if tolerance == 0:
        # NaN is compared as NaN: a Cast may choose another one.
        nan = np.isnan(a) & np.isnan(b)
        zero = np.zeros_like(a)
        return np.where(nan, zero, a).tobytes() == np.where(nan, zero, b).tobytes()
    return np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


failures = 0
for line in open(sys.argv[1]):
    packed, dense, tolerance, label = line.strip().split(" ", 3)
    try:
        onnx.checker.check_model(packed, full_check=True)
        x = feeds(packed, True)
        tolerance = float(tolerance)
        branches = [True, False] if any(v.dtype == bool for v in x.values()) else [True]
        for branch in branches:
            x = feeds(packed, branch)
            want, got = run(dense, x), run(packed, x, folded=branch)
            if not all(map(lambda a, b: near(a, b, tolerance), want, got)):
                raise ValueError(f"ONNX Runtime differs: {want[0].ravel()[:6]} {got[0].ravel()[:6]}")
            want = ReferenceEvaluator(dense).run(None, x)
            got = ReferenceEvaluator(packed).run(None, x)
            if not all(map(lambda a, b: near(a, b, tolerance), want, got)):
                raise ValueError(f"onnx.reference differs: {want[0].ravel()[:6]} {got[0].ravel()[:6]}")
        # All was folded at load, but for the products with factors, whose value between is called m0, m1, …
        folded = onnx.load(packed + ".folded", load_external_data=False).graph
        names = [(n.op_type, [name for name in [*n.input, *n.output] if "__compress" in name]) for n in folded.node]
        left = [op for op, ours in names if ours and not any(re.search(r"__compress\d*/m\d+$", name) for name in ours)]
        if left:
            raise ValueError(f"not folded: {left}")
    except Exception as e:  # noqa: BLE001
        failures += 1
        print(f"{packed} {label}: {type(e).__name__}: {str(e)[:400]}")
sys.exit(1 if failures else 0)
