# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := bash
PY := .venv/bin/python
# Nothing downloaded also means nothing sent.
export DO_NOT_TRACK := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help setup demo learn-vlm test soak lint format benchmarks clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## virtual environment, pinned packages, system libraries
	@infra/setup.sh

demo: setup  ## the whole chain on generated rooms, ending in a report
	@.venv/bin/spa3r demo

learn-vlm: setup  ## Spa3-VLM on more rooms for longer: does geometry pay? (an hour on 2 cores)
	@infra/learn_vlm.sh

test: setup  ## all tests that this machine can run (under 8 minutes on 2 cores)
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

soak: setup  ## the long forms of the endurance promises (under 40 minutes)
	@$(PY) -m pytest -q -m soak --timeout 2400

lint: setup  ## ruff and pyright
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright

format: setup  ## ruff, in place
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

benchmarks: setup  ## all benchmarks, results in docs/benchmarks
	@for name in ingest ingest_workers reader target_dtypes target_sources loader \
	  asymmetric_attention pretrain_step tune_features prope encode; do \
	  $(PY) -m benchmarks.$$name --json docs/benchmarks/$$name.json || exit 1; done

clean:  ## removes what the demo made (not the virtual environment)
	@rm -rf spa3r-home
