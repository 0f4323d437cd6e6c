"""Benchmarks: what the parts cost, each a module that prints a table."""
