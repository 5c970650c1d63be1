"""Open the MLflow UI over the project's runs, with its description and saved views up to date; on this machine alone."""

import argparse
import os
import sys

from pipeline.common.addresses import public
from pipeline.common.command import run
from pipeline.common.loopback import HOST, listen


def main() -> None:
    """Say where to look, and become MLflow's server; a tracking server that runs already is only pointed to."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="of 127.0.0.1 (default: %(default)s)")
    port = parser.parse_args().port
    from pipeline.tracking.store import Ledger
    from pipeline.tracking.views import VIEWS, describe_experiment, view_address

    with Ledger() as ledger:
        describe_experiment(ledger)
    serves = not ledger.tracking_uri.startswith(("http:", "https:"))
    if serves:
        listen(port).close()  # MLflow would complain of a port that is taken in many lines
    server = f"http://{HOST}:{port}" if serves else public(ledger.tracking_uri).rstrip("/")
    for key, view in VIEWS.items():
        print(f"{view.name + ':':40} {server}/{view_address(ledger.experiment_id, key)}")
    if serves:
        print("starting the UI, which takes some seconds; stop it with Ctrl-C", flush=True)
        become_server(port, ledger.tracking_uri)


def become_server(port: int, tracking_uri: str) -> None:
    """Replace this process by MLflow's server."""
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else it starts many processes more
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracking_uri  # may hold a password, and every user can read arguments
    options = ["--host", HOST, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options])  # noqa: S606 - no shell, nothing from outside


if __name__ == "__main__":
    run(main)
