"""Every promise of ``docs/guarantees.md`` names tests, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "guarantees.md").read_text()
PROMISES = [
    line
    for line in PAGE.partition("## How often")[0].splitlines()
    if line.startswith("| ") and not re.match(r"\| (promise|---)", line)
]


@cache
def known_tests() -> frozenset[str]:
    trees = [ast.parse(path.read_text()) for path in TESTS.rglob("test_*.py")]
    functions = (
        node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[2:60].partition(" |")[0])
def test_a_promise_names_tests_that_exist(promise):
    named = re.findall(r"`(test_\w+)`", promise)
    assert named, "a promise without a proof"
    assert set(named) - known_tests() == set()


def test_the_page_says_what_is_not_promised():
    assert len(PAGE.partition("## What is not promised")[2].splitlines()) > 10


def test_names_of_files_in_the_page_exist():
    for path in re.findall(r"`((?:benchmarks|tests|docs)/[\w/.]+)`", PAGE):
        assert (TESTS.parent / path).exists(), path
