"""Makes database and bucket ready for `mlflow server`: run before each start, does only what is still to be done.

Where they are, libpq's variables (PGHOST, PGPASSWORD, ...), boto3's (AWS_ACCESS_KEY_ID, ...), MLFLOW_S3_ENDPOINT_URL and
MLFLOW_ARTIFACTS_DESTINATION say.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psycopg2
from botocore.exceptions import BotoCoreError, ClientError

DATABASE = "postgresql+psycopg2://"
INDEXES = Path(__file__).with_name("indexes.sql")
PATIENCE_SECONDS = 60
NOT_THERE = ("404", "NoSuchBucket")


def main() -> None:
    """Wait for PostgreSQL, bring MLflow's tables to this version, add indexes, make the bucket.

    Raises:
        SystemExit: one of them cannot be had.
    """
    _patiently("PostgreSQL", lambda: psycopg2.connect("").close(), psycopg2.OperationalError)
    subprocess.run(["mlflow", "db", "upgrade", DATABASE], check=True)
    with closing(psycopg2.connect("")) as connection:
        connection.autocommit = True
        connection.cursor().execute(INDEXES.read_text())
    address = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    if address.scheme == "s3":
        _patiently("the S3-compatible store", lambda: _make_bucket(address.netloc), (BotoCoreError, ClientError))


def _patiently(name: str, call: Callable[[], None], errors: type[Exception] | tuple[type[Exception], ...]) -> None:
    """Call it, and again while it fails, for a minute at most: it may be starting up, too."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except errors as error:
            if time.monotonic() > deadline:
                sys.exit(f"error: {name} cannot be used: {str(error).strip()}")
        time.sleep(0.5)


def _make_bucket(bucket: str) -> None:
    s3 = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_THERE:
            raise
        s3.create_bucket(Bucket=bucket)


if __name__ == "__main__":
    main()
