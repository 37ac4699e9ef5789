#!/usr/bin/env python3
"""Compares packed files, as docs/packed_safetensors.py reads them, with their dense twins as safetensors reads them.

The arguments are pairs of files. Equal to the last bit, except that a NaN is compared as NaN.
"""

import sys

import ml_dtypes  # noqa: F401
import numpy as np
from packed_safetensors import read
from safetensors.numpy import load_file

for packed, dense in zip(sys.argv[1::2], sys.argv[2::2]):
    small, plain = read(packed), load_file(dense)
    assert small.keys() == plain.keys(), packed
    for name, want in plain.items():
        got = small[name]
        assert got.dtype == want.dtype and got.shape == want.shape, (packed, name, got.dtype, want.dtype)
        same = (got.view(np.uint8) == want.view(np.uint8)).all()
        assert same, (packed, name, got.ravel()[:4], want.ravel()[:4])
