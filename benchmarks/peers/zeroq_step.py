"""Steps of data-free synthesis in PyTorch, as ZeroQ's users write them.

    python benchmarks/peers/zeroq_step.py mobilenet|mobilenet_v2|resnet20

Prints image-steps per second. Weights are random: the time of a step does not
depend on them. Loss: squared distances of the mean and deviation of each BN
layer's input from the layer's own, by hooks; Adam on the images (Cai et al.,
"ZeroQ", CVPR 2020, section 3.1).
"""

from __future__ import annotations

import sys
import time

import torch
from torch import nn

_BATCH, _WARM, _SECONDS, _TURNS = 8, 3, 4.0, 3


def _conv(ins, outs, size, stride=1, groups=1, activation=nn.ReLU6):
    layers = [
        nn.Conv2d(
            ins, outs, size, stride, size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outs),
    ]
    return layers + ([activation()] if activation else [])


def _mobilenet() -> tuple[nn.Module, int]:
    """MobileNetV1 0.25, 224 x 224."""
    layers, ins = _conv(3, 8, 3, 2), 8
    for outs, stride in (
        *((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)),
        *([(128, 1)] * 5),
        *((256, 2), (256, 1)),
    ):
        layers += _conv(ins, ins, 3, stride, ins) + _conv(ins, outs, 1)
        ins = outs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ins, 1000)]
    return nn.Sequential(*layers, *head), 224


class _Sum(nn.Module):
    """A block with a way around it."""

    def __init__(self, block, around=None, after=None):
        super().__init__()
        self.block = nn.Sequential(*block)
        self.around = around or nn.Identity()
        self.after = after or nn.Identity()

    def forward(self, x):
        return self.after(self.block(x) + self.around(x))


def _mobilenet_v2() -> tuple[nn.Module, int]:
    layers, ins = _conv(3, 32, 3, 2), 32
    for expand, outs, count, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for number in range(count):
            step = stride if number == 0 else 1
            wide = ins * expand
            block = _conv(ins, wide, 1) if expand > 1 else []
            block += _conv(wide, wide, 3, step, wide)
            block += _conv(wide, outs, 1, activation=None)
            same = step == 1 and ins == outs
            layers.append(_Sum(block) if same else nn.Sequential(*block))
            ins = outs
    layers += _conv(ins, 1280, 1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *head), 224


def _resnet20() -> tuple[nn.Module, int]:
    layers, ins = _conv(3, 16, 3, activation=nn.ReLU), 16
    for outs in (16, 32, 64):
        for number in range(3):
            stride = 2 if number == 0 and outs > 16 else 1
            block = _conv(ins, outs, 3, stride, activation=nn.ReLU)
            block += _conv(outs, outs, 3, activation=None)
            around = None
            if ins != outs:
                around = nn.Sequential(*_conv(ins, outs, 1, stride, 1, None))
            layers.append(_Sum(block, around, nn.ReLU()))
            ins = outs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head), 32


_MODELS = {
    "mobilenet": _mobilenet,
    "mobilenet_v2": _mobilenet_v2,
    "resnet20": _resnet20,
}


def main() -> None:
    torch.manual_seed(0)
    model, size = _MODELS[sys.argv[1]]()
    model.eval()
    seen: list[torch.Tensor] = []
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    images = torch.randn(_BATCH, 3, size, size, requires_grad=True)
    optimizer = torch.optim.Adam([images], lr=0.5)

    def step() -> None:
        seen.clear()
        optimizer.zero_grad()
        model(images)
        loss = torch.zeros(())
        for norm, x in zip(norms, seen, strict=True):
            mean = x.mean((0, 2, 3))
            deviation = torch.sqrt(x.var((0, 2, 3), unbiased=False) + 1e-6)
            wanted = torch.sqrt(norm.running_var + 1e-6)
            loss = loss + (mean - norm.running_mean).square().sum()
            loss = loss + (deviation - wanted).square().sum()
        loss.backward()
        optimizer.step()

    for _ in range(_WARM):
        step()
    rates = []
    for _ in range(_TURNS):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < _SECONDS:
            step()
            count += 1
        rates.append(_BATCH * count / (time.perf_counter() - start))
    print(sorted(rates)[_TURNS // 2])


if __name__ == "__main__":
    main()
