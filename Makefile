# make demo   two proxies, an agent and a target on this machine, reached by `ssh -J`
# make test   everything that CI runs
# make lint   style and types only
# make soak   slow readers for five minutes each, and the figures; SOAK=60 for a minute
# make fuzz   every parser and state machine; FUZZFLAGS="--seconds 20" to stop early
# make bench  how fast, beside OpenSSH and asyncssh; bench-quick takes two minutes

# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo "$$python" && break; done)
VENV := .venv
BIN := $(VENV)/bin

# Where pyenv keeps the Pythons that it does not show by name.
PYENV_BINS = $(shell pyenv versions --bare 2>/dev/null | grep '^3\.1[123]\.' \
	| sed "s|.*|:$$(pyenv root)/versions/&/bin|" | tr -d '\n')

# Seconds.
SOAK := 300

.PHONY: demo test lint soak fuzz bench bench-quick clean

demo: $(BIN)/python
	@rm -rf build  # setuptools would ship what an earlier build left there
	@$(BIN)/python -m pip install --quiet .
	@$(BIN)/rtunnel demo

test: $(BIN)/tox
	@.ci/peers install
	@if [ "$$CI" = true ] || .ci/peers check; then \
		export RTUNNEL_REQUIRE_PEERS=1; fi; \
	export PATH="$$PATH$(PYENV_BINS)"; \
	$(BIN)/python .ci/tally.py $(BIN)/tox run-parallel --colored no \
		--parallel 2 --parallel-no-spinner $(TOXFLAGS)

lint: $(BIN)/tox
	@$(BIN)/tox run -q -e lint,mypy

soak: $(BIN)/tox
	@rm -f build/soak.txt
	@RTUNNEL_SOAK=$(SOAK) $(BIN)/tox run -q -e soak; \
		status=$$?; cat build/soak.txt; exit $$status

fuzz: $(BIN)/python
	@$(BIN)/python -m pip install --quiet '.[fuzz]'
	@$(BIN)/python -m fuzz $(FUZZFLAGS)

bench bench-quick: $(BIN)/python
	@$(BIN)/python -m pip install --quiet . -r benchmarks/requirements.txt
	@$(BIN)/python -m benchmarks $(if $(filter bench-quick,$@),--quick) \
		--json build/bench.json --plots build/bench

$(BIN)/tox: $(BIN)/python
	@$(BIN)/python -m pip install --quiet 'tox>=4.11'
	@touch $@

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "rtunnel needs Python 3.11 or newer" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive \
				apt-get install -q -y --no-install-recommends python3-venv; \
		else echo "install Python's venv module (Debian: python3-venv)" >&2; \
			exit 1; fi; fi
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .tox .mypy_cache .ruff_cache .hypothesis _trial_temp* build dist \
		rtunnel.egg-info twisted/plugins/dropin.cache
