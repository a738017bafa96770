"""Searches of several processes: killed at any moment, sharing one storage, on SQLite and on a real
PostgreSQL.
"""

import collections
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from embedded_model import embedded
from search_worker import options, scores_of

from qsched.search.options import Candidate
from qsched.search.run import search
from qsched.search.saved import open_study, saved_searches
from qsched.search.study import GRACE, Study

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
RESOLUTION = 6


class Worker:
    """A process that waits for `start` and then takes part in the search."""

    def __init__(self, nursery, out):
        self.pid, self.out, self.nursery = int(nursery.stdout.readline()), out, nursery

    def start(self):
        Path(f"{self.out}.go").touch()
        return self

    def lines(self):
        text = self.out.read_text() if self.out.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def kill_after(self, points):
        """SIGKILL once it has computed this many points; what it had computed until then."""
        self.wait(lambda: len(self.lines()) >= points)
        os.kill(self.pid, signal.SIGKILL)
        self.wait(lambda: not psutil.pid_exists(self.pid))
        return self.lines()

    def finish(self):
        """(points computed here, the final report)."""
        self.wait(lambda: not psutil.pid_exists(self.pid))
        *computed, report = self.lines()
        assert isinstance(report, dict), "the worker failed"
        return computed, report

    @staticmethod
    def wait(condition):
        until = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture(scope="module")
def nursery():
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "search_worker.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def worker(nursery, tmp_path):
    """Makes workers: worker(storage, pause=seconds per point)."""
    number = itertools.count()

    def make(storage, pause=0.02):
        out = tmp_path / f"worker-{next(number)}"
        order = {"storage": storage, "resolution": RESOLUTION, "pause": pause, "out": str(out)}
        nursery.stdin.write(json.dumps(order) + "\n")
        nursery.stdin.flush()
        return Worker(nursery, out)

    return make


def run_together(worker, storage, count, pause=0.02):
    """All points that `count` workers computed, one list each, and the seconds that the slowest took."""
    workers = [worker(storage, pause) for _ in range(count)]
    for one in workers:
        one.start()
    results = [one.finish() for one in workers]
    return [points for points, _ in results], max(report["seconds"] for _, report in results)


def finished_trials(storage):
    study = optuna.load_study(study_name=saved_searches(storage)[0].name, storage=storage)
    return [trial for trial in study.get_trials() if trial.state.name == "COMPLETE"]


def assert_whole(storage):
    """Every point is there exactly once, with its own scores."""
    trials = finished_trials(storage)
    axis = options(RESOLUTION).axis
    counts = collections.Counter((trial.params["c_x"], trial.params["c_eps"]) for trial in trials)
    assert set(counts) == {(c_x, c_eps) for c_x in axis for c_eps in axis} and set(counts.values()) == {1}
    for trial in trials:
        expected = scores_of(Candidate.of(trial.params))
        assert (trial.user_attrs["alignment"], trial.user_attrs["quality"]) == tuple(expected)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A real PostgreSQL server of our own; its URL."""
    installed = [
        *map(Path, filter(None, [shutil.which("initdb")])),
        *Path("/usr/lib/postgresql").glob("*/bin/initdb"),
    ]
    if not installed:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    programs, folder = installed[-1].resolve().parent, tmp_path_factory.mktemp("postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        for path in (folder, *folder.parents):
            if not path.stat().st_mode & 0o001:
                path.chmod(0o755)
        shutil.chown(folder, "postgres")
    data = folder / "data"
    run = lambda *command, check=True: subprocess.run(
        [*as_user, *map(str, command)], check=check, capture_output=True, cwd="/"
    )
    run(programs / "initdb", "-D", data, "-U", "qsched", "--auth=trust", "--no-sync")
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(programs / "pg_ctl", "-D", data, "-o", settings, "-l", folder / "log", "-w", "start")
    run(programs / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "qsched", "search")
    yield f"postgresql+psycopg://qsched@127.0.0.1:{port}/search"
    run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop", check=False)  # it may be gone already


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'search.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request):
    url = request.getfixturevalue(request.param)
    yield url
    if request.param == "postgres":
        for name in optuna.get_all_study_names(url):
            optuna.delete_study(study_name=name, storage=url)


def test_a_killed_search_goes_on_without_losing_or_repeating_a_finished_point(worker, storage):
    computed = []
    for points in (1, 8, 13):
        computed += worker(storage).start().kill_after(points)
        stored = [(trial.params["c_x"], trial.params["c_eps"]) for trial in finished_trials(storage)]
        # a batch of two each time
        assert len(stored) == len(set(stored)) and len(stored) >= len(computed) - 2 * 3
    before = {(trial.params["c_x"], trial.params["c_eps"]) for trial in finished_trials(storage)}
    points, report = worker(storage).start().finish()
    # it waits for the dead, the second time for those without a heartbeat
    assert report["seconds"] < 20 + 2 * GRACE
    assert report["done"] == RESOLUTION**2 and not before & {tuple(point) for point in points}
    assert len(points) == RESOLUTION**2 - len(before)
    assert_whole(storage)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_workers_on_one_storage_share_the_work_and_compute_no_point_twice(worker, storage, count):
    shares, _ = run_together(worker, storage, count, pause=0.2)  # long beside what a busy start takes
    everything = [tuple(point) for share in shares for point in share]
    assert len(everything) == len(set(everything)) == RESOLUTION**2
    assert all(len(share) >= RESOLUTION**2 / count / 3 for share in shares)  # everyone works
    assert_whole(storage)


def test_a_worker_that_dies_leaves_its_points_to_the_others(worker, storage):
    dying, living = worker(storage, pause=0.1).start(), worker(storage, pause=0.05).start()
    killed = dying.kill_after(3)
    points, report = living.finish()
    assert report["done"] == RESOLUTION**2 and len(killed) + len(points) >= RESOLUTION**2
    assert_whole(storage)


def test_more_workers_are_faster_where_points_take_time(worker, postgres):
    seconds = {}
    for count in (1, 4):
        _, seconds[count] = run_together(worker, postgres, count, pause=1.0)
        optuna.delete_study(study_name=saved_searches(postgres)[0].name, storage=postgres)
    assert seconds[4] < 0.6 * seconds[1]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    """A file may not grow beyond a limit: the system's own refusal, in a process of its own."""
    storage = f"sqlite:///{tmp_path / 'search.sqlite3'}"
    open_study(embedded(), options(RESOLUTION).checked(embedded()), storage)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from embedded_model import embedded\nfrom search_worker import options\nfrom "
        "qsched.search.run import search\n"
        "from qsched.search.study import StorageError\n"
        "backbone, limit = embedded(), int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n    search(backbone, options(6), storage=sys.argv[1])\n"
        "except StorageError as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    size = (tmp_path / "search.sqlite3").stat().st_size
    command = [sys.executable, "-c", code, storage, str(size + 30_000)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    (line,) = done.stdout.strip().splitlines() or [done.stderr]
    assert line.startswith("The storage sqlite:///") and "cannot be used" in line
    kept = {trial.number for trial in finished_trials(storage)}
    preset = search(embedded(), options(RESOLUTION), storage=storage)
    assert np.isfinite(preset.surface.jaq()).all()
    assert kept <= {trial.number for trial in finished_trials(storage)}


def test_the_password_of_a_database_is_never_shown(postgres):
    secret = postgres.replace("qsched@", "qsched:hunter2@").replace("/search", "/nowhere")
    with pytest.raises(Exception, match="nowhere") as caught:
        Study(secret, "study", {}, (0.8, 1.2), {})
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
