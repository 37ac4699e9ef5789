"""A data-parallel trainer for the dates model, to be run as a command of a recipe:

retrain = { command = ["torchrun", "--nproc-per-node", "2", "examples/pytorch/train.py", "{weights}", "{mask}", "{output}"] }

Reads {weights}, holds {mask}, writes {output}: safetensors with the same names. Prints a JSON line an epoch.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from hold_masks import hold
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

DATES = Path(os.environ.get("DATES", Path(__file__).parent.parent / "dates"))
EPOCHS = int(os.environ.get("EPOCHS", "1"))


class Model(nn.Module):
    """Luong et al. 2015, as examples/dates/make.py has it."""

    def __init__(self, src, tgt, h):
        super().__init__()
        self.src_embed, self.tgt_embed = nn.Embedding(src, h), nn.Embedding(tgt, h)
        self.encoder, self.decoder = (nn.LSTM(h, h, 2, batch_first=True) for _ in range(2))
        self.attn, self.attn_combine = nn.Linear(h, h, bias=False), nn.Linear(2 * h, h)
        self.softmax = nn.Linear(h, tgt)

    def forward(self, src, tgt_in):
        enc, state = self.encoder(self.src_embed(src))
        dec, _ = self.decoder(self.tgt_embed(tgt_in), state)
        scores = (self.attn(dec) @ enc.transpose(1, 2)).masked_fill((src == 0)[:, None], -1e9)
        out = torch.cat([scores.softmax(-1) @ enc, dec], -1)
        return self.softmax(torch.tanh(self.attn_combine(out)))


def main(weights, mask, output):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    state = load_file(weights)
    model = Model(len(state["src_embed.weight"]), len(state["tgt_embed.weight"]), state["attn.weight"].shape[0])
    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    hold(model, mask, optimizer)
    parallel = DistributedDataParallel(model)
    data = load_file(DATES / "train.safetensors")
    for epoch in range(EPOCHS):
        order = torch.randperm(len(data["src"]), generator=torch.Generator().manual_seed(epoch))
        losses = []
        for rows in order.split(64)[: len(order) // 64]:
            mine = rows[rank::world]
            logits = parallel(data["src"][mine], data["tgt_in"][mine])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), data["tgt_out"][mine].flatten(), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        if rank == 0:
            print(json.dumps({"epoch": epoch + 1, "metrics": {"train_loss": sum(losses) / len(losses)}}), flush=True)
    if rank == 0:
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:4])
