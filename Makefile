# Everything a contributor does with this repository. `make` alone lists it.
# Needed: make, a POSIX shell and Python 3.11 or newer; the rest is installed into $(VENV).

VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS := 3.11 3.12 3.13
ROOMS := model runtime verifier diagrams generators cli
# What is run from the repository and is not installed.
SCRIPTS := tools examples
# How many processes share the tests, each file whole in one of them; many tests wait, so one more
# than a small machine has processors. 0: none but pytest's own, which is what --pdb and -s need.
WORKERS ?= 3
# pip says only what is wrong: what it installs is pinned. The network is used when
# requirements/dev.txt asks for something that is not there yet, and at no other time.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
# What the user's shell says about other Pythons is not meant for this one.
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV VIRTUAL_ENV
# Without compiled modules each of the many programs that the tests start compiles all of it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

##@ Use
.PHONY: help
help: ## list what can be made
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { print "\n" substr($$0, 5) ":" } \
		/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nPYTHON=/path/to/python chooses the interpreter; VENV=folder another place.\n'

.PHONY: demo
demo: setup ## prove the table, draw it into out/, and say what was found
	@$(BIN)/python examples/demo.py

##@ Check
.PHONY: test
test: lint rooms ## all of the below, types beside the tests; what CI runs
	@$(MAKE) --no-print-directory -j2 types pytest

.PHONY: lint
lint: setup ## ruff: mistakes and format
	@echo '== ruff check'
	@$(BIN)/ruff check --quiet .
	@echo '== ruff format'
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; \
		echo 'make format puts this right.'; exit 1; }

.PHONY: types
types: setup ## mypy --strict, room by room, then tools and examples
	@echo '== mypy'
	@{ $(BIN)/python -m mypy --no-error-summary && \
		$(BIN)/python -m mypy --no-error-summary $(SCRIPTS); } >$(VENV)/types 2>&1 || \
		{ sed 's#^build/__editable__[^/]*/vfio_migration/##' $(VENV)/types; exit 1; }

.PHONY: rooms
rooms: setup ## import-linter: each room imports only what it may
	@echo '== import-linter'
	@$(BIN)/lint-imports --no-logo >$(VENV)/log 2>&1 || { cat $(VENV)/log; exit 1; }

.PHONY: pytest
pytest: setup ## the tests; ARGS="tests/model -k route" chooses among them, WORKERS=n shares them
	@echo '== pytest'
	@$(BIN)/python -m pytest --quiet --no-header --numprocesses $(WORKERS) --dist loadfile $(ARGS)

.PHONY: exhaustive
exhaustive: setup ## every case, and every example, of which `make test` tries a sample; CI runs it after `make test`
	@echo '== pytest -m exhaustive'
	@$(BIN)/python -m pytest --quiet --no-header --numprocesses $(WORKERS) --dist loadfile \
		-m 'exhaustive or hypothesis' --hypothesis-profile thorough $(ARGS)

.PHONY: matrix
matrix: ## pytest and exhaustive on each tested Python found here, each in its environment; EXCEPT=3.12
	@for version in $(filter-out $(EXCEPT),$(PYTHONS)); do \
		python=$$(requirements/find-python $$version 2>/dev/null) || \
			{ echo "== Python $$version: not found, left out"; continue; }; \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory pytest exhaustive VENV=.venv-$$version PYTHON="$$python" || \
			exit 1; \
	done

.PHONY: bench
bench: setup ## benchmarks, with their figures
	@$(BIN)/python -m pytest --no-header -s --override-ini addopts=--import-mode=importlib \
		tests/benchmarks

.PHONY: spin
spin: setup ## the model checker spin checks the plans for groups (apt-get install spin gcc)
	@$(BIN)/python -m pytest --quiet --no-header --override-ini addopts=--import-mode=importlib \
		tests/benchmarks/test_groups.py $(ARGS)

