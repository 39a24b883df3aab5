"""The report of a run: what was done, what came out, and whether it is good."""
