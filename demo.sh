#!/usr/bin/env bash
# The whole pipeline, shrunken, in a throw-away copy: the project's own data, results and runs are not touched.
set -euo pipefail
cd "$(dirname "$0")"

rm -rf .demo
mkdir .demo
unset "${!MLFLOW_@}" # the demo's runs stay in the demo, also where the project's go to a server
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory=.demo
rm -rf .demo/dvc.lock .demo/reports
cd .demo
git init --quiet
dvc cache dir --local "$OLDPWD/.dvc/cache"
if [ -d "$OLDPWD/data/raw" ]; then # what was fetched once is not fetched again
  mkdir data
  cp -r "$OLDPWD/data/raw" data/raw
fi

python - <<'PYTHON'
from pathlib import Path

from ruamel.yaml import YAML

yaml = YAML()
path = Path("params.yaml")
parameters = yaml.load(path)
parameters["trial"]["epochs"] = 2
for study in parameters["studies"].values():
    study["seeds"] = [0, 1]
yaml.dump(parameters, path)
PYTHON

dvc repro
echo "The demo's report: .demo/reports/notebook/report.html (2 epochs and 2 seeds only: a look, not a result)"
echo "Its runs: MLFLOW_TRACKING_URI=sqlite:///$PWD/mlflow.db make ui"