.PHONY: hostile
hostile: setup ## a million hostile messages to real servers; MESSAGES=n, SEED=n
	@VFIO_MIGRATION_HOSTILE=$(or $(MESSAGES),1000000) VFIO_MIGRATION_SEED=$(or $(SEED),1) \
		$(BIN)/python -m pytest --no-header -s tests/hostile/test_hostile.py \
			tests/hostile/test_descriptor_situations.py $(ARGS)

# atheris is no development dependency: only this needs it, and it is 35 MB.
.PHONY: fuzz
fuzz: setup build/fuzz/atheris ## coverage-guided, with atheris (network, once); RUNS=n each, TARGETS="session"
	@for target in $(or $(TARGETS),server client session); do \
		echo "== $$target"; PYTHONPATH=build/fuzz/atheris:tests $(BIN)/python tests/hostile/fuzz.py \
			$$target $(or $(RUNS),400000) build/fuzz/$$target 2>build/fuzz/log || \
			{ tail -n 60 build/fuzz/log; exit 1; }; \
		grep -E '^(Done|stat::)' build/fuzz/log; \
	done

build/fuzz/atheris:
	@$(PIP) install --no-deps --target $@ atheris

# cosmic-ray is no development dependency either: 64 MB with what it needs. Another release of it
# makes other edits, so it is one of them.
.PHONY: mutate-code
mutate-code: setup build/mutate-code/packages ## does a test notice each edit of our code? FILES="runtime/kit/dirty_log.py", MOST=n, AGAIN=1
	@PYTHONPATH=build/mutate-code/packages $(BIN)/python tools/mutate_code.py $(FILES) \
		$(if $(MOST),--most $(MOST)) $(if $(AGAIN),--again)

build/mutate-code/packages:
	@$(PIP) install --target $@ cosmic-ray==8.7.0

.PHONY: kill
kill: setup ## kill each process at every message boundary of a migration, then recover; takes minutes
	@$(BIN)/python -m pytest --quiet --no-header tests/runtime/coordinator/every_kill.py $(ARGS)

.PHONY: interop
interop: setup ## a guest in a real QEMU drives the served device; RECORD=folder keeps the messages
	@qemu=$$(tests/interop/setup) && VFIO_MIGRATION_QEMU="$$qemu" \
		VFIO_MIGRATION_RECORD=$(RECORD) $(BIN)/python -m pytest --no-header tests/interop $(ARGS)

.PHONY: kernel
kernel: setup ## Debian's newest kernel in QEMU, held against the table (network, once, 180 MB); RECORD=file
	@qemu=$$(tests/interop/setup) && kernel=$$(tests/kernel/setup) && \
		VFIO_MIGRATION_QEMU="$$qemu" VFIO_MIGRATION_KERNEL="$$kernel" \
		VFIO_MIGRATION_RECORD=$(RECORD) $(BIN)/python -m pytest --no-header tests/kernel $(ARGS)

.PHONY: sources
sources: setup ## `import` and the tests for Linux, on sources that Debian packages (network, once, 300 MB)
	@sources=$$(tests/sources/setup) && VFIO_MIGRATION_SOURCES="$$sources" \
		$(BIN)/python -m pytest --no-header tests/sources $(ARGS)

.PHONY: browser
browser: setup ## a Chromium clicks and steps through a report (apt-get install chromium); SHOTS=folder keeps pictures
	@chromium=$$(tests/browser/setup) && VFIO_MIGRATION_CHROMIUM="$$chromium" \
		VFIO_MIGRATION_SHOTS=$(SHOTS) $(BIN)/python -m pytest --no-header tests/browser $(ARGS)

# Sphinx is no development dependency: only this needs it, and it comes with twenty packages.
.PHONY: site
site: setup build/site/installed ## the manual as a site, into out/site; LINKS=1 follows links that lead outside, too
	@PYTHONPATH=build/site/packages $(BIN)/python tools/manual_site.py $(if $(LINKS),--links)
	@PYTHONPATH=build/site/packages VFIO_MIGRATION_SITE=out/site $(BIN)/python -m pytest --quiet \
		--no-header tests/site $(ARGS)

