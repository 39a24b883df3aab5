"""JSON as the standard has it: no NaN, no infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def dumps(value: object) -> str:
    """Indented JSON; numbers that are not finite become null.

    Args:
      value: mappings, lists, tuples, texts, numbers (NumPy's too), None.

    Examples:
      >>> print(dumps({"a": [1.5, math.inf]}).replace("\\n", ""))
      {  "a": [    1.5,    null  ]}
    """
    return json.dumps(_finite(value), indent=2) + "\n"


def _finite(value):
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
