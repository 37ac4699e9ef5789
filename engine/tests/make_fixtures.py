#!/usr/bin/env python3
"""Makes engine/tests/fixtures: small models by both of PyTorch's exporters, what ONNX Runtime computes with them, and the
gradients of PyTorch in f64.

    python make_fixtures.py [FOLDER [NAME…]]        # needs torch, onnx, onnxscript, onnxruntime, safetensors; one seed

For each model <name>.onnx and <name>.io.safetensors: `in:<input>`, `out:<output>`, `target`, and `grad:<weight>` for each
weight of the graph that is a parameter of the PyTorch model, found by its values, whatever the exporter has called it
and however it has packed it. Metadata: `loss`, and `f32_worst`, how far PyTorch's own f32 gradients are from f64 (relative
norm, the worst weight).
"""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
VOCAB, HIDDEN = 23, 12


class Translation(nn.Module):
    """Luong, Pham & Manning 2015, as ../shared/nmt and examples/dates have it."""

    def __init__(self):
        super().__init__()
        self.src_embed, self.tgt_embed = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(VOCAB, HIDDEN)
        self.encoder, self.decoder = (nn.LSTM(HIDDEN, HIDDEN, 2, batch_first=True) for _ in range(2))
        self.attn, self.attn_combine = nn.Linear(HIDDEN, HIDDEN, bias=False), nn.Linear(2 * HIDDEN, HIDDEN)
        self.softmax = nn.Linear(HIDDEN, VOCAB)

    def forward(self, src, tgt_in):
        enc, state = self.encoder(self.src_embed(src))
        dec, _ = self.decoder(self.tgt_embed(tgt_in), state)
        scores = self.attn(dec) @ enc.transpose(1, 2)
        scores = scores.masked_fill((src == 0)[:, None], -1e9)
        out = torch.cat([scores.softmax(-1) @ enc, dec], -1)
        return self.softmax(torch.tanh(self.attn_combine(out)))


class Transformer(nn.Module):
    """Vaswani et al. 2017: PyTorch's own nn.Transformer between embeddings and a linear layer."""

    def __init__(self):
        super().__init__()
        self.src_embed, self.tgt_embed = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(VOCAB, HIDDEN)
        self.positions = nn.Parameter(torch.zeros(32, HIDDEN))
        self.transformer = nn.Transformer(HIDDEN, 3, 2, 2, 20, dropout=0.1, activation="gelu", batch_first=True)
        self.generator = nn.Linear(HIDDEN, VOCAB)

    def forward(self, src, tgt_in):
        pad = src == 0
        causal = torch.triu(torch.ones(tgt_in.shape[1], tgt_in.shape[1], dtype=torch.bool), 1)
        x = self.src_embed(src) + self.positions[: src.shape[1]]
        y = self.tgt_embed(tgt_in) + self.positions[: tgt_in.shape[1]]
        y = self.transformer(x, y, tgt_mask=causal, src_key_padding_mask=pad, memory_key_padding_mask=pad)
        return self.generator(y)


class Gated(nn.Module):
    """A bidirectional GRU of two layers under a plain recurrent layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.gru = nn.GRU(HIDDEN, 7, 2, batch_first=True, bidirectional=True)
        self.rnn = nn.RNN(14, 9, batch_first=True, nonlinearity="relu")
        self.head = nn.Linear(9, VOCAB)

    def forward(self, src):
        return self.head(self.rnn(self.gru(self.embed(src))[0])[0])


class Digits(nn.Module):
    """Convolutions, normalisation, pooling, a classifier."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two, self.group = nn.Conv2d(6, 8, (3, 2), stride=2, groups=2), nn.GroupNorm(2, 8)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, image):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.one(image))), 2)
        x = nn.functional.avg_pool2d(torch.nn.functional.silu(self.group(self.two(x))), 2, padding=1)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2))


def sentences(rng, batch, length, left):
    """Ids with 0 as padding on one side; the first sentence is whole."""
    ids = rng.integers(1, VOCAB, (batch, length))
    for i in range(1, batch):
        n = int(rng.integers(1, length))
        ids[i, : length - n] = 0 if left else ids[i, : length - n]
        ids[i, n:] = ids[i, n:] if left else 0
    return torch.from_numpy(ids)


def gates(t, order):
    chunks = t.chunk(len(order))
    return torch.cat([chunks[i] for i in order])


def candidates(model, value):
    """Everything that an exporter makes of the parameters of a model, of `value(name, parameter)`."""
    found = []
    parameters = {n: value(n, p) for n, p in model.named_parameters()}
    for n, t in parameters.items():
        found += [t] + ([t.T] if t.ndim == 2 else [])
        if n.endswith("in_proj_weight"):
            found += [c for piece in t.chunk(3) for c in (piece, piece.T)]
            found += [c for piece in (t[: HIDDEN], t[HIDDEN:]) for c in (piece, piece.T)]
        if n.endswith("in_proj_bias"):
            found += list(t.chunk(3)) + [t[:HIDDEN], t[HIDDEN:]]
    for name, module in model.named_modules():
        if not isinstance(module, nn.RNNBase):
            continue
        order = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}.get(module.mode, [0])
        for layer in range(module.num_layers):
            ways = ["", "_reverse"] if module.bidirectional else [""]
            one = lambda kind, way: gates(parameters[f"{name}.{kind}_l{layer}{way}"], order)
            for kind in ("weight_ih", "weight_hh"):
                found.append(torch.stack([one(kind, way) for way in ways]))
            found.append(torch.stack([torch.cat([one("bias_ih", way), one("bias_hh", way)]) for way in ways]))
    return found


