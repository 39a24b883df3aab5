"""What the tables of the DSG paper say, to stand beside ours.

References:
  Zhang, Qin et al., "Diversifying Sample Generation for Accurate Data-Free
  Quantization" (DSG), CVPR 2021, Tables 1 to 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# (bits of weights, bits of activations); 32 is float.
Widths = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
      title: what it is about.
      model: the paper's model and data.
      float_top1: of that model, percent; None where we know it not.
      top1: percent, by widths and method (`real`, `zeroq`, `dsg`).
    """

    title: str
    model: str
    float_top1: float | None
    top1: Mapping[Widths, Mapping[str, float]]

    def drop(self, widths: Widths, method: str) -> float | None:
        """Points below float; None where the paper does not tell.

        Example:
          >>> round(TABLES[1].drop((4, 4), "dsg"), 2)
          6.33
        """
        found = self.top1.get(widths, {}).get(method)
        if found is None or self.float_top1 is None:
            return None
        return self.float_top1 - found


def _row(real: float, zeroq: float, dsg: float) -> dict[str, float]:
    return {"real": real, "zeroq": zeroq, "dsg": dsg}


TABLES: Mapping[int, Table] = {
    1: Table(
        "samples alone",
        "ResNet-20, CIFAR-10",
        94.08,
        {
            (4, 4): _row(87.38, 85.39, 87.75),
            (6, 6): _row(93.80, 93.33, 93.79),
            (8, 8): _row(93.95, 93.94, 94.07),
        },
    ),
    2: Table(
        "samples alone",
        "VGG16-bn, CIFAR-10",
        93.86,
        {
            (4, 4): _row(92.50, 91.79, 92.89),
            (6, 6): _row(93.48, 93.45, 93.68),
            (8, 8): _row(93.59, 93.53, 93.61),
        },
    ),
    3: Table(
        "DFQ, one scale a tensor",
        "ResNet-18, ImageNet",
        69.76,
        {
            (6, 6): _row(59.16, 58.12, 58.69),
            (8, 8): _row(69.22, 65.75, 68.88),
        },
    ),
    4: Table(
        "AdaRound, weights alone; labels and image prior",
        "MobileNetV2, ImageNet",
        None,
        {
            (3, 32): _row(58.13, 11.07, 45.40),
            (4, 32): _row(68.37, 56.16, 58.13),
        },
    ),
    5: Table(
        "AdaRound",
        "ResNet-18, ImageNet",
        None,
        {(4, 8): _row(68.24, 56.34, 62.40)},
    ),
}
