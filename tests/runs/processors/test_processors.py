"""Processors that a process may use, on cgroup trees made up in a temporary folder."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT
from qffs.runs import processors
from qffs.runs.processors import openmp_defaults, quota, threads_are_set

V2 = "30 20 0:26 {root} {mounted} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 20 0:27 {root} {mounted} rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "32 20 0:28 / {mounted} rw,nosuid - cgroup cgroup rw,memory"


def process(folder: Path, cgroup: str, *mounts: str, root: str = "/", **files: str) -> Path:
    """Write what the system says of a process in these cgroups: its folder; ``a__b`` is the file ``cgroups/a/b``."""
    proc, mounted = folder / "proc", folder / "cgroups"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text("".join(each.format(root=root, mounted=mounted) + "\n" for each in mounts))
    for name, text in files.items():
        path = mounted / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc


@pytest.fixture
def of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("150000 100000\n", 1.5),
        ("20000 100000\n", 0.2),
        ("max 100000\n", math.inf),
        ("max\n", math.inf),
        ("50000 0\n", math.inf),
        ("", math.inf),
    ],
)
def test_quota_of_version_2(tmp_path: Path, text: str, share: float) -> None:
    assert quota(process(tmp_path, "0::/user/job\n", V2, user__job__cpu_max=text)) == share


@pytest.mark.parametrize(("text", "share"), [("250000\n", 2.5), ("-1\n", math.inf)])
def test_quota_of_version_1(tmp_path: Path, text: str, share: float) -> None:
    files = {"job__cpu_cfs_quota_us": text, "job__cpu_cfs_period_us": "100000\n"}
    assert quota(process(tmp_path, "5:memory:/\n4:cpu,cpuacct:/job\n0::/other\n", V1, **files)) == share


def test_version_1_without_its_period_is_no_limit(tmp_path: Path) -> None:
    assert quota(process(tmp_path, "4:cpu:/\n", V1, cpu_cfs_quota_us="250000\n")) == math.inf


def test_the_least_of_all_cgroups_above_counts_and_of_no_others(tmp_path: Path) -> None:
    files = {
        "user__cpu_max": "120000 100000",
        "user__job__cpu_max": "max 100000",
        "user__job__deep__cpu_max": "400000 100000",
        "user__job__deep__child__cpu_max": "10000 100000",
        "other__cpu_max": "10000 100000",
    }
    assert quota(process(tmp_path, "0::/user/job/deep\n", V2, **files)) == 1.2


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {"cpu_max": "300000 100000", "cpu_cfs_quota_us": "50000", "cpu_cfs_period_us": "100000"}
    assert quota(process(tmp_path, "4:cpu:/\n0::/\n", V1, V2, **files)) == 0.5


def test_a_path_begins_where_the_tree_is_mounted(tmp_path: Path) -> None:
    proc = process(tmp_path, "0::/docker/1a/job\n", V2, root="/docker/1a", job__cpu_max="150000 100000")
    assert quota(proc) == 1.5


@pytest.mark.parametrize("path", ["/docker/2b", "/../outside"])
def test_a_cgroup_that_is_not_mounted_is_taken_for_the_nearest_that_is(tmp_path: Path, path: str) -> None:
    root = "/" if ".." in path else "/docker/1a"
    assert quota(process(tmp_path, f"0::{path}\n", V2, root=root, cpu_max="150000 100000")) == 1.5


def test_other_mounts_say_nothing(tmp_path: Path) -> None:
    files = {"cpu_cfs_quota_us": "250000", "cpu_cfs_period_us": "100000", "cpu_max": "150000 100000"}
    proc = process(tmp_path, "4:cpu:/\n3:memory:/\n2:name=systemd:/\n", MEMORY, V2, **files)
    assert quota(proc) == math.inf


def test_missing_and_broken_files_are_no_limit(tmp_path: Path) -> None:
    assert quota(tmp_path / "nowhere") == math.inf
    assert quota(process(tmp_path, "what\n0::/\n", "what", V2, cpu_max="much too much")) == math.inf


@pytest.mark.parametrize(
    ("text", "count"), [("150000 100000", 2), ("1000 100000", 1), ("0 100000", 1), ("9900000 100000", 8)]
)
@pytest.mark.usefixtures("of_eight")
def test_processors_are_the_quota_rounded_up_and_at_most_the_affinity(tmp_path: Path, text: str, count: int) -> None:
    assert processors.processors(process(tmp_path, "0::/\n", V2, cpu_max=text)) == count


def test_processors_are_those_of_the_affinity() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system knows no affinity")
    show = "import os; from qffs.runs.processors import processors as count\n"
    one = f"{show}os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(count())"
    assert subprocess.run([sys.executable, "-c", one], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.usefixtures("of_eight")
def test_a_quota_limits_threads_and_waiting_threads_sleep(tmp_path: Path) -> None:
    limited = process(tmp_path, "0::/\n", V2, cpu_max="150000 100000")
    added = openmp_defaults({}, limited)
    assert (added["OMP_NUM_THREADS"], added["OMP_WAIT_POLICY"]) == ("2", "PASSIVE")
    assert openmp_defaults(added, limited) == {}, "a process begun by this one adds nothing"
    assert not threads_are_set(added), "a quota is not the user's choice"
    assert openmp_defaults({}, tmp_path) == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
@pytest.mark.usefixtures("of_eight")
def test_a_number_of_threads_that_the_user_sets_stays(tmp_path: Path, name: str) -> None:
    limited = process(tmp_path, "0::/\n", V2, cpu_max="150000 100000")
    assert openmp_defaults({name: "3"}, limited) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert threads_are_set({name: "3"})
    assert not threads_are_set({})


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_a_way_to_wait_that_the_user_sets_stays(tmp_path: Path, name: str) -> None:
    assert openmp_defaults({name: "1"}, tmp_path) == {}


SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
COMMAND = """
import json, os, sys
from qffs.cli import main
sys.argv = ["qffs", "--version"]
try:
    main()
except SystemExit:
    print(json.dumps([os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules]))
"""
LIBRARY = """
import os
before = dict(os.environ)
import torch
threads = torch.get_num_threads()
import qffs
from qffs import quantize
from qffs.runs import processors as _
assert dict(os.environ) == before, set(os.environ) ^ set(before)
assert torch.get_num_threads() == threads
"""


@pytest.mark.parametrize(("user", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_the_command_line_prepares_without_torch(user: dict[str, str], policy: str) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in SETTINGS} | user
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [policy, False]


@pytest.mark.slow
def test_the_library_changes_neither_environment_nor_threads() -> None:
    environment = {name: text for name, text in os.environ.items() if name not in SETTINGS}
    subprocess.run([sys.executable, "-c", LIBRARY], env=environment, check=True)


def test_inside_a_test_nothing_is_left_to_add() -> None:
    assert openmp_defaults() == {}


@pytest.mark.slow
@pytest.mark.parametrize(("user", "spins"), [({}, False), ({"OMP_WAIT_POLICY": "ACTIVE"}, True)])
def test_inside_a_test_waiting_threads_sleep_unless_the_user_wants_them_to_spin(
    user: dict[str, str], spins: bool
) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in SETTINGS} | user
    inside = f"{Path(__file__).relative_to(ROOT)}::{test_inside_a_test_nothing_is_left_to_add.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", inside],  # OpenMP prints its settings when torch is imported
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    counts = re.findall(r"GOMP_SPINCOUNT = '(\d+|INFINITE)'", done.stderr)
    if not counts:
        pytest.skip("another OpenMP than GNU's")
    assert {count != "0" for count in counts} == {spins}
