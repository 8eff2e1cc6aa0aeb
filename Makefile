.PHONY: check test bench format

check:
	ruff format --check .
	ruff check .
	mypy

test:
	python -m pytest

bench:
	python benchmarks/many_methods.py

format:
	ruff format .
	ruff check --fix .
