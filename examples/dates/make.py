#!/usr/bin/env python3
"""Makes everything in this folder: the dates, the trained model, the files of it, the expected figures.

    python make.py             # data, training, export, figures
    python make.py --figures   # the figures alone, from the files that are here

The model reads a date as people write it, character by character, and writes it as ISO 8601 does. It is the
encoder-decoder of Luong, Pham & Manning (EMNLP 2015, arXiv 1508.04025): two LSTM layers on each side, the decoder
starts from the encoder's last state, global attention with the "general" score, no input feeding.

One seed, one thread: the same machine and versions (requirements.txt) give the same files.
"""

import argparse
import datetime
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

HERE = Path(__file__).resolve().parent
SEED = 1
PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
BLANK = "▁"  # stands for the blank character in vocabularies, where a line must not look empty

HIDDEN = 64
SRC_LEN = 28  # characters and the end token, padded on the left
TGT_LEN = 11  # "2019-05-03" and begin or end
STEPS, BATCH, RATE, DROPOUT, CLIP = 6000, 128, 3e-3, 0.1, 1.0
EXAMPLES = {"train": 2000, "val": 500, "test": 400}


# The model


class Translator(nn.Module):
    """Also the architecture of larger translation models: only the sizes differ."""

    def __init__(self, src_vocab, tgt_vocab, hidden, dropout=0.0):
        super().__init__()
        self.src_embed = nn.Embedding(src_vocab, hidden, padding_idx=PAD)
        self.tgt_embed = nn.Embedding(tgt_vocab, hidden, padding_idx=PAD)
        self.encoder = nn.LSTM(hidden, hidden, 2, batch_first=True, dropout=dropout)
        self.decoder = nn.LSTM(hidden, hidden, 2, batch_first=True, dropout=dropout)
        self.attn = nn.Linear(hidden, hidden, bias=False)
        self.attn_combine = nn.Linear(2 * hidden, hidden)
        self.softmax = nn.Linear(hidden, tgt_vocab)
        self.dropout = nn.Dropout(dropout)
        # PyTorch's N(0, 1) would dwarf every other weight, and class-blind pruning would then spare
        # the embeddings alone.
        for embed in (self.src_embed, self.tgt_embed):
            nn.init.uniform_(embed.weight, -0.1, 0.1)
            embed.weight.data[PAD] = 0

    def forward(self, src, tgt_in):
        memory, last = self.encoder(self.dropout(self.src_embed(src)))
        h, _ = self.decoder(self.dropout(self.tgt_embed(tgt_in)), last)
        score = self.attn(h) @ memory.transpose(1, 2)
        weight = score.masked_fill((src == PAD).unsqueeze(1), -1e9).softmax(-1)
        attended = torch.tanh(self.attn_combine(torch.cat([weight @ memory, h], -1)))
        return self.softmax(self.dropout(attended))


CLASSES = {
    "source.embedding": ["src_embed.weight"],
    "target.embedding": ["tgt_embed.weight"],
    "source.layer1": ["encoder.weight_ih_l0", "encoder.weight_hh_l0"],
    "source.layer2": ["encoder.weight_ih_l1", "encoder.weight_hh_l1"],
    "target.layer1": ["decoder.weight_ih_l0", "decoder.weight_hh_l0"],
    "target.layer2": ["decoder.weight_ih_l1", "decoder.weight_hh_l1"],
    "attention": ["attn.weight", "attn_combine.weight"],
    "softmax": ["softmax.weight"],
}


# The data

MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)  # so that two digits name one year

# {d} day, {o} day with its ending, {D} two digits; {m}, {M} the month as number; {n} its name; {y} year, {s} two digits.
# Points and hyphens put the day first, unless a year of four digits stands in front. Slashes put the month first, except
# in 05/03/2019, which may be either: nobody can be right about all of those, nor about "Jn 5".
FORMS = [
    "{d} {n} {y}", "{o} {n} {y}", "{o} of {n} {y}", "{o} of {n}, {y}", "the {o} of {n} {y}", "the {o} of {n}, {y}",
    "{n} {d} {y}", "{n} {d}, {y}", "{n} {o} {y}", "{n} {o}, {y}", "{n} the {o}, {y}", "{n} the {o} {y}",
    "{d} {n} '{s}", "{n} {d} '{s}", "{n} {d}, '{s}", "{o} of {n} '{s}",
    "{m}/{d}/{y}", "{M}/{D}/{y}", "{m}/{d}/{s}", "{M}/{D}/{s}", "{D}/{M}/{y}",
    "{d}.{m}.{y}", "{D}.{M}.{y}", "{d}.{m}.{s}", "{D}.{M}.{s}", "{d}. {m}. {y}", "{D}-{M}-{y}", "{d}-{m}-{y}",
    "{y}.{m}.{d}", "{y}/{m}/{d}", "{y}/{M}/{D}", "{y}-{M}-{D}", "{y}-{m}-{d}", "{y}{M}{D}", "{y} {n} {d}", "{y}, {n} {d}",
    "{d}-{n}-{y}", "{D}-{n}-{s}", "{d}{n}{y}", "{d}. {n} {y}", "{d}/{n}/{y}",
]  # fmt: skip


