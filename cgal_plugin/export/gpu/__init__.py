"""Warp kernels of :class:`cgal_plugin.export.gpu.potential.GPUPotential`, for NVIDIA GPUs."""
