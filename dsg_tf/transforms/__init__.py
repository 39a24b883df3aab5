"""Quantization techniques as passes over a graph, one technique a module.

Each is `Graph -> (Graph, PassReport)`, usable alone and in any order; none
imports another.
"""
