"""The suite of reliability: each test here gives a row of the table in docs/reliability.md.

The fixtures `trials` and `figures`, with the options `--long` and `--figures FILE`, come from tests/published.py.
"""
