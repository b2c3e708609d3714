# Two commands on a fresh machine: `make repro` and `make test`. Needs Python 3.11 and make; no other set-up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-bench
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test lint ui bench bench-peers clean distclean

help:  ## show these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install AstrID with the pinned constraints

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $(STAMP)

repro: setup  ## run the whole pipeline on the embedded simulated survey
	dvc repro
	@echo
	@astrid registry list
	@echo
	@echo "report        reports/index.html"
	@echo "model folder  models/export/"
	@echo "experiments   make ui, then open http://127.0.0.1:5000"

test: setup  ## run lint, types, import rules and the tests
	$(MAKE) --no-print-directory lint
	pytest -n 2 --dist loadgroup

lint: setup  ## ruff, mypy, the import rules, params.yaml against conf/
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	astrid params --check

ui: setup  ## open MLflow's UI on this project's database (takes up to 20 s to answer)
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

bench: setup  ## every benchmark table -> reports/benchmarks.html; ARGS="--quick --only subtraction"
	python benchmarks/run.py $(ARGS)

bench-peers: $(PEERS)/.installed  ## create .venv-bench with the peers that the benchmarks run beside AstrID

$(PEERS)/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check "setuptools<81" wheel "numpy<2.3"
	while read -r peer; do case "$$peer" in ""|"#"*) continue;; esac; \
	  $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation "$$peer" "numpy<2.3" \
	  || echo "$$peer cannot be installed here; the tables will say so"; done < $<
	touch $@

clean:  ## remove products and caches; keeps .venv, the DVC cache and mlflow.db
	rm -rf data/catalog data/raw data/pairs data/calibrated data/difference data/candidates data/triplets data/splits data/scores
	rm -rf models/train models/checkpoints models/evaluate models/export reports/difference reports/figures reports/plots reports/index.html
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

distclean: clean  ## also remove .venv, the DVC cache and the tracking store
	rm -rf $(VENV) .dvc/cache .dvc/tmp mlflow.db mlartifacts multirun
