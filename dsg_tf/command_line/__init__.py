"""Flags, flagfiles and how a command ends. No TensorFlow."""
