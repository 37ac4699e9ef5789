"""A compression method for `compress` in Python, on numpy alone. Copy this file beside your method:

    import numpy as np
    from compress_method import run

    def score(w, part):                      # low = dispensable
        return np.abs(w) / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-30)

    run(name="row-relative", meaning="the smallest weights relative to their row's norm go first",
        citation="authors, title, venue, year", equation="s(w_ij) = |w_ij| / ‖w_i‖", reach="row", score=score)

`w` is rows × cols of float32 and read-only; the answer has the same shape. `part` knows the rest:

    part.options["rank"], part.seed          of the stage
    part.evidence.get("gram")                arrays by kind, where the evidence file has them
    part.tensor, part.name, part.weight_class
    part.first_row, part.first_element, part.part_rows, part.part_cols    where the block lies
    part.keep                                encode only: None, ("mask", kept) or ("quota", eligible, pruned, n, m)

`encode(w, part)` answers a list of terms, or (terms, kept) where it chooses weights itself. A term is
("dense", values), ("sparse", kept, values of the kept), ("factored", U, V) or ("hashed", seed, buckets).

Whatever is printed goes to stderr: stdout is for the answers. Version 1 of the protocol.
"""

import json
import math
import mmap
import os
import sys
import traceback
from types import SimpleNamespace

import numpy as np


def run(*, name, meaning, citation, equation, reach="weight", units="other", score=None, encode=None,
        selects=False, random=False, evidence=(), options=None):
    """Serves a method until its host is done. This call does not come back before.

    reach     what must be seen at once: "weight" (any slice, each score by itself), "row" or "part"
    units     "magnitude" where scores are in units of |w|
    evidence  kinds that are needed: ["gram"]; optional ones as ("row_count", False)
    options   {"rank": dict(default=8, min=1, max=64, meaning="columns of U")}; the type is the default's, and
              choices=[...] makes it one of a list of words
    """
    needs = [(e, True) if isinstance(e, str) else e for e in evidence]
    card = dict(name=name, meaning=meaning, citation=citation, equation=equation, reach=reach, units=units,
                scores=score is not None, encodes=encode is not None, selects=selects, random=random,
                evidence=[dict(kind=kind, required=required) for kind, required in needs],
                options=[_option(key, o) for key, o in (options or {}).items()])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    stage = {}
    for line in sys.stdin.buffer:
        call = json.loads(line)
        try:
            if call["call"] == "describe":
                answer = card
            elif call["call"] == "create":
                stage, answer = call, {}
            elif call["call"] == "score":
                answer = _score(score, call, stage)
            elif call["call"] == "encode":
                answer = _encode(encode, call, stage)
            else:
                raise ValueError(f"unknown call {call['call']!r}")
            answer = {"ok": answer}
        except Exception as e:
            place = traceback.extract_tb(e.__traceback__)[-1]
            answer = {"error": f"{type(e).__name__}: {e} ({os.path.basename(place.filename)}:{place.lineno})"}
        answers.write(json.dumps(dict(answer, id=call["id"])) + "\n")
        answers.flush()


def _option(name, o):
    default = o["default"]
    kind = ("choice" if "choices" in o else "flag" if isinstance(default, bool) else
            "integer" if isinstance(default, int) else "float" if isinstance(default, float) else "text")
    return dict(o, name=name, type=kind)


class _File:
    """The file of a call, mapped. It stays open, for its path goes after the first answer."""
    opened = {}

    def __init__(self, path):
        self.handle = os.open(path, os.O_RDWR)
        self.bytes = -1

    @classmethod
    def get(cls, path, count):
        if path not in cls.opened:
            cls.opened[path] = cls(path)
        file = cls.opened[path]
        file.map(count)
        return file

    def map(self, count):
        if count > self.bytes:
            if count > os.fstat(self.handle).st_size:
                os.ftruncate(self.handle, count)
            self.bytes, self.data = count, mmap.mmap(self.handle, count) if count else bytearray()

    def array(self, at, count, dtype=np.float32):
        return np.frombuffer(self.data, dtype, count, at) if count else np.empty(0, dtype)

    def append(self, array):
        """Puts an array at the end of the file and tells where."""
        at = -(-self.bytes // 64) * 64
        self.map(at + array.nbytes)
        self.array(at, array.size, array.dtype)[:] = array.reshape(-1)
        return at


def _grid(flat, call):
    """Rows × cols of a block, wherever its rows lie."""
    rows, cols = call["rows"], call["cols"]
    return flat.reshape(rows, cols) if call["col_stride"] == 1 or rows == 1 else flat.reshape(cols, rows).T


def _part(call, stage):
    file = _File.get(call["file"], call["bytes"])
    weights = _grid(file.array(call["weights"], call["rows"] * call["cols"]), call)
    weights.flags.writeable = False
    arrays = {}
    for e in call["evidence"]:
        flat = file.array(e["at"], math.prod(e["shape"]))
        arrays[e["kind"]] = _grid(flat, call) if e["kind"].endswith("_diag") else flat.reshape(e["shape"])
    part = SimpleNamespace(options=stage.get("options", {}), seed=stage.get("seed", 0), evidence=arrays, keep=None,
                           tensor=call["tensor"], name=call["part"], weight_class=call["class"],
                           first_row=call["first_row"], first_element=call["first_element"],
                           part_rows=call["part_rows"], part_cols=call["part_cols"])
    return file, weights, part


def _score(score, call, stage):
    file, weights, part = _part(call, stage)
    scores = score(weights, part)
    if np.shape(scores) != weights.shape:
        raise ValueError(f"score gave {np.shape(scores)} scores for {weights.shape} weights")
    _grid(file.array(call["scores"], weights.size), call)[...] = scores
    return {"count": weights.size}


def _encode(encode, call, stage):
    file, weights, part = _part(call, stage)
    count, keep = weights.size, call["keep"]
    if keep["kind"] != "all":
        bits = file.array(keep["bits"], (count + 7) // 8, np.uint8)
        kept = np.unpackbits(bits, bitorder="little")[:count].astype(bool).reshape(weights.shape)
        part.keep = (("mask", kept) if keep["kind"] == "mask" else
                     ("quota", kept, keep["pruned"], keep["n"], keep["m"]))
    answer = encode(weights, part)
    terms, kept = answer if isinstance(answer, tuple) else (answer, part.keep and part.keep[1])

    def bits(mask):
        if np.size(mask) != count:
            raise ValueError(f"a mask of {np.size(mask)} for {count} weights")
        return file.append(np.packbits(np.asarray(mask, bool).reshape(-1), bitorder="little"))

    def term(layout, *what):
        values = np.concatenate([np.asarray(w, np.float32).reshape(-1) for w in what[(layout in ("sparse", "hashed")):]])
        more = {"bits": bits(what[0])} if layout == "sparse" else {"seed": int(what[0])} if layout == "hashed" else {}
        if layout == "factored":
            more["rank"] = int(np.shape(what[0])[1])
        return dict(layout=layout, values=file.append(values), count=values.size, **more)

    return {"kept": None if kept is None else bits(kept), "terms": [term(*t) for t in terms]}
