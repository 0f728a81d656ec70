"""Benchmarks, one file per cost. README.md has the method and the results."""
