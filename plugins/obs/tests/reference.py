#!/usr/bin/env python3
"""Optimal Brain Surgeon as its papers write it, in numpy and float64: makes reference.json for the tests.

    reference.py > reference.json

exact    Hassibi & Stork 1993, eq. 5, over all rows at once: the cheapest weight of the layer goes, its row is updated, the
         row's inverse Hessian loses a row and a column (Frantar & Alistarh 2022, lemma 1).
blocked  Frantar & Alistarh 2023, algorithm 1, as in the authors' sparsegpt.py: H⁻¹ by an inversion, its upper Cholesky factor,
         errors of a block applied to all columns after it. Only how many weights each block loses is ours (see
         src/blocked.rs); under n:m nothing is.
"""
import json

import numpy as np


def hessian(gram, damping):
    h = 2 * gram.astype(np.float64)
    d = np.diag(h).copy()
    live = d > 0
    h[np.ix_(live, live)] += damping * d[live].mean() * np.eye(live.sum())
    h[~live, ~live] = 1
    return h, live


def exact(w, eligible, grams, damping, pruned, n, m):
    """Every step looks at every weight."""
    rows, cols = w.shape
    w, alive = np.where(eligible, w, 0).astype(np.float64), eligible.copy()
    each = rows // len(grams)
    inverses, live = [], []
    for r in range(rows):
        h, l = hessian(grams[r // each], damping)
        inverse = np.linalg.inv(h)
        for q in np.flatnonzero(~alive[r]):
            inverse = downdate(inverse, q)
        inverses.append(inverse)
        live.append(l)
    while (~alive).sum() < pruned:
        cost = np.full((rows, cols), np.inf)
        for r in range(rows):
            d = np.diag(inverses[r])
            allowed = alive[r].copy()
            if m:
                whole = cols // m * m
                gone = (~alive[r][:whole]).reshape(-1, m).sum(1)
                allowed[:whole] &= np.repeat(gone < m - n, m)
                allowed[whole:] = False
            cost[r, allowed] = np.where(live[r], w[r] ** 2 / (2 * np.where(alive[r], d, 1)), 0)[allowed]
        r, q = np.unravel_index(np.argmin(cost), cost.shape)
        if live[r][q]:
            w[r] -= w[r, q] / inverses[r][q, q] * inverses[r][:, q] * alive[r]
        inverses[r] = downdate(inverses[r], q)
        alive[r, q] = False
        w[r, q] = 0
    return alive, w


def downdate(inverse, q):
    inverse = inverse - np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    inverse[q], inverse[:, q] = 0, 0
    return inverse


def blocked(w, eligible, grams, damping, pruned, n, m, block):
    rows, cols = w.shape
    w, alive = np.where(eligible, w, 0).astype(np.float64), eligible.copy()
    each = rows // len(grams)
    us, live = [], []
    for gram in grams:
        h, l = hessian(gram, damping)
        us.append(np.linalg.cholesky(np.linalg.inv(h)).T)
        live.append(l)
    u = [us[r // each] for r in range(rows)]
    diagonal = np.array([np.diag(x) for x in u])
    known = np.array([live[r // each] for r in range(rows)])
    score = lambda w: np.where(known, w**2 / diagonal**2, 0)
    first = np.where(eligible, score(w), np.inf)
    goes = np.zeros(w.size, bool)
    goes[np.argsort(first, axis=None, kind="stable")[: pruned - (~eligible).sum()]] = True
    goes = goes.reshape(w.shape)
    for a in range(0, cols, block):
        b = min(a + block, cols)
        if not m:
            now = np.where(eligible, score(w), np.inf)[:, a:b]
            order = np.argsort(now, axis=None, kind="stable")[: goes[:, a:b].sum()]
            mask = alive[:, a:b].copy()
            mask[np.unravel_index(order, mask.shape)] = False
            alive[:, a:b] = mask
        errors = np.zeros((rows, b - a))
        for c in range(a, b):
            if m and (c - a) % m == 0 and c + m <= cols:
                for r in range(rows):
                    now = np.where(alive[r], score(w)[r], np.inf)[c : c + m]
                    take = max(0, m - n - (~alive[r, c : c + m]).sum())
                    alive[r, c + np.argsort(now, kind="stable")[:take]] = False
            errors[:, c - a] = np.where(alive[:, c], 0, w[:, c] / diagonal[:, c])
            for r in range(rows):
                w[r, c:b] -= errors[r, c - a] * u[r][c, c:b]
            w[~alive[:, c], c] = 0
        for r in range(rows):
            w[r, b:] -= errors[r] @ u[r][a:b, b:]
    return alive, w


def case(seed, name, form, rows, cols, share=0.6, groups=1, n=0, m=0, gone=0.0, dead=0, damping=0.01, block=128):
    g = np.random.default_rng(seed)
    grams = []
    for _ in range(groups):
        mix = g.normal(size=(cols, cols)) * (0.7 ** np.arange(cols))[:, None] + 0.3 * np.eye(cols)
        x = g.normal(size=(4 * cols, cols)) @ mix
        x[:, g.choice(cols, dead, replace=False)] = 0
        gram = (x.T @ x / len(x)).astype(np.float32)
        grams.append((gram + gram.T) / 2)
    w = g.normal(size=(rows, cols)).astype(np.float32)
    eligible = g.random((rows, cols)) >= gone
    if m:
        whole = cols // m * m
        lost = (~eligible[:, :whole]).reshape(rows, -1, m).sum(2)
        pruned = int(np.maximum(lost, m - n).sum() + (~eligible[:, whole:]).sum())
    else:
        pruned = int(share * rows * cols)
    if form == "exact":
        alive, new = exact(w, eligible, grams, damping, pruned, n, m)
    else:
        alive, new = blocked(w, eligible, grams, damping, pruned, n, m, block)
    assert (~alive).sum() == pruned and (new[~alive] == 0).all()
    flat = lambda a: [float(np.float32(x)) for x in np.asarray(a).ravel()]
    bits = lambda a: "".join("1" if x else "0" for x in a.ravel())
    return dict(name=name, form=form, rows=rows, cols=cols, groups=groups, n=n, m=m, damping=damping, block=block, pruned=pruned,
                weights=flat(w), eligible=bits(eligible), gram=flat(grams), kept=bits(alive), updated=flat(new.astype(np.float32)))


CASES = [
    case(1, "exact", "exact", 12, 20),
    case(2, "exact over pruned weights and dead inputs", "exact", 10, 17, gone=0.2, dead=3),
    case(3, "exact in groups", "exact", 12, 9, groups=3),
    case(4, "exact 2:4 with a tail", "exact", 8, 18, n=2, m=4, gone=0.1, dead=2),
    case(5, "blocked", "blocked", 16, 40, block=8),
    case(6, "blocked over pruned weights and dead inputs", "blocked", 16, 37, block=16, gone=0.2, dead=4),
    case(7, "blocked in groups", "blocked", 12, 18, groups=2, block=4),
    case(8, "blocked 2:4 with a tail", "blocked", 9, 30, n=2, m=4, block=8, gone=0.1, dead=2),
    case(9, "blocked, one block", "blocked", 10, 24, share=0.3),
]

if __name__ == "__main__":
    print("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]")
