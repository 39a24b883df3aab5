"""Ranges of activations, from samples and from BatchNorm."""
