#!/bin/sh
# test.sh PYTHON: the scripts of this folder on examples/dates. PYTHON has torch, safetensors, numpy.
set -e
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
"$1" dates_evidence.py "$out/evidence.safetensors"
COMPRESS_TORCH_EVIDENCE=$out/evidence.safetensors cargo test --release -p compress-engine --test dates evidence
"$1" - "$out" <<'PY'
import sys
import numpy as np
from safetensors.numpy import load_file, save_file
masks, shapes = {}, {}
for name, t in load_file("../dates/model.safetensors").items():
    if t.ndim > 1:
        keep = np.abs(t) > np.quantile(np.abs(t), 0.8)
        masks[name] = np.packbits(keep.flatten(), bitorder="little")
        shapes[f"shape:{name}"] = str(list(t.shape)).replace(" ", "")
save_file(masks, f"{sys.argv[1]}/masks.safetensors", shapes)
PY
"$1" -m torch.distributed.run --nproc-per-node 2 train.py ../dates/model.safetensors "$out/masks.safetensors" "$out/trained.safetensors"
"$1" - "$out" <<'PY'
import sys
import numpy as np
from safetensors.numpy import load_file
weights, masks = load_file(f"{sys.argv[1]}/trained.safetensors"), load_file(f"{sys.argv[1]}/masks.safetensors")
for name, bits in masks.items():
    kept = np.unpackbits(bits, bitorder="little")[: weights[name].size].reshape(weights[name].shape).astype(bool)
    assert not weights[name][~kept].any(), name
print("the masks held")
PY
