"""Open the MLflow UI over the project's runs, with its description and saved views up to date; on this machine alone."""

import argparse
import os
import sys

from pipeline.common.addresses import public
from pipeline.common.command import run
from pipeline.common.loopback import HOST, listen


def main() -> None:
    """Print where to look, and become MLflow's server; only point to a tracking server that runs already."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help=f"of {HOST} (default: %(default)s)")
    port = parser.parse_args().port
    from pipeline.tracking.ledger import Ledger  # here, so that --help need not wait for MLflow
    from pipeline.tracking.views import VIEWS, describe_experiment, view_address

    with Ledger() as ledger:
        describe_experiment(ledger)
    served_elsewhere = ledger.tracking_uri.startswith(("http:", "https:"))
    if not served_elsewhere:
        listen(port).close()  # MLflow would complain of a port that is taken in many lines
    server = public(ledger.tracking_uri).rstrip("/") if served_elsewhere else f"http://{HOST}:{port}"
    for key, view in VIEWS.items():
        print(f"{view.name + ':':40} {server}/{view_address(ledger.experiment_id, key)}")
    if served_elsewhere:
        return
    print("starting the UI, which takes some seconds; stop it with Ctrl-C", flush=True)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else it starts many processes more
    os.environ["MLFLOW_BACKEND_STORE_URI"] = ledger.tracking_uri  # may hold a password, and every user can read arguments
    options = ["--host", HOST, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options])  # noqa: S606 - no shell, nothing from outside


if __name__ == "__main__":
    run(main)
