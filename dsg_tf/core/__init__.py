"""Foundations: errors, files, progress, signals. No TensorFlow."""
