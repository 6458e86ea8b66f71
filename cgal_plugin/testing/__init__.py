"""Checks of components, models and priors against their contracts, for use in tests of other packages.

Each check raises an AssertionError that names the broken part of the contract. The contracts of components
are in :mod:`cgal_plugin.components.protocols`.
"""

from cgal_plugin.testing.labels import check_oracle
from cgal_plugin.testing.samplers import check_sampler
from cgal_plugin.testing.selectors import check_selector
from cgal_plugin.testing.torch_modules import check_model, check_prior
from cgal_plugin.testing.trainers import check_trainer

__all__ = ["check_model", "check_oracle", "check_prior", "check_sampler", "check_selector", "check_trainer"]
