.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
.PHONY: help install demo observability test test-all check test-images test-kubernetes bench-serving bench-optimization bench-gates bench-training bench-evaluation bench-rollout bench-broken bench-monitoring chaos install-lint images compose sbom bench-kubernetes bench-capacity clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/.installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Paceline needs Python 3.11 or 3.12, and none was found. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing the pinned requirements into .venv (a few minutes, once)"
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

install: .venv/.installed  ## the environment, from the lock; nothing happens when it is up to date

demo: install  ## the main job on real flights, through Airflow; ARGS=--exit stops by itself
	$(BIN)/paceline demo $(ARGS)

observability: install  ## Prometheus and Alertmanager beside the demo, on loopback; ARGS="--quicken 15"
	$(BIN)/paceline observability flight_delay $(ARGS)

check: install  ## lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config importlinter.ini

.venv-lint/.installed: requirements-lint.txt
	@test -n "$(PYTHON)" || { echo "The linters need Python 3.11 or 3.12, and none was found"; exit 1; }
	@test -x .venv-lint/bin/python || $(PYTHON) -m venv .venv-lint
	.venv-lint/bin/pip install --disable-pip-version-check --quiet -r requirements-lint.txt
	@touch $@

install-lint: .venv-lint/.installed  ## linters of images, manifests and Terraform, in an environment of their own

test: install check  ## the checks, then the tests
	$(BIN)/pytest -m "not slow and not images" -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-all: test  ## the same, and the slow journeys: the whole demo, and Airflow killed in a canary step
	$(BIN)/pytest -m "slow and not images"

test-images: install  ## the images built, and run with their limits, by buildah and podman as root; ARGS="-m images": all of them
	$(BIN)/pytest tests/images -m "images and not slow" -rPs $(ARGS)

test-kubernetes: install  ## the Kubernetes API as it really is: the cluster that KUBECONFIG names, in a namespace of its own
	@test -n "$(KUBECONFIG)" || { echo "set KUBECONFIG to a cluster with the Gateway API's CRDs"; exit 1; }
	PACELINE_TEST_KUBERNETES=1 $(BIN)/pytest tests/integration/rollout/test_kubernetes_api.py

bench-serving: install  ## the model server beside bare uvicorn, FastAPI, MLServer, BentoML and LitServe; ARGS=--quick: a minute
	$(BIN)/python benchmarks/serving/compare.py $(ARGS)

bench-optimization: install  ## the forms of two nets and of trees on real flights: size, latency, quality; ARGS=--readme
	$(BIN)/python -m benchmarks.optimization $(ARGS)

bench-gates: install  ## plants faults one at a time, and says which gate catches each; ARGS="--only leak", --readme
	$(BIN)/python -m benchmarks.gates $(ARGS)

bench-training: install  ## what a retrain costs, and what retraining through 2013 is worth; ARGS=--readme
	$(BIN)/python -m benchmarks.training $(ARGS)

bench-evaluation: install  ## time and memory of an evaluation of 50,000 and 300,000 rows; ARGS=--readme
	$(BIN)/python benchmarks/evaluation/measure.py $(ARGS)

bench-rollout: install  ## simulated rollouts: false rollbacks and detection, beside other methods; ARGS="--rollouts 100"
	$(BIN)/python -m benchmarks.rollout $(ARGS)

chaos: install  ## 106 rollouts under faults: processes killed, ledger and disk taken away; ARGS=--readme
	$(BIN)/python -m benchmarks.chaos --lease 100 --airflow 6 $(ARGS)
	$(BIN)/python -m benchmarks.chaos.detection

bench-broken: install  ## challengers that are broken in twelve ways, under live traffic: what catches each, and when; ARGS=--readme
	$(BIN)/python -m benchmarks.broken $(ARGS)

images: install  ## the three images, by Docker, Podman or Buildah; ARGS="serving --registry ghcr.io/acme --push"
	$(BIN)/python docker/build.py $(ARGS)

compose: install  ## the whole system on this host, by Docker Compose; ARGS=config, ARGS=down
	$(BIN)/python deploy/compose/prepare.py
	docker compose -f deploy/compose/compose.yaml $(or $(ARGS),up --detach)

sbom: install-lint  ## the bill of materials of each image (CycloneDX), in build/sbom
	docker/sbom build/sbom .venv-lint/bin

bench-monitoring: install  ## false alarms, detection, the season of 2013 and the cost of a watch; ARGS=--quick, --readme
	$(BIN)/python -m benchmarks.monitoring $(ARGS)
	$(BIN)/python -m benchmarks.monitoring.scores $(filter --quick --readme,$(ARGS))
	$(BIN)/python -m benchmarks.monitoring.watch_cost $(if $(filter --quick,$(ARGS)),--rows 100000) $(filter --readme,$(ARGS))

bench-kubernetes: install  ## what a look at 10, 100 and 1,000 pods costs; ARGS=--readme
	$(BIN)/python -m benchmarks.kubernetes $(ARGS)

bench-capacity: install  ## autoscaling by queue depth and by CPU: a spike, a sawtooth, a recorded day; ARGS=--readme, --measure
	$(BIN)/python -m benchmarks.capacity $(ARGS)

clean:  ## removes everything that a run left behind; the environment stays
	rm -rf var great_expectations/uncommitted