def typo(rng, word):
    """One slip inside a word: the first letter is always right."""
    i = rng.randrange(1, len(word) - 1)
    slip = rng.randrange(4)
    if slip == 0:  # two letters change places
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if slip == 1:  # one is left out
        return word[:i] + word[i + 1 :]
    if slip == 2:  # one is doubled
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[i + 1 :]


def name(rng, full):
    """A month or weekday: whole, cut to three letters, with a point, or mistyped."""
    word = full if rng.random() < 0.5 else full[:3]
    kind = rng.random()
    if kind < 0.2:
        return typo(rng, word)
    return word + "." if kind < 0.3 and word != full else word


def ordinal(day):
    return f"{day}{'th' if day in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def write(rng, date):
    """`date` as somebody might write it."""
    text = rng.choice(FORMS).format(
        d=date.day, D=f"{date.day:02}", o=ordinal(date.day),
        m=date.month, M=f"{date.month:02}", n=name(rng, MONTHS[date.month - 1]),
        y=date.year, s=f"{date.year % 100:02}",
    )  # fmt: skip
    if rng.random() < 0.3:
        day = name(rng, DAYS[date.weekday()])
        text = rng.choice(["{0} {1}", "{0}, {1}", "{0} {1}", "{1} ({0})"]).format(day, text)
    case = rng.random()
    if case < 0.25:
        text = text.lower()
    elif case < 0.35:
        text = text.upper()
    if rng.random() < 0.05:
        text = text.replace(" ", "  ", 1)
    return text


def written(rng, dates):
    """One (text, ISO date) of a random date; what is too long for SRC_LEN is written anew."""
    while True:
        date = rng.choice(dates)
        text = write(rng, date)
        if len(text) < SRC_LEN:
            return text, date.isoformat()


def split_dates(rng):
    """The days of a hundred years: those for validation and test are never trained on, in any form."""
    days = [FIRST + datetime.timedelta(i) for i in range((LAST - FIRST).days + 1)]
    rng.shuffle(days)
    return {"val": days[:2000], "test": days[2000:4000], "train": days[4000:]}


def vocabularies():
    letters = "abcdefghijklmnopqrstuvwxyz"
    src = SPECIAL + [BLANK] + list("0123456789',-./()") + list(letters) + list(letters.upper())
    tgt = SPECIAL + list("0123456789-")
    return src, tgt


def ids(text, vocabulary):
    return [vocabulary.get(BLANK if c == " " else c, UNKNOWN) for c in text]


def tensors(pairs, src_ids, tgt_ids, width):
    """The three tensors that the graph's inputs and the loss want; `src` is padded on the left to `width`."""
    src = torch.full((len(pairs), width), PAD)
    tgt_in = torch.full((len(pairs), TGT_LEN), PAD)
    tgt_out = torch.full((len(pairs), TGT_LEN), PAD)
    for row, (text, iso) in enumerate(pairs):
        source, target = [*ids(text, src_ids), END], ids(iso, tgt_ids)
        src[row, width - len(source) :] = torch.tensor(source)
        tgt_in[row, : len(target) + 1] = torch.tensor([BEGIN, *target])
        tgt_out[row, : len(target) + 1] = torch.tensor([*target, END])
    return {"src": src, "tgt_in": tgt_in, "tgt_out": tgt_out}


def spaced(text):
    """The tokens with blanks between them: what BLEU without a tokeniser counts."""
    return " ".join(BLANK if c == " " else c for c in text)


