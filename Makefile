# The commands of the project. `make` lists them.
.PHONY: help install test test32 tools gpu lint format types smoke experiments figures readme docs tutorials bench bench-quick matrix ci

help:  ## list the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install:  ## install the package with everything needed to work on it
	pip install -e '.[dev]'

test:  ## run the tests in float64
	python -m pytest

test32:  ## run the tests in float32
	RNN2FF_X64=0 python -m pytest

tools:  ## run the tests that need torch, Dask, submitit, a browser, an ARM compiler and an emulator
	python -m pytest -n 0 -m tools

gpu:  ## run the tests that need an accelerator, in float32
	RNN2FF_X64=0 JAX_DISABLE_MOST_OPTIMIZATIONS=0 python -m pytest -n 0 -m gpu

lint:  ## look for mistakes and for departures from the style
	ruff check .
	ruff format --check .

format:  ## put the code into the style
	ruff check --fix .
	ruff format .

types:  ## check the types
	pyright

smoke:  ## run every experiment in its small version
	python -m experiments.competition --smoke
	python -m experiments.information_transformation --smoke
	python -m experiments.random_networks --smoke
	python -m experiments.generalization --smoke
	python -m experiments.beyond_rate --smoke
	python -m experiments.time_complexity --smoke
	python -m experiments.noise_rejection --smoke
	python -m experiments.canon --smoke

experiments:  ## run every experiment at full size, and keep the records
	python -m experiments.competition
	python -m experiments.information_transformation
	python -m experiments.random_networks
	python -m experiments.generalization
	python -m experiments.beyond_rate
	python -m experiments.time_complexity
	python -m experiments.noise_rejection
	python -m experiments.canon

figures:  ## draw the figures again from the records
	python -m experiments.figures

readme:  ## write the tables of the README and the docs from the records
	python -m experiments.readme

docs:  ## build the documentation site in build/site; no network is needed
	NO_MKDOCS_2_WARNING=1 mkdocs build

tutorials:  ## run the examples again, and write their pages
	python docs/write_tutorials.py

bench:  ## run every benchmark at full size, and write their report
	python -m benchmarks

bench-quick:  ## time passes beside rollouts in less than 3 minutes; compare two by python -m benchmarks.compare A.json B.json
	python -m benchmarks --quick

matrix:  ## install the built package without the checkout, on each Python that is there, with new and old dependencies
	bash .ci/matrix

ci:  ## what runs before a change is taken
	bash .ci/run
