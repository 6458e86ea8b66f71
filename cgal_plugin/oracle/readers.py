"""Topology and OpenMM System from files of AMBER, GROMACS, CHARMM or OpenMM, with OpenMM's own readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.coordinates import Coordinates, box_vectors, reading
from cgal_plugin.oracle.forcefield import HYDROGEN_MASS
from cgal_plugin.oracle.xml_code import check_force_field_files, check_system_text
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import openmm
    from openmm import app

KINDS = ("amber", "gromacs", "charmm", "openmm_xml", "system")
IMPLICIT = ("hct", "obc1", "obc2", "gbn", "gbn2")
#: Å, direct space of PME and Lennard-Jones, as usual for each family
CUTOFF: Mapping[str, float] = {"amber": 9.0, "gromacs": 10.0, "charmm": 12.0, "openmm_xml": 9.0}
_SWITCH = 2.0  # Å, width of CHARMM's switching function
_POLARISABLE = ("Amoeba", "Drude", "Hippo")
_RESTRAINTS = ("CustomExternalForce", "CustomCVForce", "CustomCentroidBondForce", "RMSDForce", "PlumedForce")
_UREY_BRADLEY = "AmoebaUreyBradleyGenerator"  # CHARMM's files have it too: it makes harmonic bonds
_PARAMETERS = (".prm", ".par", ".rtf", ".top", ".str", ".inp")
_NO_TOPOLOGY = (
    "kind {kind} needs the topology from system.structure: a PDB or mmCIF file with all particles, "
    "hydrogens and water included, in the order of the system; {what} has coordinates only"
)


@dataclass(frozen=True)
class ForceFieldSource:
    """Files of a force field, as ``system.force_field`` names them.

    Attributes
    ----------
    kind
        ``"amber"``, ``"gromacs"``, ``"charmm"``, ``"openmm_xml"`` or ``"system"``.
    files
        amber: prmtop; gromacs: top; charmm: psf, and parameter files (prm, rtf, str); openmm_xml: files of
        ``openmm.app.ForceField``, also those of OpenMM by their names; system: a serialised System.
    include
        gromacs: folder of included files; default: that of the GROMACS installation.
    cutoff
        Å, for a periodic box; default: :data:`CUTOFF`.
    implicit_solvent
        amber, charmm: one of :data:`IMPLICIT`; None: as in the files, which is vacuum.

    Raises
    ------
    OracleError
        The kind is unknown, or files or options do not fit it.
    """

    kind: str
    files: Sequence[str | os.PathLike[str]]
    include: str | os.PathLike[str] | None = None
    cutoff: float | None = None
    implicit_solvent: str | None = None
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OracleError(f"force field kind {self.kind!r} is not known; use one of {', '.join(KINDS)}")
        files = [self.files] if isinstance(self.files, str | os.PathLike) else list(self.files)
        object.__setattr__(self, "files", tuple(os.fspath(f) for f in files))
        names = tuple(Path(f).name if Path(f).is_file() else os.fspath(f) for f in files)
        object.__setattr__(self, "names", names)
        one = {"amber": "one prmtop file", "gromacs": "one top file", "system": "one serialised System"}
        if not files or (self.kind in one and len(files) != 1):
            raise OracleError(
                f"force field of kind {self.kind}: expected {one.get(self.kind, 'one file or more')}, "
                f"found {len(files)} files"
            )
        if self.kind != "openmm_xml":  # OpenMM also finds its own files by their names
            absent = [f for f in self.files if not Path(f).is_file()]
            if absent:
                raise OracleError(f"force field file {str(absent[0])!r} does not exist")
        if self.include is not None and self.kind != "gromacs":
            raise OracleError(f"include is for force fields of kind gromacs, not {self.kind}; leave it out")
        if self.include is not None and not Path(self.include).is_dir():
            raise OracleError(f"include {str(self.include)!r} is not a folder")
        if self.cutoff is not None and self.kind == "system":
            raise OracleError("cutoff: a serialised System has its own; leave it out")
        if self.cutoff is not None and not 5.0 <= self.cutoff <= 50.0:
            raise OracleError(f"cutoff {self.cutoff:g} Å is out of range; use 5 to 50 Å")
        if self.implicit_solvent is not None and self.kind not in ("amber", "charmm"):
            raise OracleError(
                f"implicit_solvent is for kinds amber and charmm, not {self.kind}: "
                "for openmm_xml add a file such as implicit/obc2.xml to the files"
            )
        if self.implicit_solvent not in (None, *IMPLICIT):
            raise OracleError(
                f"implicit_solvent {self.implicit_solvent!r} is not known; use one of {', '.join(IMPLICIT)}"
            )

    @property
    def label(self) -> str:
        """Kind and file names."""
        return f"{self.kind}: {', '.join(self.names)}"

    @property
    def range(self) -> float:
        """Cutoff in a periodic box, Å."""
        return self.cutoff or CUTOFF[self.kind]


@dataclass(frozen=True, eq=False)
class ReadFiles:
    """What the files hold: the topology, and a function of (periodic, constraints) for new Systems."""

    topology: app.Topology
    create: Callable[[bool, bool], openmm.System]


def read_files(source: ForceFieldSource, coordinates: Coordinates) -> ReadFiles:
    """Read the files of a force field; ``coordinates`` give the box, and the topology if the files do not.

    Raises
    ------
    OracleError
        A file or an include is missing or damaged, parameters are missing, or the force field is polarisable.
    """
    what = f"force field ({source.label})"
    with reading(what, _remedy(source)):
        return _READERS[source.kind](source, coordinates, what)


def _amber(source: ForceFieldSource, coordinates: Coordinates, what: str) -> ReadFiles:
    from openmm import app

    prmtop = app.AmberPrmtopFile(source.files[0], periodicBoxVectors=box_vectors(coordinates.box))
    solvent = _implicit(source)
    if solvent is not None and min(map(float, prmtop._prmtop._raw_data.get("RADII", ["0"]))) <= 0.0:
        raise OracleError(
            f"{what} has atoms without radii, which implicit_solvent {source.implicit_solvent} needs. Set "
            "them in tleap (set default PBRadii mbondi3) or ParmEd (changeRadii)"
        )
    return ReadFiles(
        prmtop.topology,
        lambda periodic, constraints: _create(
            source, what, prmtop.createSystem, periodic, constraints, implicitSolvent=solvent
        ),
    )


def _gromacs(source: ForceFieldSource, coordinates: Coordinates, what: str) -> ReadFiles:
    from openmm import app

    include = {} if source.include is None else {"includeDir": str(source.include)}
    top = app.GromacsTopFile(
        os.path.abspath(source.files[0]), periodicBoxVectors=box_vectors(coordinates.box), **include
    )
    return ReadFiles(
        top.topology,
        lambda periodic, constraints: _create(source, what, top.createSystem, periodic, constraints),
    )


def _charmm(source: ForceFieldSource, coordinates: Coordinates, what: str) -> ReadFiles:
    from openmm import app

    psfs = [f for f in source.files if str(f).lower().endswith(".psf")]
    others = [f for f in source.files if f not in psfs]
    odd = [f for f in others if not str(f).lower().endswith(_PARAMETERS)]
    if len(psfs) != 1 or not others or odd:
        raise OracleError(
            f"{what}: expected one .psf file and parameter files ({', '.join(_PARAMETERS)})"
            + (f"; {odd[0]} is neither" if odd else "")
        )
    psf = app.CharmmPsfFile(str(psfs[0]), periodicBoxVectors=box_vectors(coordinates.box))
    parameters = app.CharmmParameterSet(*map(str, others))
    psf.loadParameters(parameters)  # before the topology is asked for: they know the elements
    solvent = _implicit(source)

    def create(periodic: bool, constraints: bool) -> openmm.System:
        # False: a constrained bond has no energy, as in the other readers
        options: dict[str, Any] = {"flexibleConstraints": False, "implicitSolvent": solvent}
        if periodic:
            options["switchDistance"] = (source.range - _SWITCH) / ANGSTROM_PER_NM
        return _create(source, what, psf.createSystem, periodic, constraints, parameters, **options)

    return ReadFiles(psf.topology, create)


def _openmm_xml(source: ForceFieldSource, coordinates: Coordinates, what: str) -> ReadFiles:
    from openmm import app

    topology = _given_topology(source, coordinates)
    check_force_field_files(source.files)
    field = app.ForceField(*map(str, source.files))
    for generator in field.getGenerators():
        if type(generator).__name__ != _UREY_BRADLEY:
            _refuse_polarisable(type(generator).__name__, what)
    return ReadFiles(
        topology,
        lambda periodic, constraints: _create(
            source, what, field.createSystem, periodic, constraints, topology
        ),
    )


def _system(source: ForceFieldSource, coordinates: Coordinates, what: str) -> ReadFiles:
    import openmm

    topology = _given_topology(source, coordinates)
    text = Path(source.files[0]).read_text(encoding="utf-8")
    check_system_text(text, what)
    system = openmm.XmlSerializer.deserialize(text)
    if not isinstance(system, openmm.System):
        raise OracleError(
            f"{what} holds {type(system).__name__}, not a System; write it with "
            "openmm.XmlSerializer.serialize(system)"
        )
    check_forces(system, what)
    return ReadFiles(topology, lambda periodic, constraints: system)


_READERS: Mapping[str, Callable[[ForceFieldSource, Coordinates, str], ReadFiles]] = {
    "amber": _amber,
    "gromacs": _gromacs,
    "charmm": _charmm,
    "openmm_xml": _openmm_xml,
    "system": _system,
}


def _create(
    source: ForceFieldSource,
    what: str,
    create_system: Callable[..., openmm.System],
    periodic: bool,
    constraints: bool,
    *args: Any,
    **options: Any,
) -> openmm.System:
    from openmm import app, unit

    if options.get("implicitSolvent", "") is None:
        del options["implicitSolvent"]
    elif periodic and "implicitSolvent" in options:
        raise OracleError(
            f"{what} has solvent in a periodic box, which does not go with implicit_solvent "
            f"{source.implicit_solvent}. Leave out system.force_field.implicit_solvent"
        )
    if periodic:
        options["nonbondedCutoff"] = source.range / ANGSTROM_PER_NM
    with reading(what, _remedy(source)):
        system = create_system(
            *args,
            nonbondedMethod=app.PME if periodic else app.NoCutoff,
            constraints=app.HBonds if constraints else None,
            rigidWater=True,
            hydrogenMass=HYDROGEN_MASS * unit.dalton,
            **options,
        )
    check_forces(system, what)
    return system


def check_forces(system: openmm.System, what: str) -> None:
    """Refuse Systems that the oracle cannot use.

    Raises
    ------
    OracleError
        The System has a polarisable force field, virtual sites, particles without mass, or forces of
        restraints and biases.
    """
    for force in system.getForces():
        _refuse_polarisable(type(force).__name__, what)
        if type(force).__name__ in _RESTRAINTS:
            raise OracleError(
                f"{what} has a {type(force).__name__}, such as a position restraint or a bias: the bead "
                "forces would contain it. Remove it from the system"
            )
    n = system.getNumParticles()
    sites = [i for i in range(n) if system.isVirtualSite(i)]
    if sites:
        raise OracleError(
            f"{what} has {len(sites)} virtual sites (the first is particle {sites[0]}), which are not "
            "supported. Use a water model of three sites such as TIP3P, OPC3 or SPC/E"
        )
    from openmm import unit

    frozen = [i for i in range(n) if system.getParticleMass(i).value_in_unit(unit.dalton) <= 0.0]
    if frozen:
        raise OracleError(
            f"{what} has {len(frozen)} particles of mass 0 (the first is {frozen[0]}), which do not move. "
            "Give them their masses"
        )


def _refuse_polarisable(name: str, what: str) -> None:
    if name.startswith(_POLARISABLE):
        raise OracleError(
            f"{what} is polarisable ({name}); polarisable force fields (AMOEBA, Drude) are not supported. "
            "Use one with fixed charges"
        )


def _implicit(source: ForceFieldSource) -> Any:
    from openmm import app

    names = {"hct": "HCT", "obc1": "OBC1", "obc2": "OBC2", "gbn": "GBn", "gbn2": "GBn2"}
    return None if source.implicit_solvent is None else getattr(app, names[source.implicit_solvent])


def _given_topology(source: ForceFieldSource, coordinates: Coordinates) -> app.Topology:
    if coordinates.topology is None:
        raise OracleError(_NO_TOPOLOGY.format(kind=source.kind, what=coordinates.what))
    return coordinates.topology


def _remedy(source: ForceFieldSource) -> str:
    """Return what to do if the files cannot be used."""
    return {
        "amber": "",
        "gromacs": ". Folders of included files: that of the top file, and system.force_field.include",
        "charmm": ". Add the files with the missing parameters to system.force_field.files",
        "openmm_xml": ". The structure must have all atoms of the templates, hydrogens included, and the "
        "files must have templates for all residues",
        "system": "",
    }[source.kind]