def make_data():
    """Writes vocabularies and sets; gives what the training draws fresh examples with."""
    rng = random.Random(SEED)
    dates = split_dates(rng)
    src, tgt = vocabularies()
    (HERE / "vocab.src.txt").write_text("\n".join(src) + "\n")
    (HERE / "vocab.tgt.txt").write_text("\n".join(tgt) + "\n")
    src_ids, tgt_ids = ({token: i for i, token in enumerate(v)} for v in (src, tgt))
    sets = {}
    for part, count in EXAMPLES.items():
        pairs = {}
        while len(pairs) < count:  # by text: no example stands twice in a set
            pairs.update([written(rng, dates[part])])
        pairs = list(pairs.items())
        sets[part] = tensors(pairs, src_ids, tgt_ids, SRC_LEN)
        save_file(sets[part], HERE / f"{part}.safetensors")
        if part != "train":
            (HERE / f"{part}.src.txt").write_text("".join(f"{spaced(text)}\n" for text, _ in pairs))
            (HERE / f"{part}.ref.txt").write_text("".join(f"{spaced(iso)}\n" for _, iso in pairs))

    def draw(count):
        pairs = [written(rng, dates["train"]) for _ in range(count)]
        longest = max(len(text) for text, _ in pairs) + 1
        # Any width of padding, so that trimming it costs nothing later.
        return tensors(pairs, src_ids, tgt_ids, rng.randint(longest, SRC_LEN))

    return draw, sets, len(src), len(tgt)


# Training and measuring


def nll(model, data):
    """Summed negative log likelihood, tokens predicted, tokens right: pads left out."""
    logits = model(data["src"], data["tgt_in"]).flatten(0, 1)
    target = data["tgt_out"].flatten()
    loss = nn.functional.cross_entropy(logits, target, ignore_index=PAD, reduction="sum")
    real = target != PAD
    return loss, int(real.sum()), int((logits.argmax(-1)[real] == target[real]).sum())


