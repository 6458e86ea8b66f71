"""``cgal-train``: ``torchmd-train`` with our model, priors and data set registered."""

from __future__ import annotations


def main() -> None:
    """Register with TorchMD-Net and run its own training script on the same command line.

    It stays a script of its own: Lightning's DDP starts the other ranks by running ``sys.argv``
    again, so every word of it must mean the same the second time.
    """
    from cgal_plugin import register

    register()
    from torchmdnet.scripts.train import main as torchmd_train

    torchmd_train()


if __name__ == "__main__":
    main()
