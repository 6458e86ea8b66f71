"""The configuration of a run with several systems: one configuration per system, and what they share."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cgal_plugin.config.load import parse_config, read_mapping
from cgal_plugin.config.models import Config
from cgal_plugin.config.section import AUTO
from cgal_plugin.config.selector import SelectorSettings
from cgal_plugin.config.system import System
from cgal_plugin.errors import ConfigError
from cgal_plugin.provenance import derive_seed, hash_object

Share = Literal["coverage", "equal", "random"]
Role = Literal["train", "test"]
SHARES, ROLES = get_args(Share), get_args(Role)
#: keys of the section system that all systems share
COMMON = ("temperature", "mapping", "embedding")
#: sections of which a system can have values of its own
OWN = ("seed_data", "simulation", "selector", "evaluation")
#: keys that belong to one molecule, and so to its entry
_OF_ONE = (
    ("evaluation", "reference"),
    ("evaluation", "reference_topology"),
    ("seed_data", "store"),
    ("test", "reference_forces"),
)
#: keys of the file, and of an entry of systems
TOP_KEYS = ("systems", "share", *COMMON, *(key for key in Config.model_fields if key != "system"))
ENTRY_KEYS = ("name", "role", "weight", *(k for k in System.model_fields if k not in COMMON), "pdb", *OWN)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class OneSystem:
    """One system of a run.

    Attributes
    ----------
    name
        Name of its folder.
    role
        ``"train"``: its frames may be labelled; ``"test"``: it is simulated and evaluated, never labelled.
    weight
        How often its frames count in a training, 1 or more.
    most
        Most labels per round: its own ``selector.n_select``; None: no limit.
    config
        Its configuration, as of a run of this system alone.
    """

    name: str
    role: Role
    weight: float
    most: int | None
    config: Config


@dataclass(frozen=True)
class SystemsConfig:
    """A run with several systems and one potential.

    Attributes
    ----------
    name, seed
        As in :class:`Config`.
    share
        How the oracle's budget is shared: ``"coverage"`` (frames that the data cover least, whatever their
        system), ``"equal"`` (the same number for each system), ``"random"`` (random frames of all systems).
    n_select
        Labels per round of all systems together: ``selector.n_select`` at the top of the file, or the sum of
        those of the systems to train on.
    systems
        The systems, those of role ``train`` first.
    """

    name: str
    seed: int
    share: Share
    n_select: int
    systems: tuple[OneSystem, ...]

    @property
    def main(self) -> Config:
        """The configuration whose shared sections count: that of the first system to train on."""
        return self.systems[0].config

    def of_role(self, role: Role) -> tuple[OneSystem, ...]:
        """Return the systems of a role."""
        return tuple(s for s in self.systems if s.role == role)

    def resolved(self) -> dict[str, Any]:
        """Return every key with its value, ready for JSON."""
        return {
            "name": self.name,
            "seed": self.seed,
            "share": self.share,
            "n_select": self.n_select,
            "systems": [
                {
                    "name": s.name,
                    "role": s.role,
                    "weight": s.weight,
                    "most": s.most,
                    "config": s.config.resolved(),
                }
                for s in self.systems
            ],
        }

    @property
    def hash(self) -> str:
        """SHA-256 of the resolved configuration."""
        return hash_object(self.resolved())


def has_systems(path: str | os.PathLike[str]) -> bool:
    """Return whether a configuration file lists several systems."""
    return "systems" in read_mapping(path)[0]


def load_systems(path: str | os.PathLike[str]) -> SystemsConfig:
    """Read a configuration file with the key ``systems``. Relative paths in it are relative to the file.

    Raises
    ------
    ConfigError
        See :func:`~cgal_plugin.config.load_yaml`; or a system has no name, the name of another one, or keys
        that all systems share; there is no system to train on; or a system to test on has no reference.
    """
    content, lines = read_mapping(path)
    return parse_systems(content, base=Path(path).parent, source=str(path), lines=lines)


def parse_systems(
    content: Mapping[str, Any],
    *,
    base: str | os.PathLike[str] = ".",
    source: str = "config",
    lines: dict[tuple[Any, ...], int] | None = None,
) -> SystemsConfig:
    """Check a dictionary with the keys of a configuration file; see :func:`load_systems`."""
    known = lines or {}

    def at(*keys: Any) -> str:
        places = [known[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in known]
        return f"{source}:{places[0]}" if places else source

    top = dict(content)
    _check_keys(top, TOP_KEYS, at)
    entries, share = top.pop("systems"), top.pop("share", "coverage")
    if share not in SHARES:
        raise ConfigError(f"{at('share')}: share = {share!r}: allowed are {', '.join(SHARES)}")
    if top.get("refinement") is not None:
        raise ConfigError(
            f"{at('refinement')}: refinement corrects the populations of one molecule, and this potential "
            "serves several: remove the section"
        )
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries) or not entries:
        raise ConfigError(f"{at('systems')}: systems must be a list with one mapping per system")
    for key in OWN:
        if key in top:
            _section(top[key], key, at(key))
    for section, key in _OF_ONE:
        given = top.get(section)
        if isinstance(given, Mapping) and given.get(key) is not None:
            raise ConfigError(
                f"{at(section, key)}: {section}.{key} belongs to one molecule: give it in the entries of "
                "systems" + (", which have no section test" if section == "test" else "")
            )
    top["refinement"] = None
    name = top.pop("name", None) or "run"
    common = {key: top.pop(key) for key in COMMON if key in top}
    seed = top.get("seed", 0)
    found: list[OneSystem] = []
    for i, entry in enumerate(entries):
        found.append(_system(entry, i, top, common, f"{name}", seed, base, source, known, at))
        if any(found[-1].name == s.name for s in found[:-1]):
            raise ConfigError(
                f"{at('systems', i)}: the name {found[-1].name!r} is given twice; each system needs its own"
            )
    if not any(s.role == "train" for s in found):
        raise ConfigError(f"{at('systems')}: no system has role train, so there is nothing to train on")
    ordered = tuple(sorted(found, key=lambda s: ROLES.index(s.role)))
    n_select = _labels_per_round(top, [s.config for s in ordered if s.role == "train"], at("selector"))
    return SystemsConfig(str(name), int(seed), share, n_select, ordered)


def _system(
    entry: Mapping[str, Any],
    i: int,
    top: Mapping[str, Any],
    common: Mapping[str, Any],
    run: str,
    seed: Any,
    base: str | os.PathLike[str],
    source: str,
    known: Mapping[tuple[Any, ...], int],
    at: Callable[..., str],
) -> OneSystem:
    """Return one system of the list, with its complete configuration."""
    rest, where = dict(entry), at("systems", i)
    name = _name(rest.pop("name", None), at("systems", i, "name"))
    role, weight = rest.pop("role", "train"), rest.pop("weight", None)
    shared = [key for key in COMMON if key in rest]
    if shared:
        raise ConfigError(
            f"{where}: {', '.join(shared)} of {name!r}: all systems share one potential, and so these "
            f"keys ({', '.join(COMMON)}): give them at the top of the file"
        )
    _check_keys(rest, ENTRY_KEYS, at, "systems", i)
    if role not in ROLES:
        raise ConfigError(f"{where}: role = {role!r}: allowed are {', '.join(ROLES)}")
    if weight is not None and role == "test":
        raise ConfigError(f"{where}: {name!r} has a weight, but nothing is trained on a system of role test")
    weight = 1.0 if weight is None else weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 1 <= weight <= 1000:
        raise ConfigError(f"{where}: weight = {weight!r}: it must be a number from 1 to 1000")
    own = {key: _section(rest.pop(key), key, at("systems", i, key)) for key in OWN if key in rest}
    complete = {**top, **{key: {**(top.get(key) or {}), **value} for key, value in own.items()}}
    complete |= {"system": {**common, **rest}, "name": f"{run}: {name}"[:100]}
    if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0:
        complete["seed"] = derive_seed(seed, "system", name)
    places = {keys: line for keys, line in known.items() if keys[0] != "systems"}
    places |= {("system", *keys): line for keys, line in places.items() if keys[0] in COMMON}
    for keys, line in known.items():
        if keys[:2] == ("systems", i) and len(keys) > 2:
            places[keys[2:] if keys[2] in OWN else ("system", *keys[2:])] = line
    try:
        config = parse_config(complete, base=base, source=source, lines=places)
    except ConfigError as error:
        text = "\n".join(line.replace(": system.", ": ") for line in str(error).splitlines())
        raise ConfigError(f"{text} (system {name!r})") from None
    if role == "test" and config.tested is None:
        lacks = "test is null" if config.test is None else "no evaluation.reference"
        raise ConfigError(
            f"{where}: {name!r} has role test and {lacks}: a system that is never labelled serves to compare "
            "the potential with a reference; give both, or role: train"
        )
    most = own.get("selector", {}).get("n_select")
    return OneSystem(name, role, float(weight), most if isinstance(most, int) else None, config)


def _check_keys(
    content: Mapping[str, Any], allowed: tuple[str, ...], at: Callable[..., str], *place: Any
) -> None:
    for key in content:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            where = "an entry of systems" if place else "a file with systems"
            raise ConfigError(
                f"{at(*place, key)}: {key} = {content[key]!r}: unknown key of {where}{hint} Allowed keys: "
                f"{', '.join(allowed)}"
            )


def _labels_per_round(top: Mapping[str, Any], configs: list[Config], where: str) -> int:
    selectors = [config.selector for config in configs]
    known = [s.n_select for s in selectors if isinstance(s, SelectorSettings)]
    if len(known) < len(selectors):
        raise ConfigError(
            f"{where}: selector.kind: the labels of several systems are shared by their nearest RMSDs, which "
            "needs a built-in selector (rmsd, coverage, random or committee)"
        )
    given = (top.get("selector") or {}).get("n_select", AUTO)
    return sum(known) if given == AUTO else int(given)


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: name = {name!r}: each system needs a name of letters, digits, _ and -, which is also "
            "the name of its folder"
        )
    return name


def _section(value: Any, key: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key} = {value!r}: expected a section of keys and values")
    return value
