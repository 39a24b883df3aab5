"""Malformed, hostile and unlucky inputs, tried on every command.

`python -m tools.faults` runs them; docs/explanation/reliability.md has what
comes of it.
"""

import os

# Before NumPy is imported: threads of its linear algebra do not live through
# a fork.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
