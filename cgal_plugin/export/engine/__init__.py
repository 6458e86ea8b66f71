"""Compiled CPU kernels of :class:`cgal_plugin.export.fast.FastPotential` (need numba)."""
