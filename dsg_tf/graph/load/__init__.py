"""Loads a model as a frozen graph; runs no code from a file unasked."""
