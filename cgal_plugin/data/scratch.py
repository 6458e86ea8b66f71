"""Arrays on disk that are written piece by piece and read like arrays in memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ScratchFile:
    """An array ``(n, 3)`` in a file without a name, which ends with the process.

    Parameters
    ----------
    folder
        Folder of the file; the system's folder for temporary files if it cannot be written. The latter may be
        in memory.
    dtype
        Type of the values.
    """

    def __init__(self, folder: Path | None, dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        usable = folder is not None and os.access(folder, os.W_OK)
        # open as long as the array is used
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder if usable else None)  # noqa: SIM115
        self._rows = 0

    def append(self, values: NDArray[np.floating]) -> slice:
        """Write ``(..., 3)`` at the end; return the rows."""
        flat = np.ascontiguousarray(values, dtype=self.dtype).reshape(-1, 3)
        flat.tofile(self._file)
        first, self._rows = self._rows, self._rows + len(flat)
        return slice(first, self._rows)

    def array(self) -> NDArray[Any]:
        """Return all rows, and close the file; pages that were read can be dropped from memory again."""
        with self._file as file:
            file.flush()
            if self._rows == 0:
                return np.empty((0, 3), dtype=self.dtype)
            # the map keeps the file open for itself
            return np.memmap(file, dtype=self.dtype, mode="r+", shape=(self._rows, 3))