def train(draw, sets, src_vocab, tgt_vocab):
    torch.manual_seed(SEED)
    model = Translator(src_vocab, tgt_vocab, HIDDEN, DROPOUT)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.05)
    start = time.time()
    for step in range(1, STEPS + 1):
        model.train()
        loss, tokens, _ = nll(model, draw(BATCH))
        optimiser.zero_grad()
        (loss / tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            model.eval()
            print(f"step {step}: {scores(model, sets['val'])}, {time.time() - start:.0f} s", flush=True)
    return model.eval()


@torch.no_grad()
def scores(model, data):
    loss, tokens, right = nll(model, data)
    loss = loss.double().item() / tokens
    return {"loss": loss, "perplexity": math.exp(loss), "accuracy": right / tokens, "tokens": tokens}


@torch.no_grad()
def greedy(model, src):
    """The best token at each step, the whole prefix read anew each time as the graph must."""
    tgt = torch.full((len(src), 1), BEGIN)
    for _ in range(TGT_LEN + 4):
        tgt = torch.cat([tgt, model(src, tgt)[:, -1:].argmax(-1)], 1)
    rows = [row.tolist()[1:] for row in tgt]
    return [row[: row.index(END)] if END in row else row for row in rows]


def translations(model, part, data):
    """Share of sentences that are right to the last character, and BLEU."""
    import sacrebleu

    tokens = (HERE / "vocab.tgt.txt").read_text().split("\n")
    ours = [" ".join(tokens[i] for i in row) for row in greedy(model, data["src"])]
    reference = (HERE / f"{part}.ref.txt").read_text().splitlines()
    exact = sum(a == b for a, b in zip(ours, reference, strict=True)) / len(ours)
    # `force`: the points are tokens, not ends of sentences.
    bleu = sacrebleu.corpus_bleu(ours, [reference], tokenize="none", force=True).score
    return {"exact_match": exact, "bleu": bleu}


def export(model, data):
    """model.safetensors and model.onnx, and a check that ONNX Runtime says what PyTorch says."""
    import onnx
    import onnxruntime

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, HERE / "model.safetensors")
    path = HERE / "model.onnx"
    export_onnx(model, data["src"][:2], data["tgt_in"][:2], path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    for rows, width in ((len(data["src"]), 0), (3, 4)):  # another batch and other lengths than at the export
        src, tgt_in = data["src"][:rows, width:], data["tgt_in"][:rows, : TGT_LEN - width]
        (theirs,) = session.run(["logits"], {"src": src.numpy(), "tgt_in": tgt_in.numpy()})
        with torch.no_grad():
            ours = model(src, tgt_in).numpy()
        worst = np.abs(ours - theirs).max()
        print(f"ONNX Runtime differs by {worst:.1e} at most")
        assert worst < 1e-5 * max(1, np.abs(ours).max())


def export_onnx(model, src, tgt_in, path):
    torch.onnx.export(
        model, (src, tgt_in), path, dynamo=False, opset_version=17, do_constant_folding=True,
        input_names=["src", "tgt_in"], output_names=["logits"],
        dynamic_axes={
            "src": {0: "batch", 1: "src_len"},
            "tgt_in": {0: "batch", 1: "tgt_len"},
            "logits": {0: "batch", 1: "tgt_len"},
        },
    )  # fmt: skip


# What a correct pruner must find

AMOUNTS = (20, 40, 60, 80, 90)


def lowest(score, percent):
    """A mask of the floor(x·N + 1/2) lowest scores, and the lowest score that is kept."""
    count = (percent * score.size + 50) // 100
    order = np.argsort(score, kind="stable")
    cut = np.zeros(score.size, bool)
    cut[order[:count]] = True
    assert score[order[count - 1]] < score[order[count]], "a tie at the cut: the counts would hang on the order of files"
    return cut, float(score[order[count]])


def cuts(weights, scheme, percent, real=np.float64):
    """Per class the mask of what goes, and λ where the scheme has one (See, Luong & Manning 2016, section 3.2)."""
    sigma = {c: w.astype(real).std(dtype=real) for c, w in weights.items()}
    score = {c: np.abs(w.astype(real)) / (sigma[c] if scheme == "class-distribution" else real(1)) for c, w in weights.items()}
    if scheme == "class-uniform":
        return {c: lowest(s, percent)[0] for c, s in score.items()}, None
    cut, first_kept = lowest(np.concatenate(list(score.values())), percent)
    ends = np.cumsum([s.size for s in score.values()])[:-1]
    return dict(zip(score, np.split(cut, ends), strict=True)), first_kept


def pruned(state, scheme, percent):
    """The weights with the lowest set to zero, and what went from each class."""
    weights = {c: np.concatenate([state[t].numpy().ravel() for t in names]) for c, names in CLASSES.items()}
    cut, first_kept = cuts(weights, scheme, percent)
    single, _ = cuts(weights, scheme, percent, np.float32)
    assert all(np.array_equal(cut[c], single[c]) for c in cut), "the choice hangs on the precision of the scores"
    after = dict(state)
    for c, names in CLASSES.items():
        ends = np.cumsum([state[t].numel() for t in names])[:-1]
        for t, gone in zip(names, np.split(cut[c], ends), strict=True):
            after[t] = state[t].masked_fill(torch.from_numpy(gone).view(state[t].shape), 0)
    return after, {c: int(gone.sum()) for c, gone in cut.items()}, first_kept


def figures():
    """Writes expected.json from the files that are here, and prints the tables of README.md."""
    state = load_file(HERE / "model.safetensors")
    model = Translator(*(state[f"{s}_embed.weight"].shape[0] for s in ("src", "tgt")), HIDDEN).eval()
    model.load_state_dict(state)
    sets = {part: load_file(HERE / f"{part}.safetensors") for part in EXAMPLES}
    expected = {"weights": 0, "classes": {}, "dense": {}, "pruned": []}
    for c, names in CLASSES.items():
        w = np.concatenate([state[t].numpy().ravel() for t in names])
        expected["weights"] += w.size
        expected["classes"][c] = {"weights": w.size, "zeros": int((w == 0).sum()), "sigma": float(w.std(dtype=np.float64))}
    for part in ("val", "test"):
        expected["dense"][part] = scores(model, sets[part]) | translations(model, part, sets[part])
        print(part, expected["dense"][part])
    expected["dense"]["train"] = scores(model, sets["train"])
    print("| pruned | class-blind | class-uniform | class-distribution (λ) |\n|---|---|---|---|")
    for percent in AMOUNTS:
        row = f"| {percent} % |"
        for scheme in ("class-blind", "class-uniform", "class-distribution"):
            after, gone, first_kept = pruned(state, scheme, percent)
            model.load_state_dict(after)
            result = {"scheme": scheme, "amount": f"{percent}%", "pruned": sum(gone.values()), "classes": gone}
            if first_kept is not None:
                result["lowest_kept"] = first_kept
            result |= {k: v for k, v in scores(model, sets["val"]).items() if k in ("loss", "perplexity", "accuracy")}
            expected["pruned"].append(result)
            spread = f" ({first_kept:.4f})" if scheme == "class-distribution" else ""
            row += f" {result['perplexity']:.4f}{spread} |"
        print(row)
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--figures", action="store_true", help="only measure the files that are here")
    only_figures = parser.parse_args().figures
    torch.set_num_threads(1)
    if not only_figures:
        draw, sets, src_vocab, tgt_vocab = make_data()
        export(train(draw, sets, src_vocab, tgt_vocab), sets["val"])
    figures()


if __name__ == "__main__":
    main()
