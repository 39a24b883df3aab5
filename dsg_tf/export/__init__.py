"""Writes a prepared graph to a file and verifies the file."""
