# Two commands do everything on a fresh machine: `make demo` and `make test`.
# uv is used where it is installed, else fetched into .uv/ by pip.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
RUN := $(UV) run --no-sync
DEMO := out/demo
# Tests side by side, one a core; each takes up to 3 GiB.
WORKERS ?= 2

# Models and datasets are never fetched; compiled bytecode makes every start after the first quick.
export HF_HUB_OFFLINE := 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-recording test test-slow test-slurm test-ray test-cluster lint bench bench-training bench-rollouts sync clean

demo: sync
	@rm -rf $(DEMO)
	$(RUN) igrft demo --output $(DEMO)

# The labelling half on a small real recording that comes with the repository.
demo-recording: sync
	@rm -rf $(DEMO)-recording && mkdir -p $(DEMO)-recording
	$(RUN) igrft convert tests/data/g1_small $(DEMO)-recording/converted
	@# This camera is slower than its recording: every other picture repeats the one before.
	$(RUN) igrft annotate $(DEMO)-recording/converted $(DEMO)-recording/labelled --steps.interaction.close_gaps=2
	$(RUN) igrft validate $(DEMO)-recording/labelled
	$(RUN) igrft inspect $(DEMO)-recording/labelled
	@echo "The report, to be opened in a browser:"
	@$(RUN) igrft report $(DEMO)-recording/labelled --output $(DEMO)-recording/report

# A worker goes through neighbouring tests, which share what they import and make, and helps the other out at the end.
test: sync lint
	$(RUN) pytest -n $(WORKERS) --dist worksteal --ignore tests/teleoperators
	@# Servos are emulated in real time: what runs beside them would make them late.
	$(RUN) pytest tests/teleoperators

test-slow: sync
	$(RUN) pytest -m slow -s

# `annotate` on clusters that are started for the tests, on this computer.
test-slurm: sync
	@sh tests/cluster/install_slurm.sh
	$(RUN) pytest -m slurm tests/cluster

test-ray: sync
	$(RUN) pytest -m ray tests/cluster

test-cluster: test-slurm test-ray

lint: sync
	$(RUN) ruff check .
	$(RUN) ruff format --check . || (echo "run: ruff format ." && false)
	$(RUN) mypy

bench: sync
	$(RUN) python benchmarks/rewards.py
	$(RUN) python benchmarks/annotate.py
	$(RUN) python benchmarks/interaction.py

# On GPUs: the same with --full (training.py, values.py, loading.py, multi_gpu.py).
bench-training: sync
	$(RUN) python benchmarks/training.py --shapes
	$(RUN) python benchmarks/training.py
	$(RUN) python benchmarks/flow_samples.py --draws 120
	$(RUN) python benchmarks/loading.py
	$(RUN) python benchmarks/streaming.py memory
	$(RUN) python benchmarks/streaming.py speed
	$(RUN) python benchmarks/multi_gpu.py
	$(RUN) python benchmarks/values.py

# On a GPU: inference.py --full.
bench-rollouts: sync
	$(RUN) python benchmarks/rollouts.py
	$(RUN) python benchmarks/recorder.py
	$(RUN) python benchmarks/serving.py
	$(RUN) python benchmarks/inference.py --shapes
	$(RUN) python benchmarks/inference.py

sync: $(if $(filter uv,$(UV)),,.uv/bin/uv)
	@$(UV) sync --quiet --all-extras

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

clean:
	rm -rf out .pytest_cache .ruff_cache .mypy_cache .hypothesis dist
