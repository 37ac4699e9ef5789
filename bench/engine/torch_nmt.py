"""The other sides of bench/engine.py, and what the engine's tests compare with.

torch_nmt.py FOLDER train STEPS | evaluate | onnxruntime   a JSON line: tokens, seconds, loss or perplexity, peak memory;
                                                          THREADS in the environment, 1 where absent
torch_nmt.py FOLDER gradients OUT.safetensors             f64 gradients of the first 32 training examples, by ONNX names and
                                                          layout; prints how far PyTorch's own f32 gradients are from them
torch_nmt.py FOLDER dynamo OUT.onnx                       the model by PyTorch's newer exporter

FOLDER is laid out as ../shared/nmt. Needs torch and safetensors; onnxruntime, and onnx and onnxscript for `dynamo`.
"""

import json
import math
import os
import resource
import sys
import time

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Model(nn.Module):
    def __init__(self, src, tgt, h=256, dropout=0.0):
        super().__init__()
        self.src_embed = nn.Embedding(src, h)
        self.tgt_embed = nn.Embedding(tgt, h)
        self.encoder = nn.LSTM(h, h, 2, batch_first=True, dropout=dropout)
        self.decoder = nn.LSTM(h, h, 2, batch_first=True, dropout=dropout)
        self.attn = nn.Linear(h, h, bias=False)
        self.attn_combine = nn.Linear(2 * h, h)
        self.softmax = nn.Linear(h, tgt)
        self.drop = nn.Dropout(dropout)

    def forward(self, src, tgt_in):
        enc, state = self.encoder(self.drop(self.src_embed(src)))
        dec, _ = self.decoder(self.drop(self.tgt_embed(tgt_in)), state)
        scores = self.attn(dec) @ enc.transpose(1, 2)
        scores = scores.masked_fill((src == 0)[:, None], -1e9)
        context = scores.softmax(-1) @ enc
        out = torch.tanh(self.attn_combine(torch.cat([context, dec], -1)))
        return self.softmax(self.drop(out))


def load(folder, dropout=0.0):
    weights = load_file(f"{folder}/model.safetensors")
    model = Model(weights["src_embed.weight"].shape[0], weights["tgt_embed.weight"].shape[0], dropout=dropout)
    model.load_state_dict(weights)
    return model


def loss_of(model, batch):
    logits = model(batch["src"], batch["tgt_in"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["tgt_out"].flatten(), ignore_index=0)


def iofc(t):
    i, f, g, o = t.chunk(4)
    return torch.cat([i, o, f, g])


def onnx_gradients(model):
    g = {n: p.grad for n, p in model.named_parameters()}
    out = {n: g[n] for n in ("src_embed.weight", "tgt_embed.weight", "attn_combine.bias", "softmax.bias")}
    for module, layer, first in (("encoder", 0, 376), ("encoder", 1, 396), ("decoder", 0, 416), ("decoder", 1, 436)):
        w, r, b, c = (g[f"{module}.{k}_l{layer}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        out[f"onnx::LSTM_{first}"] = iofc(w)[None]
        out[f"onnx::LSTM_{first + 1}"] = iofc(r)[None]
        out[f"onnx::LSTM_{first + 2}"] = torch.cat([iofc(b), iofc(c)])[None]
    for name, number in (("attn", 439), ("attn_combine", 440), ("softmax", 441)):
        out[f"onnx::MatMul_{number}"] = g[f"{name}.weight"].T
    return {n: t.contiguous() for n, t in out.items()}


def gradients(folder, path):
    data = {n: t[:32] for n, t in load_file(f"{folder}/train.safetensors").items()}
    grads = []
    for dtype in (torch.float64, torch.float32):
        model = load(folder).to(dtype)
        loss = loss_of(model, data)
        loss.backward()
        grads.append(onnx_gradients(model))
        print(dtype, loss.item())
    exact, single = grads
    for name, t in exact.items():
        error = (single[name].double() - t).norm() / t.norm()
        exact[name] = t
        print(f"{name:24} f32 off by {error:.2e}")
    save_file(exact, path, {"f32_worst": str(max(((single[n].double() - t).norm() / t.norm()).item() for n, t in exact.items()))})


def dynamo(folder, path):
    """The same model by PyTorch's other exporter."""
    model = load(folder).eval()
    data = {n: t[:3] for n, t in load_file(f"{folder}/val.safetensors").items()}
    axes = {n: {0: torch.export.Dim("batch"), 1: torch.export.Dim(f"{n[:3]}_len")} for n in ("src", "tgt_in")}
    program = torch.onnx.export(model, (data["src"], data["tgt_in"][:, :20]), dynamo=True, dynamic_shapes=axes,
                                input_names=["src", "tgt_in"], output_names=["logits"])
    program.save(path, external_data=False)


def trimmed(batch):
    """Cuts columns that hold nothing but padding, as `trim = true` does."""
    out = {}
    for names in (("src",), ("tgt_in", "tgt_out")):
        used = sum((batch[n] != 0).any(0).int() for n in names).nonzero().flatten()
        out |= {n: batch[n][:, used[0] : used[-1] + 1] for n in names}
    return out


def trimmed_batches(train, steps):
    """Batches of 64 of like length, as `trim = true` makes them."""
    order = torch.randperm(train["src"].shape[0], generator=torch.Generator().manual_seed(1))
    length = torch.maximum((train["src"] != 0).sum(1), (train["tgt_out"] != 0).sum(1))
    order = torch.cat([run[length[run].argsort()] for run in order.split(6400)])
    rows = list(order.split(64))[:-1]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))]
    for r in rows[:steps]:
        yield trimmed({n: t[r] for n, t in train.items()})


