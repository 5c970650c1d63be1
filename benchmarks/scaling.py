"""Write the measured blocks of docs/scaling.md and its figure from ledger.json and cluster.json. The same files give the same bytes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jinja2 import UndefinedError
from matplotlib.figure import Figure

from benchmarks.measure import Json
from benchmarks.report import read_results, render
from pipeline.common.command import run
from pipeline.common.errors import PipelineError
from pipeline.pages.generated import update_files, update_page
from pipeline.pages.plotting import ARM_COLOURS, GREY, draw

PAGE = Path("docs/scaling.md")
FIGURE = "figures/scaling.svg"
LEDGER, CLUSTER = Path("benchmarks/ledger.json"), Path("benchmarks/cluster.json")
BLOCKS = ("overhead", "ledger", "limits")
COMMAND = "python -m benchmarks.scaling"
MEASURE = "make bench-scaling"
COUNTS = (1_000, 100_000)
CPUS = (16, 128, 1_024)
STORES = ("sqlite", "postgresql")


def main() -> None:
    """Write the blocks of the page and its figure, or with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if page and figure are not what was measured")
    check = parser.parse_args().check
    ledger, cluster = (read_results(path, MEASURE) for path in (LEDGER, CLUSTER))
    try:
        figures = {FIGURE: draw(nodes_figure, cluster["nodes"])}
        facts = {"ledger": ledger, "cluster": cluster, "model": [model(store, ledger, cluster) for store in STORES]}
        blocks = {block: render(f"scaling_{block}.md.jinja", facts) for block in BLOCKS}
    except (KeyError, IndexError, TypeError, UndefinedError) as error:
        raise PipelineError(f"{LEDGER}, {CLUSTER}: not as they are measured ({error}); run `{MEASURE}` again") from None
    update_files(figures, PAGE.parent, COMMAND, check=check)
    for block, text in blocks.items():
        update_page(block, COMMAND, text, check=check, page=PAGE)


def model(store: str, ledger: Json, cluster: Json) -> Json:
    """Return the seconds of each part for very many trials, with the ledger in this store.

    The driver first looks every trial up. Then it hands out, takes back and logs one trial after another, while nodes train.
    """
    [write] = [row for row in ledger["writes"] if (row["store"], row["epochs"]) == (store, "together")]
    read = max((row for row in ledger["reads"] if row["store"] == store and row["indexes"]), key=lambda row: row["runs"])
    trial, start = cluster["trial_s"]["median"], cluster["start"]["first_trial"]["median"]
    per_trial: dict[str, float] = {
        "look_up": read["find_100_s"]["median"] / 100,
        "hand_out": cluster["overhead"][-1]["seconds"] / cluster["overhead"][-1]["trials"],
        "write": 1 / write["trials_per_s"]["median"],
    }
    driver = per_trial["hand_out"] + per_trial["write"]
    seconds = {cpus: per_trial["look_up"] + max(trial / cpus, driver) for cpus in CPUS}
    return {
        "store": store,
        "per_trial_s": per_trial,
        "parts_s": {part: {str(count): count * seconds for count in COUNTS} for part, seconds in per_trial.items()},
        "cpus_kept_busy": trial / driver,
        "whole_s": [{"cpus": cpus, **{str(count): start + count * each for count in COUNTS}} for cpus, each in seconds.items()],
    }


def nodes_figure(rows: Sequence[Json]) -> Figure:
    """Draw the speed of a cluster relative to its first node, by number of nodes, beside the ideal."""
    figure = Figure(figsize=(5.2, 3.0))
    axes = figure.subplots()
    nodes = [row["nodes"] for row in rows]
    speed = [row["trials"] / row["seconds"]["median"] for row in rows]
    axes.plot(nodes, nodes, color=GREY, linestyle="--", label="ideal")
    axes.plot(nodes, [nodes[0] * each / speed[0] for each in speed], color=ARM_COLOURS[0], marker="o", label="measured")
    axes.set(xlabel="nodes", ylabel="times as fast as one node", xticks=nodes, ylim=(0, None))
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    run(main)
