"""Makes the digits example: drawn digits, and a small CNN that reads them. python make.py (PyTorch, numpy, safetensors, onnx)

Images are 16 × 16 bytes: a 5 × 7 bitmap font, turned, stretched, shifted, with noise. Everything is made from seed 1.
"""

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

FONT = """
01110 00100 01110 11111 00010 11111 00110 11111 01110 01110
10001 01100 10001 00010 00110 10000 01000 00001 10001 10001
10011 00100 00001 00100 01010 11110 10000 00010 10001 10001
10101 00100 00010 00010 10010 00001 11110 00100 01110 01111
11001 00100 00100 00001 11111 00001 10001 01000 10001 00001
10001 00100 01000 10001 00010 10001 10001 01000 10001 00010
01110 01110 11111 01110 00010 01110 01110 01000 01110 01100
"""
ROWS = [row.split() for row in FONT.strip().splitlines()]
GLYPHS = np.array([[[int(c) for c in row[d]] for row in ROWS] for d in range(10)], dtype=np.float64)


def draw(random, digit):
    angle, size = random.normal(0, 0.2), random.uniform(1.3, 2.0, 2)
    shift = random.uniform(-2, 2, 2)
    y, x = np.mgrid[0:16, 0:16] - 7.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    v, u = np.tensordot(turn, [y - shift[0], x - shift[1]], 1)
    v, u = v / size[0] + 3, u / size[1] + 2
    rows, cols = np.floor(v).astype(int), np.floor(u).astype(int)
    glyph = np.pad(GLYPHS[digit], 1)
    at = lambda r, c: glyph[np.clip(r + 1, 0, 8), np.clip(c + 1, 0, 6)]
    fy, fx = v - rows, u - cols
    image = (at(rows, cols) * (1 - fx) + at(rows, cols + 1) * fx) * (1 - fy)
    image += (at(rows + 1, cols) * (1 - fx) + at(rows + 1, cols + 1) * fx) * fy
    image = image * random.uniform(0.5, 1) + random.normal(0, 0.15, (16, 16))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def examples(random, count):
    labels = random.integers(0, 10, count)
    return {"image": np.stack([draw(random, d) for d in labels])[:, None], "label": labels.astype(np.uint8)}


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )

    def forward(self, image):
        return self.layers(image / 255)


def main():
    random = np.random.default_rng(1)
    data = {name: examples(random, count) for name, count in (("train", 2200), ("val", 500), ("test", 500))}
    for name, tensors in data.items():
        save_file(tensors, f"{name}.safetensors")
    torch.manual_seed(1)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    image = torch.tensor(data["train"]["image"]).float()
    label = torch.tensor(data["train"]["label"]).long()
    for _ in range(8):
        for rows in torch.randperm(len(label)).split(50):
            loss = nn.functional.cross_entropy(model(image[rows]), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        for name in ("val", "test"):
            guess = model(torch.tensor(data[name]["image"]).float()).argmax(1).numpy()
            print(name, (guess == data[name]["label"]).mean())
    torch.onnx.export(
        model, (image[:2],), "model.onnx", dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )


main()
