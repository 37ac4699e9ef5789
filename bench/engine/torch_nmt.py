"""The translation model of ../shared/nmt in PyTorch: its gradients, and its speed beside the engine's.

torch_nmt.py FOLDER gradients OUT.safetensors   f64 gradients of the first 32 training examples, by ONNX names and layout;
                                                prints how far PyTorch's own f32 gradients are from them
torch_nmt.py FOLDER speed STEPS [THREADS]       tokens a second, wall and CPU, training and evaluation, batch 64
"""

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


def trimmed(batch):
    """Cuts columns that hold nothing but padding, as `trim = true` does."""
    out = {}
    for names in (("src",), ("tgt_in", "tgt_out")):
        used = sum((batch[n] != 0).any(0).int() for n in names).nonzero().flatten()
        out |= {n: batch[n][:, used[0] : used[-1] + 1] for n in names}
    return out


def batches(train, steps):
    """Batches of like length, as `trim = true` has them."""
    order = torch.randperm(train["src"].shape[0], generator=torch.Generator().manual_seed(1))
    if TRIM:
        length = torch.maximum((train["src"] != 0).sum(1), (train["tgt_out"] != 0).sum(1))
        order = torch.cat([run[length[run].argsort()] for run in order.split(6400)])
        rows = list(order.split(64))[:-1]
        rows = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))]
    else:
        rows = list(order.split(64))
    for r in rows[:steps]:
        batch = {n: t[r] for n, t in train.items()}
        yield trimmed(batch) if TRIM else batch


TRIM = "TRIM" in os.environ


def speed(folder, steps):
    train, val = (load_file(f"{folder}/{n}.safetensors") for n in ("train", "val"))
    model = load(folder, dropout=0.2)
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    with torch.no_grad():
        model.eval()
        for _ in range(2):
            start, cpu, tokens = time.time(), time.process_time(), 0
            for i in range(0, 1014, 64):
                batch = {n: t[i : i + 64] for n, t in val.items()}
                loss_of(model, batch)
                tokens += int((batch["tgt_out"] != 0).sum())
            print(f"torch evaluate: {tokens / (time.time() - start):.0f} tokens/s, {tokens / (time.process_time() - cpu):.0f} per CPU second")
    model.train()
    for part in range(2):
        start, cpu, tokens = time.time(), time.process_time(), 0
        for batch in batches(train, steps):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            tokens += int((batch["tgt_out"] != 0).sum())
        print(f"torch train: {tokens / (time.time() - start):.0f} tokens/s, {tokens / (time.process_time() - cpu):.0f} per CPU second")
    print(f"torch peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def ort_speed(folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("THREADS", "0"))
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
    val = {n: t.numpy() for n, t in load_file(f"{folder}/val.safetensors").items()}
    for _ in range(2):
        start, cpu, tokens = time.time(), time.process_time(), 0
        for i in range(0, 1014, 64):
            session.run(None, {n: val[n][i : i + 64] for n in ("src", "tgt_in")})
            tokens += int((val["tgt_out"][i : i + 64] != 0).sum())
        print(f"onnxruntime evaluate: {tokens / (time.time() - start):.0f} tokens/s, {tokens / (time.process_time() - cpu):.0f} per CPU second")


if __name__ == "__main__":
    torch.manual_seed(1)
    folder, what = sys.argv[1:3]
    if len(sys.argv) > 4:
        torch.set_num_threads(int(sys.argv[4]))
    if what == "gradients":
        gradients(folder, sys.argv[3])
    else:
        ort_speed(folder)
        speed(folder, int(sys.argv[3]))
