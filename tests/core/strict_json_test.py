"""JSON without NaN and infinity."""

from __future__ import annotations

import json
import math

import numpy as np

from dsg_tf.core import strict_json


def test_json_is_strict():
    text = strict_json.dumps(
        {
            "a": [math.inf, -math.inf, math.nan, 1.5],
            "b": {"c": np.float32(0.5), "d": np.int64(3), "e": np.inf},
            "f": (np.float64("nan"), True, None, "x"),
        }
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(text, parse_constant=refuse) == {
        "a": [None, None, None, 1.5],
        "b": {"c": 0.5, "d": 3, "e": None},
        "f": [None, True, None, "x"],
    }