def gradients(model, inputs, target, graph):
    """(gradients by the graph's names, loss, worst relative error of f32)."""
    results = []
    for dtype in (torch.float64, torch.float32):
        twin = copy.deepcopy(model).to(dtype)
        twin.zero_grad()
        logits = twin(*[t.to(dtype) if t.is_floating_point() else t for t in inputs])
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=0)
        loss.backward()
        given = {n: p.grad for n, p in twin.named_parameters()}
        results.append((candidates(twin, lambda n, p: given[n]), loss.item()))
    values = candidates(model, lambda n, p: p.detach())
    (exact, loss), (single, _) = results
    out, worst = {}, 0.0
    for t in graph.initializer:
        array = numpy_helper.to_array(t)
        if array.dtype != np.float32 or array.size < 2:
            continue
        for v, g, s in zip(values, exact, single):
            if v.shape == array.shape and np.array_equal(v.numpy(), array):
                out[t.name] = g.contiguous()
                worst = max(worst, ((s.double() - g).norm() / g.norm()).item())
                break
        else:
            print(f"    no parameter is {t.name} {list(array.shape)}")
    return out, loss, worst


def make(folder, name, model, inputs, fresh, target, dims, dynamo, opset):
    path = folder / f"{name}.onnx"
    names = list(dims)
    common = dict(input_names=names, output_names=["logits"], opset_version=opset, dynamo=dynamo)
    if dynamo:
        shapes = tuple({i: torch.export.Dim(d, min=2, max=30) if d != "batch" else torch.export.Dim("batch", min=2, max=99)
                        for i, d in dims[n].items()} for n in names)
        program = torch.onnx.export(model, tuple(inputs), dynamic_shapes=shapes, **common)
        program.save(path, external_data=False)
    else:
        # nn.MultiheadAttention is traced with the sizes of the export, the batch among them
        axes = None if name.startswith("transformer") else {**dims, "logits": {0: "batch"}}
        torch.onnx.export(model, tuple(inputs), path, dynamic_axes=axes, **common)
    onnx.checker.check_model(path)
    graph = onnx.load(path)
    for node in graph.graph.node:  # where the exporter ran is nobody's business, and makes the file larger
        del node.metadata_props[:]
        node.doc_string = ""
    for info in list(graph.graph.value_info) + list(graph.graph.input) + list(graph.graph.output):
        del info.metadata_props[:]
    onnx.save(graph, path)
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {n: t.numpy() for n, t in zip(names, fresh)})
    tensors = {f"in:{n}": t for n, t in zip(names, fresh)} | {"out:logits": torch.from_numpy(logits), "target": target}
    grads, loss, worst = gradients(model, fresh, target, graph.graph)
    tensors |= {f"grad:{n}": g for n, g in grads.items()}
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / f"{name}.io.safetensors",
              {"loss": repr(loss), "f32_worst": repr(worst)})
    operators = sorted({n.op_type for n in graph.graph.node})
    print(f"{name}: {path.stat().st_size} bytes, {len(grads)} gradients, f32 off by {worst:.1e}; {' '.join(operators)}")


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    pair = {"src": {0: "batch", 1: "src_len"}, "tgt_in": {0: "batch", 1: "tgt_len"}}
    texts = lambda rng, b, s, t: (sentences(rng, b, s, True), sentences(rng, b, t, False))
    one_text = lambda rng, b, s, t: (sentences(rng, b, s, False),)
    images = lambda rng, b, s, t: (torch.from_numpy(rng.normal(size=(b, 2, 12, 12)).astype(np.float32)),)
    only = sys.argv[2:]
    for name, model, inputs, dims in (
        ("translation", Translation, texts, pair),
        ("transformer", Transformer, texts, pair),
        ("gated", Gated, one_text, {"src": {0: "batch"}}),
        ("digits", Digits, images, {"image": {0: "batch"}}),
    ):
        if only and name not in only:
            continue
        rng = np.random.default_rng(1)
        torch.manual_seed(1)
        model = model().eval()
        for p in model.parameters():  # no two alike, so that each is found by its values
            nn.init.uniform_(p, -0.4, 0.4)
        # the newer exporter cannot follow nn.Transformer's checks of its masks with a dynamic batch
        newer = ("legacy-20", False, 20) if name == "transformer" else ("dynamo-20", True, 20)
        for way, dynamo, opset in (("legacy-17", False, 17), newer):
            fresh = inputs(rng, 5, 6, 8)
            shape = (5,) if name == "digits" else fresh[-1].shape
            target = torch.from_numpy(rng.integers(1, 5 if name == "digits" else VOCAB, shape))
            if name != "digits":
                target[fresh[-1] == 0] = 0
            traced = fresh if name == "transformer" else inputs(rng, 3, 6 if name == "gated" else 5, 7)
            make(folder, f"{name}-{way}", model, traced, fresh, target, dims, dynamo, opset)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "fixtures")
