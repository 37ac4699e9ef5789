"""Evidence of examples/dates by PyTorch, first 40 training examples, batch 1: dates_evidence.py OUT.safetensors"""

import sys

from evidence import evidence
from safetensors.torch import load_file
from train import DATES, Model

state = load_file(DATES / "model.safetensors")
model = Model(len(state["src_embed.weight"]), len(state["tgt_embed.weight"]), 64)
model.load_state_dict(state)
data = load_file(DATES / "train.safetensors")


def logits_of(i):
    target = data["tgt_out"][i : i + 1]
    return model(data["src"][i : i + 1], data["tgt_in"][i : i + 1])[target != 0], target[target != 0]


evidence(model, logits_of, range(40), sys.argv[1])
