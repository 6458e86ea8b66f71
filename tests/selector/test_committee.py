"""CommitteeSelector: scores of known committees, and real TorchMD-Net models."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector import CommitteeSelector
from cgal_plugin.testing import check_selector

from .reference import all_rmsd, walks


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return walks(60, 5, np.random.default_rng(21))


def springs(stiffness: float):
    """Beads on springs to the origin: forces that disagree in proportion to the distance."""
    return lambda x: -stiffness * x


def test_scores_are_standard_deviations(frames: np.ndarray) -> None:
    ks = [1.0, 2.0, 4.0]
    radius = np.linalg.norm(frames, axis=-1) * np.std(ks)
    for reduce in ("max", "mean"):
        selector = CommitteeSelector(7, [springs(k) for k in ks], reduce=reduce, batch_size=16)
        selection = selector.select(frames)
        expected = getattr(radius, reduce)(axis=1)
        np.testing.assert_allclose(selection.scores, expected, rtol=1e-12)
        np.testing.assert_array_equal(selection.indices, np.argsort(-expected, kind="stable")[:7])


def test_diverse_and_cuts(frames: np.ndarray) -> None:
    members = [springs(1.0), springs(3.0)]
    plain = CommitteeSelector(6, members).select(frames)
    spread = CommitteeSelector(6, members, diverse=True, pool=10).select(frames)
    assert spread.indices[0] == plain.indices[0]

    def closest(chosen: np.ndarray) -> float:
        return float(all_rmsd(frames[chosen], frames[chosen])[~np.eye(6, dtype=bool)].min())

    assert closest(spread.indices) > closest(plain.indices)
    cut = CommitteeSelector(60, members, min_rmsd=0.8, max_rmsd=1.5).fit(frames[:10]).select(frames)
    assert (cut.distances >= 0.8).all()
    assert (cut.distances <= 1.5).all()
    assert np.isfinite(cut.scores).sum() == len(cut)


def test_torchmdnet_ensemble(frames: np.ndarray) -> None:
    import torch

    with warnings.catch_warnings():
        # deprecations inside TorchMD-Net and what it imports
        warnings.simplefilter("ignore")
        from torchmdnet.models.model import Ensemble, create_model
    args = {
        "model": "graph-network",
        "embedding_dimension": 8,
        "num_layers": 1,
        "num_rbf": 8,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "tanh",
        "cutoff_lower": 0.0,
        "cutoff_upper": 12.0,
        "max_z": 25,
        "max_num_neighbors": 8,
        "aggr": "add",
        "neighbor_embedding": False,
        "equivariance_invariance_group": "O(3)",
        "box_vecs": None,
        "static_shapes": False,
        "check_errors": True,
        "derivative": True,
        "atom_filter": -1,
        "prior_model": None,
        "output_model": "Scalar",
        "reduce_op": "add",
        "precision": 64,
        "vector_cutoff": False,
    }
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(create_model(dict(args)))
    types = np.array([1, 5, 7, 20, 3])
    expected = []
    for model in models:
        forces = []
        for frame in frames:
            _, force = model(torch.tensor(types), torch.tensor(frame), torch.zeros(5, dtype=torch.long))
            forces.append(force.detach().numpy())
        expected.append(forces)
    spread = np.sqrt(np.var(expected, axis=0).sum(axis=-1)).max(axis=1)
    assert spread.std() > 1e-6
    for committee in (models, Ensemble(models)):
        selection = CommitteeSelector(4, committee, types=types, batch_size=32).select(frames)
        np.testing.assert_allclose(selection.scores, spread, rtol=1e-8)
        np.testing.assert_array_equal(selection.indices, np.argsort(-spread)[:4])
    assert all(model.training for model in models)
    with pytest.raises(SelectionError, match=r"types=topology\.types"):
        CommitteeSelector(4, models)
    with pytest.raises(SelectionError, match="5 beads, types has 3"):
        CommitteeSelector(4, models, types=types[:3]).select(frames)


def test_bad_committees(frames: np.ndarray) -> None:
    with pytest.raises(SelectionError, match="committee of 1"):
        CommitteeSelector(3, [springs(1.0)])
    with pytest.raises(SelectionError, match="median"):
        CommitteeSelector(3, [springs(1.0)] * 2, reduce="median")
    with pytest.raises(SelectionError, match="batch_size"):
        CommitteeSelector(3, [springs(1.0)] * 2, batch_size=0)
    with pytest.raises(SelectionError, match="int is neither a force function"):
        CommitteeSelector(3, [1, 2])
    with pytest.raises(SelectionError, match="member 1 returned forces of shape"):
        CommitteeSelector(3, [springs(1.0), lambda x: x[:, :2]]).select(frames)
    with pytest.raises(SelectionError, match="member 1 returned forces that are not finite for candidate 40"):
        CommitteeSelector(
            3, [springs(1.0), lambda x: np.where(x == frames[40], np.nan, x)], batch_size=16
        ).select(frames)


def test_contract(frames: np.ndarray) -> None:
    check_selector(lambda n: CommitteeSelector(n, [springs(1.0), springs(2.0)]), frames[30:], frames[:30])
