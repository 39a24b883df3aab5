"""Malformed, hostile and unlucky inputs, tried on every command.

`python -m tools.faults` runs them; docs/reliability.md has what comes of it.
"""
