#!/usr/bin/env python3
"""Writes ONNX files as PyTorch's two exporters make them, with what ONNX Runtime answers, for the tests of the readers.

    python make_fixtures.py FOLDER [--nmt FOLDER_OF_THE_TRANSLATION_MODEL]

Each NAME.onnx gets a NAME.io.safetensors: tensors `in:<input>` and `out:<output>`. Seeded: the same versions give the
same files. It needs the packages of examples/dates/requirements.txt, and onnxscript for the dynamo exporter.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "dates"))
from make import Translator  # noqa: E402

SEED = 1


# The models


class Transformer(nn.Module):
    """Encoder-decoder with padding and causal masks (Vaswani et al. 2017), the output layer not tied."""

    def __init__(self, vocab=50, d=32):
        super().__init__()
        self.src_embed = nn.Embedding(vocab, d)
        self.tgt_embed = nn.Embedding(vocab, d)
        self.position = nn.Parameter(torch.randn(16, d) * 0.1)
        self.transformer = nn.Transformer(d, 4, 2, 2, 48, dropout=0.0, batch_first=True)
        self.generator = nn.Linear(d, vocab)
        for p in self.parameters():  # as after some training: equal norms and biases would be stored once
            p.data += 0.02 * torch.randn_like(p) * (p.dim() == 1)

    def forward(self, src, tgt_in):
        length = tgt_in.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        padding = src == 0
        h = self.transformer(
            self.src_embed(src) + self.position[: src.shape[1]],
            self.tgt_embed(tgt_in) + self.position[:length],
            tgt_mask=later, tgt_is_causal=False, src_key_padding_mask=padding, memory_key_padding_mask=padding,
        )  # fmt: skip
        return self.generator(h)


class Cnn(nn.Module):
    """Two blocks of convolution, batch norm, relu, pool; two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 32), nn.Linear(32, 10)
        for bn in (self.bn1, self.bn2):  # as after some training: not the identity
            bn.running_mean.normal_(0, 0.2)
            bn.running_var.uniform_(0.5, 1.5)

    def forward(self, image):
        h = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(image))), 2)
        h = nn.functional.max_pool2d(torch.relu(self.bn2(self.conv2(h))), 2)
        return self.fc2(torch.relu(self.fc1(h.flatten(1))))


class Classifier(nn.Module):
    """Embedding, a recurrent network of two layers, a linear layer over its last output."""

    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.rnn = kind(16, 24, 2, batch_first=True, **options)
        self.classifier = nn.Linear(24 * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, ids):
        h, _ = self.rnn(self.embed(ids))
        return self.classifier(h[:, -1])


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 64), nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


# Exporting


def legacy(model, inputs, outputs, axes, path, opset):
    torch.onnx.export(
        model, tuple(inputs.values()), path, dynamo=False, opset_version=opset,
        input_names=list(inputs), output_names=outputs, dynamic_axes=axes,
    )  # fmt: skip


def dynamo(model, inputs, outputs, axes, path, opset, external=False):
    shapes = {i: {axis: torch.export.Dim(name) for axis, name in axes[i].items()} for i in inputs}
    torch.onnx.export(
        model, tuple(inputs.values()), path, dynamo=True, opset_version=opset, external_data=external,
        input_names=list(inputs), output_names=outputs, dynamic_shapes=tuple(shapes.values()), verbose=False,
    )  # fmt: skip
    without_traces(path)


def without_traces(path):
    """Takes out the call stacks that the dynamo exporter leaves on each node: they name folders of this machine."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        kept = [p for p in node.metadata_props if p.key != "pkg.torch.onnx.stack_trace"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)


def fixture(folder, name, exporter, model, inputs, axes, opset=17, **options):
    """Exports `model`, has the file checked, and keeps what ONNX Runtime makes of `inputs`."""
    path = folder / f"{name}.onnx"
    (output,) = (o for o in axes if o not in inputs)
    exporter(model, inputs, [output], axes, str(path), opset, **options)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    inputs = {i: t.numpy() for i, t in inputs.items()}
    (theirs,) = session.run([output], inputs)
    with torch.no_grad():
        ours = model(*map(torch.from_numpy, inputs.values())).numpy()
    worst = np.abs(ours - theirs).max()
    assert worst < 1e-5 * max(1, np.abs(ours).max()), f"{name}: ONNX Runtime differs by {worst}"
    save_file({f"in:{i}": t for i, t in inputs.items()} | {f"out:{output}": theirs}, folder / f"{name}.io.safetensors")
    print(f"{name}: {path.stat().st_size} bytes, opset {onnx.load(path, load_external_data=False).opset_import[0].version}, {worst:.1e}")


def built(kind, *args, **options):
    torch.manual_seed(SEED)
    return kind(*args, **options).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nmt", type=Path, help="folder with model.safetensors and val.safetensors of the translation model")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # else encoder layers become one operator that ONNX does not have
    draw = np.random.default_rng(SEED)

    def ids(batch, length, vocab, pads=0):
        t = torch.from_numpy(draw.integers(1, vocab, (batch, length)))
        t[0, :pads] = 0
        return t

    pair_axes = {"src": {0: "batch", 1: "src_len"}, "tgt_in": {0: "batch", 1: "tgt_len"}, "logits": {0: "batch", 1: "tgt_len"}}
    pair = {"src": ids(3, 7, 50, pads=2), "tgt_in": ids(3, 5, 50)}
    transformer = built(Transformer)
    fixture(args.folder, "transformer-17", legacy, transformer, pair, pair_axes, 17)
    fixture(args.folder, "transformer-20", legacy, transformer, pair, pair_axes, 20)
    fixture(args.folder, "transformer-20-dynamo", dynamo, transformer, pair, pair_axes, 20)

    image = {"image": torch.from_numpy(draw.standard_normal((2, 3, 16, 16), dtype=np.float32))}
    image_axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    cnn = built(Cnn)
    fixture(args.folder, "cnn-17", legacy, cnn, image, image_axes, 17)
    fixture(args.folder, "cnn-20-dynamo", dynamo, cnn, image, image_axes, 20)

    text, text_axes = {"ids": ids(3, 6, 40)}, {"ids": {0: "batch", 1: "length"}, "logits": {0: "batch"}}
    fixture(args.folder, "gru", legacy, built(Classifier, nn.GRU), text, text_axes)
    fixture(args.folder, "bilstm", legacy, built(Classifier, nn.LSTM, bidirectional=True), text, text_axes)
    fixture(args.folder, "rnn", legacy, built(Classifier, nn.RNN), text, text_axes)

    row = {"x": torch.from_numpy(draw.standard_normal((4, 20), dtype=np.float32))}
    fixture(args.folder, "mlp", legacy, built(Mlp), row, {"x": {0: "batch"}, "y": {0: "batch"}})

    if args.nmt:
        state = load_file(args.nmt / "model.safetensors")
        nmt = Translator(*state["src_embed.weight"].shape[:1], *state["softmax.weight"].shape).eval()
        nmt.load_state_dict(state)
        val = load_file(args.nmt / "val.safetensors")
        few = {i: val[i][:8].contiguous() for i in ("src", "tgt_in")}
        fixture(args.folder, "nmt-dynamo", dynamo, nmt, few, pair_axes, 18)
        fixture(args.folder, "nmt-dynamo-ext", dynamo, nmt, few, pair_axes, 18, external=True)


if __name__ == "__main__":
    main()
