"""Commands that import data of other programs, and write data for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cgal_plugin.cli.options import EmbeddingName, Mapping, length_unit
from cgal_plugin.errors import CGALError, ConfigError

_Temperature = Annotated[float | None, typer.Option("--temperature", min=1e-3, help="K, of the data.")]
_Layout = Annotated[
    str | None, typer.Option("--format", help="CG data: npy, mlcg-tk, hdf5, npz (default: from the files).")
]


def import_data(
    inputs: Annotated[list[Path], typer.Argument(help="CG data, or all-atom trajectories: files, folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Data store; folder of stores of many molecules.")],
    layout: _Layout = None,
    topology: Annotated[
        list[str] | None,
        typer.Option(
            "--topology", "-t", help="Structure, topology file or sequence; NAME=FILE with several molecules."
        ),
    ] = None,
    mapping: Mapping = "CA",
    embedding: EmbeddingName = None,
    to_embedding: Annotated[
        str | None, typer.Option(help="Embedding of the store (default: that of the data).")
    ] = None,
    temperature: _Temperature = None,
    units: Annotated[str | None, typer.Option(help="Length unit of CG data: angstrom (default), nm.")] = None,
    force_unit: Annotated[
        str | None,
        typer.Option(help="Unit of forces: kcal/mol/angstrom (default of CG data), kJ/mol/nm, ..."),
    ] = None,
    force_map: Annotated[
        str | None,
        typer.Option(help="CG data: a name for their force map. Trajectories: optimal, basic, file."),
    ] = None,
    priors: Annotated[
        Path | None, typer.Option(help="CG data with delta forces: the priors that were subtracted.")
    ] = None,
    any_force: Annotated[
        bool, typer.Option("--any-force", help="CG data: accept forces of unusual size.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Trajectories: run configuration whose system computes forces.")
    ] = None,
    forces: Annotated[
        list[Path] | None, typer.Option(help="Trajectories: npy or npz with forces, one for each.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Trajectories: compute all forces.")] = False,
    stride: Annotated[int, typer.Option(min=1, help="Trajectories: keep every N-th frame.")] = 1,
    block_ps: Annotated[
        float | None, typer.Option(min=1e-3, help="Trajectories: length of the blocks of splits.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trajectories: processes.")] = None,
) -> None:
    """Make data stores from CG data of torchmd-cg, mlcg-tk or mlcg, or from all-atom trajectories.

    CG data: NAME_coords.npy with NAME_forces.npy and NAME_embeddings.npy, mlcg-tk's folders, mlcg's HDF5, or
    one .npz. Several molecules give one store each, OUT/NAME.
    """
    from cgal_plugin.data.raw_layouts import TRAJECTORY, layout_of

    cg_only: dict[str, Any] = {
        "--format": layout, "--to-embedding": to_embedding, "--units": units, "--priors": priors,
        "--any-force": any_force or None,
    }  # fmt: skip
    atoms_only: dict[str, Any] = {
        "--config": config, "--forces": forces, "--recompute": recompute or None,
        "--stride": None if stride == 1 else stride, "--block-ps": block_ps, "--workers": workers,
    }  # fmt: skip
    try:
        kinds = {TRAJECTORY if layout is None and layout_of(path) == TRAJECTORY else "cg" for path in inputs}
        if len(kinds) > 1:
            raise ConfigError("CG data and all-atom trajectories are imported one after the other")
        all_atom = kinds == {TRAJECTORY}
        for name, value in (cg_only if all_atom else atoms_only).items():
            if value is not None:
                raise ConfigError(
                    f"{name} is for {'CG data' if all_atom else 'all-atom trajectories'}; the input is "
                    f"{'all-atom trajectories' if all_atom else 'CG data'}"
                )
        if all_atom:
            from cgal_plugin.exchange.trajectories import import_trajectories

            if len(topology or ()) > 1:
                raise ConfigError("--topology is given twice; trajectories of one import are of one molecule")
            import_trajectories(
                inputs,
                out,
                topology=topology[0] if topology else None,
                config=config,
                temperature=temperature,
                mapping=None if config is not None and mapping == "CA" else mapping,
                embedding=embedding,
                forces=forces or (),
                force_unit=force_unit,
                recompute=recompute,
                stride=stride,
                force_map=force_map,
                block_ps=block_ps,
                workers=workers,
                message=typer.echo,
                progress=_Tenths(),
            )
            return
        from cgal_plugin.exchange.cg_data import import_data as run

        run(
            inputs,
            out,
            layout=layout,
            topologies=topology or (),
            mapping=mapping,
            embedding=embedding,
            to_embedding=to_embedding,
            temperature=temperature,
            length_unit=None if units is None else length_unit(units),
            force_unit=force_unit,
            force_map=force_map,
            priors=priors,
            any_force=any_force,
            message=typer.echo,
        )
    except ConfigError:
        raise
    except CGALError as error:
        raise ConfigError(str(error)) from error


class _Tenths:
    """Say after each tenth of the frames how many are done."""

    said = 0

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if tenth > self.said:
            self.said = tenth
            typer.echo(f"{done} of {total} frames", err=True)


def export_data(
    stores: Annotated[list[Path], typer.Argument(help="Data stores.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder (npy) or file (hdf5).")],
    layout: Annotated[str, typer.Option("--format", help="npy (torchmd-cg) or hdf5 (mlcg).")],
    embedding: EmbeddingName = None,
    priors: Annotated[Path | None, typer.Option(help="Priors: write delta forces as well.")] = None,
) -> None:
    """Write data stores for torchmd-cg (npy) or mlcg (hdf5); import-data reads the frames back unchanged.

    The backmapping library and the record of an import stay behind.
    """
    from cgal_plugin.exchange.cg_export import export_data as run

    try:
        for path in run(stores, out, layout, embedding=embedding, priors=priors):
            typer.echo(str(path))
    except ConfigError:
        raise
    except CGALError as error:
        raise ConfigError(str(error)) from error
