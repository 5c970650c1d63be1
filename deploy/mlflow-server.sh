#!/usr/bin/env bash
# Runs `mlflow server` with users over PostgreSQL and an S3-compatible store; deploy/server and compose.yaml both do it by this script.
# MLflow, uvicorn, libpq and boto3 read their settings from the environment themselves: MLFLOW_HOST, MLFLOW_PORT, UVICORN_SSL_CERTFILE,
# PGHOST, PGPASSWORD, AWS_ACCESS_KEY_ID, ... So no secret stands on the command line.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
: "${PGPASSWORD:?is not set}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?is not set}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?is not set}"
export MLFLOW_AUTH_CONFIG_PATH="$here/basic_auth.ini" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_WORKERS="${MLFLOW_WORKERS:-1}" MLFLOW_ARTIFACTS_DESTINATION="${MLFLOW_ARTIFACTS_DESTINATION:-s3://mlflow}"

python "$here/prepare.py"
setpriv --pdeathsig TERM mlflow server --app-name basic-auth --backend-store-uri postgresql+psycopg2:// &
mlflow=$!
trap 'kill $mlflow' TERM INT
status=0
wait $mlflow || wait $mlflow || status=$? # a signal ends the first
# Where a part of it was killed, the others would keep the port.
trap '' TERM
kill -TERM -- "-$$" 2>/dev/null || true
exit $status
