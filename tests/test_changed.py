"""What ``make check`` runs for a change."""

from tests.changed import MOST_FILES, files_for

TESTS = {
    "tests/test_gate.py": "from batcher.pacing.gate import Gate\nfrom batcher.clock import Clock\n",
    "tests/app/test_calls.py": "from batcher.pacing import gate\n",
    "tests/jobs/test_jobs.py": "import batcher.jobs.job\n",
    "tests/test_faults.py": "import subprocess\nfrom batcher.pacing.gate import Gate\n",
}


def test_a_module_is_tested_by_what_is_named_after_it_and_what_imports_it():
    assert files_for(["batcher/pacing/gate.py"], TESTS) == [
        "tests/test_gate.py",
        "tests/app/test_calls.py",
    ]


def test_tests_that_start_processes_run_if_they_were_changed_themselves():
    assert files_for(["tests/test_faults.py", "README.md"], TESTS) == ["tests/test_faults.py"]


def test_a_change_to_what_everything_imports_runs_so_many_files_and_no_more():
    everywhere = {f"tests/test_{n}.py": "from batcher.clock import Clock\n" for n in range(50)}
    assert len(files_for(["batcher/clock.py"], everywhere)) == MOST_FILES
