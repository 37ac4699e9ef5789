"""Exports the ONNX project's own node tests (onnx.backend.test) for the Rust test `node_tests.rs`.

python node_tests.py FOLDER

For each case whose tensors safetensors can hold: <case>.onnx and <case>.io.safetensors with in:<input>, out:<output>.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases
from safetensors.numpy import save_file

HOLDS = {"float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written = skipped = 0
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        graph = case.model.graph
        inputs, outputs = case.data_sets[0]
        tensors = {}
        for kind, infos, values in (("in", graph.input, inputs), ("out", graph.output, outputs)):
            for info, value in zip(infos, values):
                tensors[f"{kind}:{info.name}"] = value
        values = {k: np.asarray(v) for k, v in tensors.items() if isinstance(v, (np.ndarray, np.generic))}
        if len(values) != len(tensors) or any(v.dtype.name not in HOLDS for v in values.values()):
            skipped += 1
            continue
        onnx.save(case.model, folder / f"{case.name}.onnx")
        save_file({k: np.ascontiguousarray(v).reshape(v.shape) for k, v in values.items()}, folder / f"{case.name}.io.safetensors")
        written += 1
    print(f"{written} cases written, {skipped} with other types left out")


main(Path(sys.argv[1]))
