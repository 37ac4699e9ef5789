"""Evidence of examples/dates by PyTorch, first 40 training examples, batch 1: dates_evidence.py OUT.safetensors [compared]

With `compared` only what the engine's test compares is kept: weights that have one name in both worlds.
"""

import sys

from evidence import evidence
from safetensors.torch import load_file, save_file
from train import DATES, Model

state = load_file(DATES / "model.safetensors")
model = Model(len(state["src_embed.weight"]), len(state["tgt_embed.weight"]), 64)
model.load_state_dict(state)
data = load_file(DATES / "train.safetensors")


def logits_of(i):
    target = data["tgt_out"][i : i + 1]
    return model(data["src"][i : i + 1], data["tgt_in"][i : i + 1])[target != 0], target[target != 0]


evidence(model, logits_of, range(40), sys.argv[1])

if sys.argv[2:] == ["compared"]:
    same = ("src_embed", "tgt_embed", "attn.", "attn_combine.weight.gram", "attn_combine.bias", "softmax")
    kept = {n: t for n, t in load_file(sys.argv[1]).items() if n.startswith(same)}
    save_file(kept, sys.argv[1])
