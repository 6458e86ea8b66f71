"""Does active learning of a shared potential help on peptides that are never labelled?

    python study.py --references             # all-atom references of the test peptides
    python study.py --jobs 2                 # what is missing of all arms and seeds, then the table
    python study.py --arm coverage --seeds 1

Arms: `static` (seed data only), `coverage` (the budget goes where the data cover least), `equal` (the same
number of labels for each peptide), `plain` (more seed data, at the cost of the labels). A seed has the same
seed data in static, coverage and equal. Results are appended to OUT/study.jsonl; run the command again to
resume.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from cgal_plugin.benchmark.reference import build_reference
from cgal_plugin.config import parse_config
from cgal_plugin.config.load import read_mapping
from cgal_plugin.config.systems import parse_systems
from cgal_plugin.systems import run_systems

HERE = Path(__file__).parent
ARMS = ("static", "coverage", "equal", "plain")
#: each reference: trajectories of this length, after equilibration
REFERENCE = {"n_trajectories": 8, "picoseconds": 600.0, "equilibration_ps": 50.0, "save_ps": 1.0}
SMALL = {
    "seed_data": {"picoseconds": 8.0},
    "oracle": {"relax_ps": 0.5, "production_ps": 1.0, "release_ps": 1.0},
    "training": {"epochs": 1},
    "simulation": {"n_replicas": 4, "steps": 500},
    "selector": {"n_select": 4},
    "test": {"n_replicas": 2, "rungs": 2, "steps": 1000, "n_bootstrap": 0},
    "stopping": {"rounds": 1},
}
SMALL_SYSTEMS = ("akdefgt", "gydpakg", "vtvngkt", "yggfm")


def content(arm, seed, small):
    """Return the configuration of one run."""
    found = read_mapping(HERE / "peptides.yaml")[0] | {"seed": seed}
    if small:
        found["systems"] = [s for s in found["systems"] if s["name"] in SMALL_SYSTEMS]
        for section, values in SMALL.items():
            found[section] = {**found.get(section, {}), **values}
    if arm in ("static", "plain"):
        found["stopping"] = {"rounds": 0}
    if arm == "equal":
        found["share"] = "equal"
    if arm == "plain":
        found["seed_data"] = {**found["seed_data"], "picoseconds": plain_ps(small)}
    return found


def plain_ps(small):
    """Return the length (ps) of seed trajectories that cost as much as all data of the other arms."""
    config = parse_systems(content("coverage", 1, small), base=HERE)
    train, main = config.of_role("train"), config.main
    oracle, seed = main.oracle, main.seed_data
    label = oracle.relax_ps + oracle.production_ps  # the release is part of the production
    labels = main.stopping.rounds * config.n_select * label
    return round(seed.picoseconds + labels / (len(train) * seed.n_trajectories), 2)


def one(job):
    """Run one arm and seed; return its row."""
    arm, seed, small, folder = job
    result = run_systems(parse_systems(content(arm, seed, small), base=HERE), folder)
    summary = json.loads((folder / "summary.json").read_text())
    w1 = {s["name"]: s["w1"] for s in summary["systems"] if s["role"] == "test"}
    labels = {s["name"]: s["n_labelled"] for s in summary["systems"] if s["role"] == "train"}
    floors = {s["name"]: s["floor"] for s in summary["systems"] if s["role"] == "test"}
    seed_ns = sum(
        json.loads(p.read_text())["results"]["oracle_ns"]
        for s in summary["systems"]
        if s["role"] == "train"
        for p in [folder / "systems" / s["name"] / "seed" / "manifest.json"]
    )
    label_ns = sum(s["oracle_ns"] for s in summary["systems"])
    return {
        "arm": arm, "seed": seed, "w1": {name: values[-1] for name, values in w1.items()},
        "rounds": w1, "floors": floors, "labels": labels, "oracle_ns": seed_ns + label_ns,
        "stop": result.rounds[-1]["stop"],
    }  # fmt: skip


def interval(values, seed=0, n=4000):
    """Return the 95 % interval of a statistic of ``values`` (peptides, seeds, 2): both are resampled."""
    rng = np.random.default_rng(seed)
    peptides, seeds = values.shape[:2]
    found = []
    for _ in range(n):
        rows = rng.integers(0, peptides, peptides)
        columns = rng.integers(0, seeds, seeds)
        a, b = values[np.ix_(rows, columns)].mean(axis=(0, 1))
        found.append(1.0 - b / a)
    return np.quantile(found, [0.025, 0.975])


def table(rows):
    """Print mean W1 on the test peptides, and the reduction against other arms, paired by seed."""
    by = {(r["arm"], r["seed"]): r for r in rows}
    print("arm | seeds | all-atom MD / ns | mean W1, never labelled | floor")
    for arm in ARMS:
        own = [r for r in rows if r["arm"] == arm]
        if own:
            w1 = np.mean([list(r["w1"].values()) for r in own])
            floor = np.mean([list(r["floors"].values()) for r in own])
            print(
                f"{arm} | {len(own)} | {np.mean([r['oracle_ns'] for r in own]):.2f} | {w1:.2f} | {floor:.2f}"
            )
    for first, second in (("static", "coverage"), ("equal", "coverage"), ("plain", "coverage")):
        seeds = sorted(s for arm, s in by if arm == first and (second, s) in by)
        if not seeds:
            continue
        names = list(by[first, seeds[0]]["w1"])
        values = np.array(
            [[[by[arm, s]["w1"][name] for arm in (first, second)] for s in seeds] for name in names]
        )
        a, b = values.mean(axis=(0, 1))
        low, high = interval(values)
        print(
            f"{second} against {first}: {100 * (1 - b / a):.0f} % less ({100 * low:.0f} to {100 * high:.0f}; "
            f"{len(names)} peptides, {len(seeds)} seeds)"
        )


def make_reference(entry):
    """Write the reference of a test peptide."""
    top = read_mapping(HERE / "peptides.yaml")[0]
    config = parse_config(
        {
            "name": f"reference of {entry['sequence']}",
            "seed": 20261128,
            "system": {"sequence": entry["sequence"], "temperature": top["temperature"]},
            "seed_data": {**REFERENCE, "start": "extended"},
            "executor": {"workers": 1},
        }
    )
    folder = Path("runs/peptide_references") / entry["name"]
    made = build_reference(config, folder, interval_ps=2.0)
    for suffix in (".npz", ".json", ".png"):
        target = HERE / "references" / f"{entry['name']}{suffix}"
        target.write_bytes(made.with_suffix(suffix).read_bytes())
    return entry["name"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/peptide_study"))
    parser.add_argument("--arm", action="append", choices=ARMS, help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--small", action="store_true", help="four peptides, minutes")
    parser.add_argument("--references", action="store_true", help="make the references that are missing")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        if arguments.references:
            every = read_mapping(HERE / "peptides.yaml")[0]["systems"]
            tests = [s for s in every if s.get("role") == "test"]
            missing = [s for s in tests if not (HERE / "references" / f"{s['name']}.npz").exists()]
            for name in pool.map(make_reference, missing):
                print(f"reference of {name} is complete", flush=True)
            return
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "study.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        done = {(r["arm"], r["seed"]) for r in rows}
        jobs = [
            (arm, seed, arguments.small, arguments.out / f"{arm}_{seed}")
            for seed in range(1, arguments.seeds + 1)
            for arm in arguments.arm or ARMS
            if (arm, seed) not in done
        ]
        for future in as_completed([pool.submit(one, job) for job in jobs]):
            row = future.result()
            rows.append(row)
            with path.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            print(row, flush=True)
    table(rows)


if __name__ == "__main__":
    main()
