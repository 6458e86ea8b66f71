"""Processes that compute chunks of a batch for :mod:`cgal_plugin.training.chunked`.

Threads would not do: a training step consists of many small operations, between which Python holds its lock.
A helper gets the weights and its chunks, and returns gradients; it keeps nothing from one batch to the next.
Until it has started, if it is late, and if it is lost, the training process computes the chunks itself.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import torch
from torch import nn

from cgal_plugin._warp import load_warp
from cgal_plugin.errors import CGALWarning
from cgal_plugin.training.chunks import Gradient, Loss, Part, chunk_gradient

#: time to wait for a helper, relative to the time that this process needed for its own chunks
_PATIENCE = 0.5
#: s after which a helper without work ends
_IDLE = 3600.0
_READY = "ready"


class Helper:
    """One process. It ends when this process closes the connection or dies."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            # -P: a file of the working directory does not replace a module
            [sys.executable, "-P", "-m", "cgal_plugin.training.helpers", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # the training process decides what Ctrl-C means, also while this one imports its modules
            process_group=0,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self._models: SimpleQueue[Any] = SimpleQueue()
        self._sender = threading.Thread(
            target=_send_all, args=(self.connection, self._models), name="cgal-helper", daemon=True
        )
        self._sender.start()
        self.due = 0  # answers that were not received yet

    def set_up(self, model: bytes, loss: Loss) -> None:
        """Send a saved model without waiting; the helper is free when it has received it.

        A helper that starts, or that sends a late answer, reads nothing, and a model does not fit into the
        buffer of the connection.
        """
        self._models.put((model, loss))
        self.due += 1

    def is_free(self) -> bool:
        """Return whether the helper has started and has finished its work; late answers are dropped."""
        while self.due and self.connection.poll():
            self.connection.recv()
            self.due -= 1
        return self.due == 0

    def send(self, weights: Any, parts: Sequence[tuple[Part, int]]) -> None:
        """Send weights ``(n,)`` and chunks, with the number of beads of the batch of each."""
        plain = [({k: v.numpy() for k, v in part.items()}, total) for part, total in parts]
        self.connection.send((weights, plain))
        self.due += 1

    def receive(self, seconds: float) -> list[Gradient] | None:
        """Return the gradients of the chunks; None if they could not be computed or are late."""
        if not self.connection.poll(seconds):
            return None
        answer = self.connection.recv()
        self.due -= 1
        if answer is None:
            return None
        return [
            Gradient(torch.from_numpy(loss), tuple(None if g is None else torch.from_numpy(g) for g in parts))
            for loss, parts in answer
        ]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self._models.put(None)
        self._sender.join()
        self.connection.close()


def _send_all(connection: Connection, models: SimpleQueue[Any]) -> None:
    """Send what comes until None, or until the process at the other end has ended."""
    with contextlib.suppress(OSError):
        while (model := models.get()) is not None:
            connection.send(model)


#: helpers without a training; they end with this process, or after some time
_idle: list[Helper] = []


def start_early(n: int) -> None:
    """Start ``n`` helpers for a later training: they import torch while this process prepares a run."""
    _idle.extend(Helper() for _ in range(n - len(_idle)))


def end_idle() -> None:
    """End the helpers that no training uses."""
    while _idle:
        _idle.pop().close()


atexit.register(end_idle)


class Helpers:
    """Helpers of one training, by which a batch is divided.

    Parameters
    ----------
    n
        Number of processes.
    """

    def __init__(self, n: int) -> None:
        for helper in list(_idle):
            if helper.process.poll() is not None:
                helper.close()
                _idle.remove(helper)
        self.helpers = [_idle.pop() if _idle else Helper() for _ in range(n)]

    def set_up(self, model: nn.Module, loss: Loss) -> None:
        """Send the model to each helper; without helpers if it cannot be sent."""
        content = io.BytesIO()
        try:
            torch.save(model, content)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.close()
            warnings.warn(
                f"the model cannot be sent to other processes ({error}): training uses one core, with the "
                "same result. Classes and functions of a model must be importable from a module",
                CGALWarning,
                stacklevel=2,
            )
        for helper in self.helpers:
            helper.set_up(content.getvalue(), loss)

    def close(self) -> None:
        """Keep the processes for the next training: they need seconds to start."""
        _idle.extend(self.helpers)
        self.helpers = []

    def end(self) -> None:
        """End the processes: after an error, a message may have been sent or received in part."""
        for helper in self.helpers:
            helper.close()
        self.helpers = []

    def gradients(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], parts: Sequence[Part], loss: Loss
    ) -> list[Gradient]:
        """Return the gradient of each chunk of a batch, in order; the helpers compute some of them."""
        total = sum(len(part["pos"]) for part in parts)
        free = [helper for helper in list(self.helpers) if self._is_free(helper)][: len(parts) - 1]
        sent = self._send(free, parameters, parts, total)
        theirs = {k for _, mine in sent for k in mine}
        started = time.monotonic()

        def compute(k: int) -> Gradient:
            return chunk_gradient(model, parameters, parts[k], total, loss)

        found = {k: compute(k) for k in range(len(parts)) if k not in theirs}
        patience = _PATIENCE * (time.monotonic() - started)
        for helper, mine in sent:
            answer = self._receive(helper, patience)
            found |= zip(mine, [compute(k) for k in mine] if answer is None else answer, strict=True)
        return [found[k] for k in range(len(parts))]

    def _send(
        self, free: list[Helper], parameters: Sequence[nn.Parameter], parts: Sequence[Part], total: int
    ) -> list[tuple[Helper, list[int]]]:
        """Send each helper its chunks; return their numbers."""
        sent = []
        if free:
            weights = torch.cat([p.detach().reshape(-1) for p in parameters]).numpy()
        for place, helper in enumerate(free, start=1):
            mine = list(range(place, len(parts), len(free) + 1))
            try:
                helper.send(weights, [(parts[k], total) for k in mine])
            except OSError as error:
                self._lose(helper, error)
            else:
                sent.append((helper, mine))
        return sent

    def _receive(self, helper: Helper, seconds: float) -> list[Gradient] | None:
        try:
            return helper.receive(seconds)
        except (OSError, EOFError) as error:
            self._lose(helper, error)
            return None

    def _is_free(self, helper: Helper) -> bool:
        try:
            return helper.is_free()
        except (OSError, EOFError) as error:
            self._lose(helper, error)
            return False

    def _lose(self, helper: Helper, reason: Exception) -> None:
        helper.close()
        self.helpers.remove(helper)
        warnings.warn(
            f"a helper process of the training was lost ({type(reason).__name__}: {reason}); training goes "
            "on without it, with the same result",
            CGALWarning,
            stacklevel=2,
        )


