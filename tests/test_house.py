"""The house stays one that a newcomer can find their way in: measured by ``tests/house.py``."""

from __future__ import annotations

import statistics

import pytest

from tests.house import HERE, House, floor_table


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


def test_the_table_of_floors_in_the_design_page_is_that_of_the_code(house):
    page = (HERE / "docs/design.md").read_text()
    assert floor_table(house) in page, "bring it up to date with: python -m tests.house"
