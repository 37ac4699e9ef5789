"""Row-relative magnitude: outputs with small weights lose no more than others."""

import numpy as np
from compress_method import run


def score(w, part):
    return np.abs(w) / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), part.options["floor"])


run(name="row-relative", meaning="the smallest weights relative to their row's norm go first",
    citation="an example of this project, after Salimans & Kingma, Weight Normalization, NIPS 2016",
    equation="s(w_ij) = |w_ij| / ‖w_i‖", reach="row", score=score,
    options={"floor": dict(default=1e-30, min=1e-30, max=1.0, meaning="norm that a row is taken to have at least")})