def told(what, work):
    """Runs a piece of work twice, the first time to warm up, and tells of the second as a JSON line."""
    work()
    start, cpu = time.time(), time.process_time()
    tokens, value = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = {"wall": round(time.time() - start, 3), "cpu": round(time.process_time() - cpu, 2)}
    print(json.dumps({"what": what, "tokens": tokens, **seconds, "value": round(value, 5), "peak_mb": peak}), flush=True)


def evaluation(folder, logits_of):
    """Validation in batches of 64 with the padding of the file: tokens, perplexity. All sides do the same."""
    val = load_file(f"{folder}/val.safetensors")

    def work():
        tokens, loss = 0, 0.0
        for i in range(0, len(val["src"]), 64):
            batch = {n: t[i : i + 64] for n, t in val.items()}
            target = batch["tgt_out"].flatten()
            logits = logits_of(batch).flatten(0, 1)
            loss += nn.functional.cross_entropy(logits, target, ignore_index=0, reduction="sum").item()
            tokens += int((target != 0).sum())
        return tokens, math.exp(loss / tokens)

    return work


def evaluate(folder):
    model = load(folder).eval()
    with torch.inference_mode():
        told("evaluate", evaluation(folder, lambda b: model(b["src"], b["tgt_in"])))


def evaluate_by_onnxruntime(folder, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
    run = lambda b: torch.from_numpy(session.run(None, {n: b[n].numpy() for n in ("src", "tgt_in")})[0])
    with torch.inference_mode():
        told("evaluate", evaluation(folder, run))


def train(folder, steps):
    data = load_file(f"{folder}/train.safetensors")
    model = load(folder, dropout=0.2).train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    batches = list(trimmed_batches(data, 2 * steps))
    halves = [batches[:steps], batches[steps:]]

    def work():
        tokens, losses = 0, 0.0
        for batch in halves.pop(0):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            n = int((batch["tgt_out"] != 0).sum())
            tokens, losses = tokens + n, losses + loss.item() * n
        return tokens, losses / tokens

    told("train", work)


def main():
    torch.manual_seed(1)
    folder, what, *rest = sys.argv[1:]
    threads = int(os.environ.get("THREADS", "1"))
    torch.set_num_threads(threads)
    if what == "gradients":
        gradients(folder, rest[0])
    elif what == "dynamo":
        dynamo(folder, rest[0])
    elif what == "onnxruntime":
        evaluate_by_onnxruntime(folder, threads)
    elif what == "evaluate":
        evaluate(folder)
    else:
        train(folder, int(rest[0]))


if __name__ == "__main__":
    main()
