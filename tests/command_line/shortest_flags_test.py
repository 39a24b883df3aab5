"""A config as the fewest flags that ask for it."""

from __future__ import annotations

import pytest

from dsg_tf.command_line import quantize_flags
from dsg_tf.config import needs, run_config

_LINES = [
    [],
    ["--weight_bits=4"],
    ["--weight_bits=4", "--packed"],
    ["--granularity=tensor"],
    ["--recipe=best", "--activation_bits=16", "--nofloat_edges"],
    ["--method=zeroq", "--synthesis=mirror=true", "--input_range=0,1"],
    ["--method=noise", "--samples=a b.npz", "--min_sqnr_db=3"],
    ["--input_shape=a=2,3", "--input_shape=b=4,5", "--output_names=x,y"],
    ["--num_samples=64", "--batch_size=32", "--steps=300", "--seed=2"],
    ["--noresume", "--weight_bits=3", "--recipe=fast", "--verify_samples=5"],
]


@pytest.mark.parametrize("lines", _LINES, ids=" ".join)
def test_they_ask_for_the_same_config_and_are_no_more(lines):
    config = needs.complete(quantize_flags.parse(lines))
    found = quantize_flags.shortest(config)
    assert needs.complete(quantize_flags.parse(found)) == config
    assert len(found) <= len(lines)


def test_what_no_flag_can_say_is_no_error():
    config = run_config.PipelineConfig(output_names=("a,b",))
    assert "--output_names=a,b" in quantize_flags.shortest(config)
