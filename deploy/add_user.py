#!/usr/bin/env python
"""Adds a user to the shared MLflow server: python deploy/add_user.py NAME, with admin's MLFLOW_TRACKING_... variables set.

The new password is asked for, or read from standard input. Users log trials and read all; they may delete only what is theirs.
"""

import argparse
import getpass
import os
import sys

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client


def main() -> None:
    """Add the user that the command line names.

    Raises:
        SystemExit: there is no server, it refuses admin's password, or the name or password.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME")
    name = parser.parse_args().name
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        sys.exit("error: MLFLOW_TRACKING_URI is not set; set it to the server's address, as in http://127.0.0.1:5000")
    password = getpass.getpass(f"password of {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        get_app_client("basic-auth", tracking_uri=address).create_user(name, password)
    except MlflowException as error:
        reason = str(error).strip().split("\n")[0][:300]
        sys.exit(f"error: {name} was not added by {address}: {reason}; check the address, and admin's MLFLOW_TRACKING_PASSWORD")
    print(f"{name} may use {address}")


if __name__ == "__main__":
    main()
