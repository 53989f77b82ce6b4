"""Doubles that tests and benchmarks use."""
