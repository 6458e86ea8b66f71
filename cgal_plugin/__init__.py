"""Active learning of coarse-grained neural potentials.

Importing this package is light: nothing is registered, set or loaded until it is asked for.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "register"]


def register() -> None:
    """Make ``model: cgschnet``, our priors and ``dataset: CGDataset`` known to TorchMD-Net.

    Idempotent.

    Raises
    ------
    RegistrationError
        TorchMD-Net is not of the 3.1 series, a seam is not where it is expected, or a name is taken.
    """
    from cgal_plugin._register import register as _register

    _register()
