"""Contract checks for a model, prior, selector or oracle of one's own: call them in one's own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cgal_plugin.errors import CGALError


def check_selector(make: Callable[[int], Any], candidates: Any, reference: Any, *, n_select: int = 5) -> None:
    """Check that a selector keeps the contract that the driver relies on.

    Parameters
    ----------
    make
        ``make(n)`` returns a new selector of ``n`` frames, with cuts that let at least one
        candidate through; with the same ``n`` always the same selector.
    candidates, reference
        ``(n, beads, 3)`` arrays, Å; more than ``n_select`` candidates.
    n_select
        Number of frames to ask for.

    Raises
    ------
    AssertionError
        Saying what the selector did that it must not do.
    """
    candidates, reference = np.asarray(candidates), np.asarray(reference)
    given = candidates.copy(), reference.copy()
    selector = make(n_select)
    assert selector.fit(reference) is selector, "fit(reference) must return the selector itself"
    selection = selector.select(candidates)
    _check_selection(selection, n_select, len(candidates))
    assert np.array_equal(given[0], candidates), "select changed the candidates that it was given"
    assert np.array_equal(given[1], reference), "fit changed the reference that it was given"

    again = make(n_select).fit(reference).select(candidates)
    assert np.array_equal(selection.indices, again.indices), (
        "two selectors made alike chose differently from the same candidates; seed what is random"
    )
    everything = make(len(candidates) + 7).fit(reference).select(candidates)
    _check_selection(everything, len(candidates), len(candidates))
    assert len(everything.indices) >= len(selection.indices), "asking for more frames gave fewer"

    assert selector.partial_fit(reference[:1]) is selector, "partial_fit(new_frames) must return the selector"
    _check_selection(selector.select(candidates), n_select, len(candidates))
    try:
        make(n_select).fit(reference).select(candidates[:0])
    except CGALError:
        return
    raise AssertionError("selecting from no candidates must raise a cgal_plugin error")


def _check_selection(selection: Any, most: int, n_candidates: int) -> None:
    indices, distances = np.asarray(selection.indices), np.asarray(selection.distances)
    assert indices.ndim == 1, f"indices have shape {indices.shape}; expected one dimension"
    assert np.issubdtype(indices.dtype, np.integer), f"indices have dtype {indices.dtype}; expected integers"
    assert 1 <= len(indices) <= most, f"{len(indices)} frames chosen; expected 1 to {most}"
    assert len(set(indices.tolist())) == len(indices), "a frame was chosen twice"
    assert indices.min() >= 0, "an index is negative"
    assert indices.max() < n_candidates, f"index {indices.max()} is beyond the {n_candidates} candidates"
    assert distances.shape == indices.shape, f"distances: shape {distances.shape}, not {indices.shape}"


def check_prior(prior: Any, topology: Any, frames: Any, *, tolerance: float = 1e-6) -> None:
    """Check that a TorchMD-Net prior keeps the contract that training, restart and dynamics rely on.

    Parameters
    ----------
    prior
        The prior, built for ``topology``. It is copied, not changed.
    topology
        :class:`~cgal_plugin.mapping.CGTopology` of one molecule.
    frames
        ``(n, beads, 3)`` Å, at least two, of that molecule.
    tolerance
        Relative, for energies; forces are compared with finite differences a thousand times as
        coarsely.

    Raises
    ------
    AssertionError
        Saying what the prior did that it must not do.
    """
    import copy

    import torch
    from torchmdnet.priors.base import BasePrior

    frames = np.array(frames, dtype=np.float64)
    assert isinstance(prior, BasePrior), f"{type(prior).__name__} is no torchmdnet.priors.base.BasePrior"
    assert frames.ndim == 3, f"frames have shape {frames.shape}; expected (n, beads, 3)"
    assert len(frames) >= 2, "give at least two frames"
    arguments = prior.get_init_args()
    _check_plain(arguments, "get_init_args()")
    own = copy.deepcopy(prior).double()
    again = type(prior)(**copy.deepcopy(arguments)).double()
    assert again.get_init_args() == arguments, "a prior rebuilt from get_init_args() returns other arguments"
    again.reset_parameters()

    def energy(which: Any, coordinates: Any) -> Any:
        n, beads = coordinates.shape[:2]
        z = torch.tensor(np.tile(topology.types, n))
        batch = torch.arange(n).repeat_interleave(beads)
        x = torch.zeros(n * beads, 1, dtype=torch.float64)
        pos = coordinates.reshape(-1, 3)
        per_bead = which.pre_reduce(x, z, pos, batch, None).reshape(n, beads).sum(1, keepdim=True)
        found = which.post_reduce(per_bead, z, pos, batch, None, None)
        assert tuple(found.shape) == (n, 1), f"energies have shape {tuple(found.shape)}; expected ({n}, 1)"
        return found

    positions = torch.tensor(frames, requires_grad=True)
    together = energy(own, positions)
    assert torch.isfinite(together).all(), "an energy is not finite"
    scale = 1.0 + float(together.detach().abs().max())

    def same(a: Any, b: Any, message: str) -> None:
        gap = float((a - b).detach().abs().max()) / scale
        assert gap < tolerance, f"{message} (relative difference {gap:.1e})"

    same(together, energy(again, positions), "rebuilt from get_init_args(), the energy is another")
    alone = torch.cat([energy(own, positions[i : i + 1]) for i in range(len(frames))])
    same(together, alone, "the energy of a frame depends on the batch it is in")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    moved = torch.tensor(frames @ rotation.T + np.array([11.0, -7.0, 3.0]))
    same(together, energy(own, moved), "the energy changes when the molecule is rotated and moved")

    (gradient,) = torch.autograd.grad(together.sum(), positions)
    assert torch.isfinite(gradient).all(), "a force is not finite"
    direction = torch.tensor(np.random.default_rng(1).normal(size=frames.shape))
    step, fixed = 1e-5, positions.detach()
    rise = (energy(own, fixed + step * direction) - energy(own, fixed - step * direction)).sum() / (2 * step)
    slope = (gradient * direction).sum()
    gap = float((rise - slope).abs()) / (1.0 + float(gradient.abs().max()))
    assert gap < 1e3 * tolerance, f"forces are not the gradient of the energy (relative difference {gap:.1e})"


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int), f"{where} has the key {key!r}; use plain strings"
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    else:
        assert type(value) in (str, int, float, bool, type(None)), (
            f"{where} is {type(value).__name__}; a checkpoint needs plain Python values"
        )


def check_oracle(oracle: Any, frames: Any, *, deterministic: bool = True) -> None:
    """Check that an oracle keeps the contract that the driver relies on.

    Parameters
    ----------
    oracle
        An object with ``label(frames) -> LabelledFrames``.
    frames
        ``(n, beads, 3)`` Å, at least two, of the oracle's molecule.
    deterministic
        Also require that a frame labelled alone gets the label that it got in company. A run that is
        interrupted and resumed labels frames in another company.

    Raises
    ------
    AssertionError
        Saying what the oracle did that it must not do.
    """
    frames = np.asarray(frames)
    assert frames.ndim == 3, f"frames have shape {frames.shape}; expected (n, beads, 3)"
    assert len(frames) >= 2, "give at least two frames"
    given = frames.copy()
    labels = oracle.label(frames)
    _check_labels(labels, len(frames), frames.shape[1])
    assert np.array_equal(given, frames), "label changed the frames that it was given"

    broken = frames[:2].copy()
    broken[1] = np.nan
    try:
        beside = oracle.label(broken)
    except CGALError as error:
        raise AssertionError(
            f"a frame that is not finite must be quarantined, not raise {error!r}"
        ) from error
    _check_labels(beside, 2, frames.shape[1])
    assert 1 in {q.frame_index for q in beside.quarantined}, "a frame that is not finite was labelled"
    if not deterministic:
        return
    for name in ("positions", "forces"):
        whole = getattr(labels, name)[np.asarray(labels.frame_index) == 0]
        alone = getattr(beside, name)[np.asarray(beside.frame_index) == 0]
        assert np.array_equal(whole, alone), (
            f"{name} of a frame depend on what else is labelled, or on what was labelled before; "
            "derive the seed of a label from the frame's content"
        )


def _check_labels(labels: Any, n_frames: int, n_beads: int) -> None:
    from cgal_plugin.data import LabelledFrames

    assert isinstance(labels, LabelledFrames), (
        f"label returned {type(labels).__name__}; expected cgal_plugin.data.LabelledFrames"
    )
    assert labels.positions.shape[1:] == (n_beads, 3), (
        f"positions have shape {labels.positions.shape}; expected (n, {n_beads}, 3)"
    )
    labelled, refused = set(labels.frame_index.tolist()), {q.frame_index for q in labels.quarantined}
    outside = sorted(i for i in labelled | refused if not 0 <= i < n_frames)
    assert not outside, f"frame_index {outside[:3]} is not one of the {n_frames} frames given"
    both = sorted(labelled & refused)
    assert not both, f"frames {both[:3]} are labelled and quarantined"
    lost = sorted(set(range(n_frames)) - labelled - refused)
    assert not lost, f"frames {lost[:3]} are neither labelled nor quarantined"
    assert all(q.reason for q in labels.quarantined), "a quarantined frame has no reason"
    missing = sorted({"temperature", "mode", "force_map_hash"} - set(labels.metadata))
    assert not missing, f"metadata lacks {', '.join(missing)}"


def check_model(model: Any, types: Any, frame: Any, *, tolerance: float = 1e-6) -> None:
    """Check that a TorchMD-Net model of a CG molecule can be trained and simulated with.

    Energies and forces must not depend on where the molecule is, how it is turned, how its beads
    are numbered and what else is in the batch; forces must be minus the gradient, and their loss
    must reach the parameters.

    Parameters
    ----------
    model
        A ``TorchMD_Net`` with ``derivative=True``, without priors that hold tables of bead numbers.
        It is checked in float64; what is given is not changed.
    types
        ``(n_beads,)`` bead types.
    frame
        ``(n_beads, 3)`` Å.
    tolerance
        Relative to the largest energy and force.

    Raises
    ------
    AssertionError
        Saying what the model does that it must not do.
    """
    import copy

    import torch

    model = copy.deepcopy(model).to(torch.float64).eval()
    z = torch.as_tensor(np.asarray(types), dtype=torch.long)
    pos = torch.as_tensor(np.asarray(frame), dtype=torch.float64)
    n = len(z)

    def evaluate(z: Any, pos: Any, batch: Any = None) -> tuple[Any, Any]:
        energy, forces = model(z, pos.clone(), batch)
        return energy.detach(), forces.detach()

    energy, forces = evaluate(z, pos)
    assert energy.shape == (1, 1), f"energy has shape {tuple(energy.shape)}; expected (n_molecules, 1)"
    assert forces.shape == (n, 3), f"forces have shape {tuple(forces.shape)}; expected (n_beads, 3)"
    assert bool(torch.isfinite(energy).all() and torch.isfinite(forces).all()), "not finite"
    room = tolerance * max(1.0, float(energy.abs().max()), float(forces.abs().max()))

    def same(a: Any, b: Any, what: str) -> None:
        worst = float((a - b).abs().max())
        assert worst <= room, f"{what} differ by {worst:.2e} (allowed {room:.2e})"

    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    moved, turned = evaluate(z, pos @ turn.T + 7.0)
    same(moved, energy, "energies of a moved and turned molecule")
    same(turned, forces @ turn.T, "forces of a moved and turned molecule")
    order = torch.randperm(n, generator=generator)
    same(evaluate(z[order], pos[order])[0], energy, "energies with beads numbered otherwise")
    same(evaluate(z[order], pos[order])[1], forces[order], "forces with beads numbered otherwise")
    other = pos + 0.1 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    batch = torch.arange(2).repeat_interleave(n)
    together = evaluate(torch.cat([z, z]), torch.cat([pos, other]), batch)
    same(together[0][:1], energy, "energies alone and in a batch")
    same(together[1][:n], forces, "forces alone and in a batch")
    step = 1e-4 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    slope = evaluate(z, pos + step)[0] - evaluate(z, pos - step)[0]
    expected = -2 * (forces * step).sum()
    assert abs(float(slope - expected)) <= 1e-4 * float((forces.abs() * step.abs()).sum()) + 1e-12, (
        f"forces are not minus the gradient: the energy changes by {float(slope):.3e}, "
        f"the forces say {float(expected):.3e}"
    )
    model.train()
    model(z, pos.clone())[1].square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients, "a loss on the forces does not reach any parameter"
    assert any(bool(g.abs().max() > 0) for g in gradients), "a loss on the forces has no gradient"
