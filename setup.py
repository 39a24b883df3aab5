"""Metadata lives in pyproject.toml; this file serves old tools."""

from setuptools import setup

setup()
