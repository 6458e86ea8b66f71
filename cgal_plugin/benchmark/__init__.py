"""Benchmarks: arms and seeds run at equal oracle cost, statistics over them, and reference ensembles."""
