"""The house stays one that a newcomer can find their way in: measured by ``tests/house.py``."""

from __future__ import annotations

import re
import statistics

import pytest

from tests.house import HERE, House, drawn


@pytest.fixture(scope="module")
def house() -> House:
    return House()


def test_there_are_at_most_nine_floors(house):
    assert len(house.floors) <= 9


def test_there_are_at_most_thirty_rooms(house):
    assert len(house.rooms) <= 30, house.rooms


def test_at_most_27_entries_stand_at_the_root(house):
    assert len(house.entries) <= 27, house.entries


def test_no_class_name_means_two_things(house):
    assert house.duplicate_class_names == []


def test_no_files_import_one_another(house):
    assert house.cycles == []


def test_functions_are_short(house):
    lines = house.function_lines
    assert statistics.median(lines) <= 10
    assert lines[-1] <= 65


def test_no_module_has_more_than_400_lines(house):
    assert {name: lines for name, lines in house.module_lines.items() if lines > 400} == {}


@pytest.mark.parametrize("page", ["docs/design.md", "docs/contributing.md", "docs/providers.md"])
def test_the_files_that_a_page_names_exist(page):
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", (HERE / page).read_text())
    places = [(HERE / folder / name) for folder in (".", "batcher") for name in named]
    there = {name for name, place in zip(named * 2, places, strict=True) if place.exists()}
    assert set(named) - there - {"tests/ROOM/test_MODULE.py"} == set()


@pytest.mark.parametrize("page", ["docs/design.md", "docs/contributing.md", "README.md"])
def test_what_the_pages_draw_is_what_the_code_says(house, page):
    before, after, drawing = drawn(house)[page]
    assert before + drawing + after in (HERE / page).read_text(), "draw it again: make house"