build/site/installed: requirements/site.txt $(VENV)/where
	@rm -rf build/site/packages
	@$(PIP) install --no-deps --require-hashes --target build/site/packages \
		--requirement requirements/site.txt
	@touch $@

##@ Change
.PHONY: format
format: setup ## put imports and layout right
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

.PHONY: docs
docs: setup ## write the generated files anew: diagrams, tables, what pages show
	@$(BIN)/vfio-migration publish
	@$(BIN)/python tools/rooms_picture.py
	@$(BIN)/python tools/findings_page.py
	@$(BIN)/python tools/adopt_page.py
	@$(BIN)/python tools/groups_page.py
	@$(BIN)/python tools/checks_page.py
	@$(BIN)/python tools/mutants_page.py
	@$(BIN)/python tools/proposals_page.py
	@$(BIN)/python tools/shown.py

.PHONY: wheel
wheel: setup ## build the wheel into dist/
	@rm -rf build/lib build/bdist.*  # setuptools would pack what an earlier build left there
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

# uv resolves for all Pythons at once. It is no development dependency: only these two need it.
LOCK = --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
	pyproject.toml
DEV := --extra dev --output-file requirements/dev.txt
SITE := --extra site --output-file requirements/site.txt

.PHONY: lock
lock: build/lock/bin/uv ## bring requirements/*.txt in line with pyproject.toml (network)
	@build/lock/bin/uv pip compile --quiet $(LOCK) $(DEV) >/dev/null
	@build/lock/bin/uv pip compile --quiet $(LOCK) $(SITE) >/dev/null

.PHONY: upgrade
upgrade: build/lock/bin/uv ## move every pin in requirements/*.txt to its newest release (network)
	@build/lock/bin/uv pip compile --quiet --upgrade $(LOCK) $(DEV) >/dev/null
	@build/lock/bin/uv pip compile --quiet --upgrade $(LOCK) $(SITE) >/dev/null

build/lock/bin/uv:
	@python=$$(requirements/find-python $(if $(PYTHON),"$(PYTHON)")) && "$$python" -m venv build/lock
	@build/lock/bin/python -m pip -qq --disable-pip-version-check --no-input install uv

.PHONY: clean
clean: ## remove all that is not in the repository, the environments included
	rm -rf .venv .venv-* build dist out .benchmarks *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

##@ The environment
# Four steps, each done again only if what it rests on has changed:
#   where      the virtual environment; anew if it was made elsewhere or with another PYTHON
#   pins       what requirements/dev.txt names
#   files      the list of files in the rooms, which a strict editable install does not follow
#   installed  vfio-migration itself, editable

.PHONY: setup
setup: $(VENV)/installed ## make it or bring it up to date; whatever needs it does so by itself

WHICH = -c 'import sys; print(sys.version_info, sys.base_prefix)'
ifneq (fits,$(shell test "`cat $(VENV)/where 2>&1`" = "$(CURDIR)" && venv=`$(BIN)/python $(WHICH)` && \
	if test -n "$(PYTHON)"; then test "`$(PYTHON) $(WHICH)`" = "$$venv"; fi && echo fits))
.PHONY: $(VENV)/where
endif

$(VENV)/where:
	@python=$$(requirements/find-python $(if $(PYTHON),"$(PYTHON)")) || exit 1; \
	echo "Setting up $(VENV) with $$python; this takes a minute, once."; \
	"$$python" -m venv --clear $(VENV)
	@pwd >$@

$(VENV)/pins: requirements/dev.txt $(VENV)/where
	@$(PIP) install --no-deps --require-hashes --requirement requirements/dev.txt || { \
		echo 'The development tools could not be installed; the lines above say why.'; \
		echo 'The first set-up needs a package index to install from; later runs do not.'; \
		exit 1; } >&2
	@touch $@

.PHONY: package-files
$(VENV)/files: package-files $(VENV)/where
	@find src $(ROOMS) -type f ! -path '*/__pycache__/*' ! -name '.*' | LC_ALL=C sort >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/installed: $(VENV)/pins $(VENV)/files pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --no-index \
		--config-settings editable_mode=strict --editable .
	@touch $@
