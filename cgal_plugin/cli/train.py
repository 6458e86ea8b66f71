"""``cgal-train``: ``torchmd-train`` with the model, priors and data set of this package registered."""

from __future__ import annotations

import sys


def main() -> None:
    """Register with TorchMD-Net and run its training script with the same arguments.

    This is a separate script, not a ``cgal`` command, because Lightning's DDP starts the other ranks by
    running ``sys.argv`` again.
    """
    from cgal_plugin import register
    from cgal_plugin.errors import CGALError

    register()
    from torchmdnet.scripts.train import main as torchmd_train

    try:
        torchmd_train()
    except CGALError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
