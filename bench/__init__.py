"""Benchmarks of gloria_ops beside the code that people run today."""
