"""Validation perplexity of an ONNX model as ONNX Runtime runs it: perplexity.py MODEL DATA.safetensors"""

import math
import sys

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
data = load_file(sys.argv[2])
loss = tokens = 0
for at in range(0, len(data["src"]), 64):
    src, tgt_in, tgt_out = (data[k][at : at + 64] for k in ("src", "tgt_in", "tgt_out"))
    (logits,) = session.run(["logits"], {"src": src, "tgt_in": tgt_in})
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    picked = np.take_along_axis(logits, tgt_out[..., None], -1)[..., 0]
    real = tgt_out != 0
    loss += float((log_sum - picked)[real].sum())
    tokens += int(real.sum())
print(math.exp(loss / tokens))
