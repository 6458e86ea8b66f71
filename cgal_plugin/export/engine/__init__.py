"""The compiled CPU kernels behind :class:`cgal_plugin.export.fast.FastPotential` (needs numba)."""
