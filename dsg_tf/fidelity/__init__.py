"""Compares a quantized model with the float model, and judges it."""
