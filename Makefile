# Daily commands. Each works from a fresh clone: scripts/setup creates .venv on the first call.
.PHONY: help setup test test-fast test-heavy test-reliability test-mutation lint format types demo shots build constraints ci clean
BIN := .venv/bin

help:           ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 22

setup:          ## create or refresh .venv with everything a developer needs
	@scripts/setup dev

test:           ## every test but the long suites
	@scripts/test

test-fast:      ## stop at the first failure; no viewer
	@scripts/test -m "not heavy and not viewer" --exitfirst

test-heavy:     ## the long suites: fuzzing, kills, whole training runs
	@scripts/test -m heavy

test-reliability:  ## the figures of docs/reliability.md, tried as often as it says (hours)
	@scripts/test -m "" --long --figures docs/reliability.json tests/reliability tests/test_bad_bundles.py tests/io/test_bad_input.py

test-mutation: setup  ## faults put into the modules that guard data: how many do the tests find? (half an hour)
	$(BIN)/python -m pip install --quiet mutmut==3.8.1
	$(BIN)/python tests/reliability/mutation.py

lint: setup     ## ruff, the import contracts, the manifest
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari.yaml

format: setup   ## let ruff repair and format
	$(BIN)/ruff check --fix src tests
	$(BIN)/ruff format src tests

types: setup    ## mypy, strict on the core
	$(BIN)/mypy

demo:           ## the demo, into demo-output/
	@scripts/demo

shots: setup    ## the screenshots of the documentation
	xvfb-run --auto-servernum --server-args="-screen 0 1920x1200x24" $(BIN)/python docs/images/make_screenshots.py

build: setup    ## sdist and wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

constraints: setup  ## move .venv to the newest versions and write them to constraints.txt; run the tests after it
	$(BIN)/python -m pip install --upgrade --upgrade-strategy eager "$$(grep '^torch==' constraints.txt)" --editable ".[all]" --group dev
	{ grep '^#' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } >constraints.new
	mv constraints.new constraints.txt

ci:             ## what a change must pass
	.ci/run

clean:          ## all that was made here, .venv included
	rm -rf .venv build dist demo-output htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache mutants
