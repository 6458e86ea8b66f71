"""Benchmarks: arms and seeds at equal oracle cost, statistics over them, and reference ensembles."""
