"""Active learning of coarse-grained neural potentials.

Importing this package is light: nothing is registered, set or loaded until it is asked for.

A folder imports only from folders later in this list: ``cli``, ``benchmark``, ``driver`` (the loop),
``reporting``, ``exchange`` (data of other programs), ``components`` (roles, checks, built-in components),
physics (``refinement``, ``dynamics``, ``export``, ``oracle``, ``selector``, ``training``), ``runs``,
``analysis``, ``models``, ``priors``, ``data``, ``mapping``, ``execution``, ``config``.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "register"]


def register() -> None:
    """Add ``model: cgschnet``, the priors and ``dataset: CGDataset`` of this package to TorchMD-Net.

    A second call has no effect.

    Raises
    ------
    RegistrationError
        TorchMD-Net is missing or not of the 3.1 series, its internals differ from those expected, or a
        name is already used.
    """
    from cgal_plugin._register import register as _register

    _register()
