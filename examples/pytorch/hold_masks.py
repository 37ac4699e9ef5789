"""Keeps pruned weights at zero while PyTorch trains: hold(model, "masks.safetensors", optimizer)."""

import numpy as np
import torch
from safetensors import safe_open


def hold(model, path, optimizer):
    masks = {}
    with safe_open(path, "numpy") as file:
        for name in file.keys():
            shape = [int(n) for n in file.metadata()[f"shape:{name}"].strip("[]").split(",")]
            bits = np.unpackbits(file.get_tensor(name), bitorder="little")[: np.prod(shape)]
            masks[name] = torch.from_numpy(bits.astype(bool)).reshape(shape)

    def zero(result=None):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in masks:
                    p.masked_fill_(~masks[name].to(p.device), 0)
        return result

    zero()
    step = optimizer.step
    optimizer.step = lambda *args, **kwargs: zero(step(*args, **kwargs))
