"""The arithmetic of integers: types, grids, ranges."""
