"""Results that come with the repository, for readers who have not run the grid yet.

A sample is one preset's runs as a CSV in data/results, the verdict on every test item included, so that intervals can
be worked out from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from btlib.errors import BtlibError
from btlib.results.tables import CELL, label_of, load_items, load_runs, one_preset, score_table, summarize
from btlib.support.paths import at_home, data_dir


def save_sample(folder: Path | str, path: Path | str, update: bool = False) -> None:
    """Write the runs under `folder` (one preset) as a CSV, verdicts on test items as a string of 0 and 1.

    With `update`, the runs of the present CSV stay that `folder` has no other result for. Only its commit tells what
    such a run was made with, so no setting that concerns it may have changed since.
    """
    runs, items = load_runs(folder), load_items(folder)
    one_preset(runs)
    texts = items.groupby([*CELL, "seed"])["correct"].agg(lambda c: "".join(str(int(x)) for x in c))
    runs["verdicts"] = [texts.get((*(row[k] for k in CELL), row["seed"]), "") for row in runs.to_dict("records")]
    runs = runs.drop(columns=["label", "folder"])
    if update and Path(path).exists():
        before = _read(path)
        known = pd.MultiIndex.from_frame(runs[[*CELL, "seed"]])
        before = before[~pd.MultiIndex.from_frame(before[[*CELL, "seed"]]).isin(known)]
        runs = pd.concat([runs, before]).sort_values([*CELL, "seed"])
        one_preset(runs)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    runs.to_csv(path, index=False, float_format="%.4g")


def _read(path: Path | str) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"strategy": str, "verdicts": str}, keep_default_na=False, na_values={"score": [""]})


def load_sample(path: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what `save_sample` wrote: the runs and the items, as `load_runs` and `load_items` give them."""
    runs = _read(path)
    runs.insert(runs.columns.get_loc("seed") + 1, "label", runs["strategy"].map(label_of))
    rows = [
        {**{k: row[k] for k in (*CELL, "seed")}, "item": i, "correct": verdict == "1"}
        for row in runs.to_dict("records")
        for i, verdict in enumerate(row["verdicts"])
    ]
    return runs.drop(columns="verdicts"), pd.DataFrame(rows, columns=[*CELL, "seed", "item", "correct"])


def find_results(runs_dir: Path | str, preset: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return runs, items and a sentence on where they come from: your runs, else the sample."""
    folder, sample = at_home(runs_dir) / preset, data_dir() / "results" / f"{preset}.csv"
    runs = load_runs(folder)
    if not runs.empty:
        return runs, load_items(folder), f"{len(runs)} runs read from {folder}"
    if not sample.exists():
        raise BtlibError(f"no complete run in {folder}, and no sample {sample}; run `btlib grid --preset {preset}`")
    runs, items = load_sample(sample)
    days, commits = (", ".join(dict.fromkeys(column)) for column in (runs["date"].str[:10], runs["commit"]))
    made = f"made on {days} at commit {commits}"
    return (
        runs,
        items,
        f"NOT your runs ({folder} has none): {len(runs)} that come with the repository, {made}",
    )


def main() -> None:
    """Save a runs folder (runs/<preset>) as the repository's sample: the CSV and the README's figure beside it."""
    from btlib.results import plots
    from btlib.results.paper import table1

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--update", action="store_true", help="keep the runs of the sample that the folder has not")
    args = parser.parse_args()
    path = data_dir() / "results" / f"{args.folder.name}.csv"
    save_sample(args.folder, path, args.update)
    plots.use_style()
    cells = summarize(*load_sample(path))
    plots.score_panels(cells, table1()).savefig(path.with_suffix(".png"), dpi=100)
    print(score_table(cells, intervals=True).to_string(), path, path.with_suffix(".png"), sep="\n")


if __name__ == "__main__":
    main()