def serve(connection: Connection) -> None:
    """Work for the other end of ``connection`` until it closes, or until there is no work for long."""
    torch.set_num_threads(1)
    model: nn.Module | None = None
    parameters: list[nn.Parameter] = []
    loss: Loss | None = None
    while connection.poll(_IDLE):
        first, second = connection.recv()
        if isinstance(first, bytes):
            # from the process that started this one
            model = torch.load(io.BytesIO(first), weights_only=False)
            assert isinstance(model, nn.Module)
            model.train()
            parameters = [p for p in model.parameters() if p.requires_grad]
            loss = second
            connection.send(_READY)
            continue
        assert model is not None
        assert loss is not None
        try:
            with torch.no_grad():
                weights = torch.split(torch.from_numpy(first), [p.numel() for p in parameters])
                for parameter, value in zip(parameters, weights, strict=True):
                    parameter.copy_(value.view_as(parameter))
            answer: Any = []
            for plain, total in second:
                part = {k: torch.from_numpy(v).clone() for k, v in plain.items()}
                gradient = chunk_gradient(model, parameters, part, total, loss)
                arrays = [None if g is None else g.numpy() for g in gradient.parts]
                answer.append((gradient.loss.numpy(), arrays))
        except Exception:  # noqa: BLE001  the training process repeats it and raises the error
            answer = None
        connection.send(answer)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to this process by name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CGALWarning)  # the training process says the same
        load_warp()  # TorchMD-Net would do it with a message
    with contextlib.suppress(EOFError, OSError):
        serve(Connection(int(sys.argv[1])))
