"""Learned rounding in PyTorch, by autograd, of layers of given shapes.

    python benchmarks/peers/adaround.py SHAPES.json STEPS BATCH_ROWS

SHAPES is a list of [groups, rows, inputs, outputs a group]. Prints the seconds
that all of them take. Values are random: time does not depend on them. Loss
and schedule as in Nagel et al., ICML 2020, sections 3.3 to 3.5.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import torch


def learn(shape, steps: int, batch_rows: int) -> None:
    """Learns the rounding of one layer."""
    groups, rows, ins, outs = shape
    x = torch.randn(groups, rows, ins)
    kernel = torch.randn(groups, ins, outs)
    wanted = torch.clip(x @ kernel, 0.0, 6.0)
    scale = kernel.abs().amax(1, keepdim=True) / 7
    floor = torch.floor(kernel / scale)
    rest = (kernel / scale - floor).clip(0.01, 0.99)
    v = (-torch.log(1.2 / (rest + 0.1) - 1)).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=0.05)
    warm = 0.2 * steps
    for step in range(steps):
        picked = torch.randint(0, rows, (min(batch_rows, rows),))
        optimizer.zero_grad()
        h = torch.clip(1.2 * torch.sigmoid(v) - 0.1, 0.0, 1.0)
        weights = scale * torch.clip(floor + h, -7, 7)
        output = torch.clip(x[:, picked] @ weights, 0.0, 6.0)
        loss = (output - wanted[:, picked]).square().mean(1).sum()
        if step > warm:
            done = torch.tensor((step - warm) / (steps - warm))
            beta = 2 + 18 * 0.5 * (1 + torch.cos(torch.pi * done))
            loss = loss + (1 - (2 * h - 1).abs().pow(beta)).mean()
        loss.backward()
        optimizer.step()


def main() -> None:
    torch.manual_seed(0)
    shapes = json.loads(pathlib.Path(sys.argv[1]).read_text())
    start = time.perf_counter()
    for shape in shapes:
        learn(shape, int(sys.argv[2]), int(sys.argv[3]))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
