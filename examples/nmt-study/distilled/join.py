"""Sequence-level knowledge distillation (Kim & Rush 2016): the training pairs, and each source once more with the teacher's
translation in place of the reference.

    python3 join.py DATA TRANSLATIONS OUTPUT [ALONE]        # DATA: the folder with train.safetensors and vocab.de.txt

OUTPUT has both, ALONE the translations only.

TRANSLATIONS is what `compress evaluate teacher.toml --translations` wrote, a sentence a line in the order of the data.
Needs numpy and safetensors.
"""

import sys

import numpy as np
from safetensors.numpy import load_file, save_file

BEGIN, END, UNKNOWN = 1, 2, 3


def main(data, translations, output, alone=None):
    train = load_file(f"{data}/train.safetensors")
    with open(f"{data}/vocab.de.txt", encoding="utf-8") as file:
        number = {word.rstrip("\n"): i for i, word in enumerate(file)}
    with open(translations, encoding="utf-8") as file:
        sentences = [[number.get(word, UNKNOWN) for word in line.split()] for line in file]
    count, width = train["tgt_in"].shape
    if len(sentences) != count:
        sys.exit(f"{translations} has {len(sentences)} lines for {count} examples")
    inputs, outputs = train["tgt_in"].copy(), train["tgt_out"].copy()
    for i, ids in enumerate(sentences):
        ids = ids[: width - 1]
        if ids:  # a teacher that had nothing to say leaves the reference
            inputs[i], outputs[i] = 0, 0
            inputs[i, : len(ids) + 1] = [BEGIN, *ids]
            outputs[i, : len(ids) + 1] = [*ids, END]
    changed = int((outputs != train["tgt_out"]).any(axis=1).sum())
    print(f"{changed} of {count} translations differ from the reference")
    both = lambda a, b: np.concatenate([a, b])
    pairs = {"src": both(train["src"], train["src"]), "tgt_in": both(train["tgt_in"], inputs)}
    save_file({**pairs, "tgt_out": both(train["tgt_out"], outputs)}, output)
    if alone:
        save_file({"src": train["src"], "tgt_in": inputs, "tgt_out": outputs}, alone)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
