"""``cgal-train``: ``torchmd-train`` with the model, priors and data set of this package registered."""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> None:
    """Register with TorchMD-Net and run its training script with the same arguments.

    Errors of this package are one message and exit code 2 (settings) or 1.

    This is a separate script, not a ``cgal`` command, because Lightning's DDP starts the other ranks by
    running ``sys.argv`` again.
    """
    from cgal_plugin import register
    from cgal_plugin.errors import CGALError, ConfigError

    atexit.register(gc.freeze)  # as in the ``cgal`` command
    try:
        register()
        from torchmdnet.scripts.train import main as torchmd_train

        torchmd_train()
    except CGALError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from error


if __name__ == "__main__":
    main()
