#!/bin/sh
# test.sh PYTHON [COMPRESS]: the scripts of this folder on examples/dates. PYTHON has torch (any from 1.13 on), safetensors,
# numpy; COMPRESS is the built command (target/release/compress).
set -e
cd "$(dirname "$0")"
python=$1
compress=${2:-../../target/release/compress}
compress=$(cd "$(dirname "$compress")" && pwd)/$(basename "$compress")
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# 1. the evidence of PyTorch and of the engine agree
"$python" dates_evidence.py "$work/evidence.safetensors"
(cd ../.. && COMPRESS_TORCH_EVIDENCE=$work/evidence.safetensors cargo test --release -p compress-engine --test all evidence_agrees)

# 2. a recipe that prunes to 80 % and has two processes of torchrun retrain; the command checks the masks itself
here=$(pwd)
cat >"$work/p.toml" <<END
model  = "$here/../dates/model.safetensors"
output = "dates-80.safetensors"
mask   = "masks.safetensors"
[[stage]]
method = "magnitude"
amount = "80%"
[[stage]]
retrain = { command = ["$python", "-m", "torch.distributed.run", "--nproc-per-node", "2", "$here/train.py", "{weights}", "{mask}", "{output}"] }
END
"$compress" "$work/p.toml" --report "$work/report.json"

# 3. judged from outside: what the masks prune is zero, what they keep was trained
"$python" - "$work" <<'PY'
import json
import sys
import numpy as np
from safetensors.numpy import load_file
after, masks = (load_file(f"{sys.argv[1]}/{n}.safetensors") for n in ("dates-80", "masks"))
before, moved = load_file("../dates/model.safetensors"), 0
for name, bits in masks.items():
    kept = np.unpackbits(bits, bitorder="little")[: after[name].size].reshape(after[name].shape).astype(bool)
    assert not after[name][~kept].any(), name
    moved += (after[name][kept] != before[name][kept]).sum()
pruned = sum((t == 0).sum() for n, t in after.items() if n in masks)
assert moved > 10000, moved
retrain = json.load(open(f"{sys.argv[1]}/report.json"))["stages"][1]
print(f"the masks held: {pruned} weights pruned, {moved} trained; last line of the trainer: {retrain['metrics']}")
PY
