"""Batches of a data set for training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader, Subset
from torch.utils.data import Dataset as TorchDataset
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader as GraphLoader

from cgal_plugin.data.dataset import CGDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Rows(TorchDataset[Data]):
    """Some items of a :class:`CGDataset`, without a tensor operation for each index."""

    def __init__(self, dataset: CGDataset, rows: NDArray[np.int64]) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Data:
        return self.dataset[int(self.rows[index])]

    def __getitems__(self, indices: list[int]) -> list[Data]:
        return self.dataset.__getitems__(self.rows[np.asarray(indices, dtype=np.int64)])


def batch_loader(dataset: Any, **options: Any) -> DataLoader[Data]:
    """Return a loader of batches for a data set or a ``Subset`` of one.

    The whole batches of a :class:`CGDataset` with ``prebatch`` are passed on unchanged. Any other data set
    uses PyG's loader, which joins single items.

    Parameters
    ----------
    **options
        Options of ``torch.utils.data.DataLoader``, such as ``batch_size``, ``sampler`` and ``num_workers``.
    """
    whole = dataset.dataset if isinstance(dataset, Subset) else dataset
    if not isinstance(whole, CGDataset) or not whole.prebatch:
        loader: DataLoader[Data] = GraphLoader(dataset, **options)
        return loader
    rows = dataset.indices if isinstance(dataset, Subset) else np.arange(len(whole))
    return DataLoader(_Rows(whole, np.asarray(rows, dtype=np.int64)), collate_fn=_only, **options)


def _only(batches: list[Data]) -> Data:
    (batch,) = batches
    return batch
