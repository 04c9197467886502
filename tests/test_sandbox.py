"""Nothing gets out of the sandbox, and nothing in it takes more than its share."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from forethought.core.errors import ModelError, UsageError
from forethought.sandbox import Kind, Limits, Outcome, Program, bubblewrap, run, run_sync, seccomp
from forethought.sandbox.worker import Workers

running = sys.modules[run.__module__]

SMALL = Limits(wall=2.0, cpu=1, memory=128 << 20, disk=1 << 20, output=1 << 16)
SECRET = Path(__file__).parent / "conftest.py"
complaint = bubblewrap.complaint(shutil.which("bwrap"))
strong = pytest.mark.skipif(complaint is not None, reason=str(complaint))
filtered = pytest.mark.skipif(seccomp.filter_bytes() is None, reason="seccomp has no filter for this machine")
kinds = pytest.mark.parametrize("kind", [pytest.param("bubblewrap", marks=strong), "plain"])


def ran(text: str, kind: Kind = "bubblewrap", stdin: str = "", limits: Limits = SMALL) -> Outcome:
    return run_sync(Program((text,), stdin), limits, kind)


# what it is for


@kinds
def test_a_program_runs(kind: Kind) -> None:
    found = ran("import math, json, dataclasses, re\nprint(input(), math.pi)", kind, stdin="six times nine\n")
    assert (found.status, found.out, found.err) == ("ended", "six times nine 3.141592653589793\n", "")


@kinds
@pytest.mark.parametrize(("text", "status"), [
    ("pass", "ended"),
    ("1 / 0", "raised"),
    ("def", "raised"),
    ("import sys; sys.exit(0)", "exited"),
    ("exit()", "exited"),
    ("import os; os._exit(0)", "exited"),
    ("import ctypes; ctypes.string_at(0)", "killed"),
])  # fmt: skip
def test_how_it_ended(text: str, status: str, kind: Kind) -> None:
    assert ran(text, kind).status == status


@kinds
def test_the_parts_share_a_module_and_nothing_swallows_the_next(kind: Kind) -> None:
    found = run_sync(Program(("x = 2", "assert x == 2", "x = 3", "assert x == 2")), SMALL, kind)
    assert found.status == "raised"
    assert "AssertionError" in found.err
    assert run_sync(Program(("x = '''", "assert False")), SMALL, kind).status == "raised"


@kinds
def test_only_main_runs_a_main_guard(kind: Kind) -> None:
    guard = ("from __future__ import annotations", "if __name__ == '__main__': print('main')")
    assert [run_sync(Program(guard, name=name), SMALL, kind).out for name in ("__main__", "solution")] == ["main\n", ""]


@kinds
def test_a_module_of_any_name_holds_dataclasses(kind: Kind) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\nA(1)"
    assert run_sync(Program((text,), name="solution"), SMALL, kind).status == "ended"


@kinds
def test_long_inputs_and_outputs_pass(kind: Kind) -> None:
    text = "import sys\nsys.stdout.write(sys.stdin.read().upper())"
    found = run_sync(Program((text,), "x" * 900_000), Limits(), kind)
    assert (found.status, found.out) == ("ended", "X" * 900_000)


@kinds
def test_an_unread_input_is_no_harm(kind: Kind) -> None:
    assert run_sync(Program(("pass",), "x" * 900_000), SMALL, kind).status == "ended"


# attempts at escape and denial: each has to say REFUSED, or to meet a limit

ESCAPES = {
    "fork": "import os; os.fork()",
    "fork by hand": "import ctypes; r = ctypes.CDLL(None).fork(); assert r >= 0",
    "threads": "import threading\nwhile True: threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()",
    "a shell": "import os\nassert os.system('echo') == 0",
    "a subprocess": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)",
    "exec": "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'pass'])",
    "a pool": "import multiprocessing as m; m.Pool(2)",
    "a connection": "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
    "the loopback": "import socket; socket.socket().connect(('127.0.0.1', 22))",
    "a name server": "import socket; socket.getaddrinfo('example.org', 80)",
    "a unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a page": "import urllib.request as u; u.urlopen('http://example.org', timeout=1)",
    "ptrace": "import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "signals to others": "import os; os.kill(1, 9)",
    "signals to its group": "import os; os.killpg(0, 9)",
    "a user namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "a mount": "import ctypes; assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "higher limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    "memory without a name": "import os; os.memfd_create('x')",
    "a new root": "import os; os.chroot('/tmp')",
}
HIDDEN = {
    "a host file": f"open({str(SECRET)!r})",
    "the tests' folder": f"import os; os.listdir({str(SECRET.parent)!r})",
    "the users": "open('/etc/passwd')",
    "a link out": f"import os; os.symlink({str(SECRET)!r}, '/tmp/l'); open('/tmp/l')",
    "a way up": f"import os; os.chdir('/tmp'); open('../../..' + {str(SECRET)!r})",
    "/proc": "import os; os.listdir('/proc')",
    "its parent's memory": "open('/proc/1/mem', 'rb').read(1)",
    "the environment": "import os; os.environ['PWD_OF_HOST'] if 'SECRET' not in os.environ else None",
    "devices": "open('/dev/mem', 'rb')",
    "block devices": "import os; os.mknod('/tmp/d', 0o60600, 0)",
    "a write to the root": "open('/x', 'w')",
    "a write to the library": "import os; open(os.__file__, 'a')",
    "an import of the host's packages": "import numpy",
    "an import of this package": "import forethought",
    "an import by path": f"import sys; sys.path.insert(0, {str(SECRET.parents[1] / 'src')!r}); import forethought",
    "an import of tests": f"import sys; sys.path[:0] = [{str(SECRET.parents[1])!r}]; import tests.conftest",
}


@strong
@filtered
@pytest.mark.parametrize("attempt", ESCAPES)
def test_what_is_refused(attempt: str) -> None:
    assert ran(ESCAPES[attempt]).status == "raised"


@strong
@pytest.mark.parametrize("attempt", HIDDEN)
def test_what_is_not_there(attempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "42")
    assert ran(HIDDEN[attempt]).status == "raised"


@pytest.mark.parametrize("attempt", ["a host file", "an import by path"])
def test_the_weaker_one_is_weaker(attempt: str) -> None:
    assert ran(HIDDEN[attempt], "plain").status == "ended"


@kinds
@pytest.mark.parametrize(("text", "statuses"), [
    ("while True: pass", {"time"}),
    ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {"time", "killed"}),
    ("import time; time.sleep(60)", {"time"}),
    ("import signal; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; signal.pause()", {"time"}),
    ("input(); import sys; sys.stdin.read(); import select; select.select([], [], [])", {"raised", "time"}),
    ("x = bytearray(1 << 40)", {"memory"}),
    ("x = []\nwhile True: x.append(bytearray(1 << 20))", {"memory"}),
    ("x = 'a'\nwhile True: x += x", {"memory"}),
    ("import mmap; mmap.mmap(-1, 1 << 32)", {"raised"}),
    ("while True: print('x' * 1000)", {"output"}),
    ("import sys\nwhile True: sys.stderr.write('x' * 1000)", {"output"}),
    ("import os\nwhile True: os.write(1, bytes(65536))", {"output"}),
    ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 16))", {"raised", "killed"}),
    ("x = [open('/dev/null') for _ in range(1000)]", {"raised"}),
    ("def f(): f()\nf()", {"raised"}),
    ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {"killed", "memory", "raised", "time"}),
    ("import os; os.close(1); os.close(2)\nwhile True: pass", {"killed", "time"}),
    ("9 ** 9 ** 9 ** 9", {"time", "memory"}),
])  # fmt: skip
def test_what_takes_too_much(text: str, statuses: set[str], kind: Kind) -> None:
    begun = time.monotonic()
    assert ran(text, kind).status in statuses
    assert time.monotonic() - begun < 15  # the limits are 1 and 2 s; the machine may be busy


@strong
def test_all_files_together_have_a_limit() -> None:
    found = ran("for i in range(9): open(f'/tmp/{i}', 'wb').write(bytes(1 << 19))")
    assert found.status == "raised"
    assert "No space left" in found.err


@kinds
@pytest.mark.parametrize("text", [
    "import os; os.write(1, b'\\nended'); os._exit(0)",
    "print('ended', flush=True); import os; os._exit(0)",
    "import builtins; builtins.exec = print; import sys; sys.exit()",
    "import atexit, os; atexit.register(os._exit, 0); raise SystemExit(0)",
    "import sys; sys.excepthook = lambda *e: None; 1 / 0",
    "import builtins; builtins.exec = builtins.compile = lambda *a: None",
    "import sys; sys._getframe(1).f_locals['parts'].clear()",
])  # fmt: skip
def test_a_program_cannot_just_say_that_it_ended(text: str, kind: Kind) -> None:
    assert run_sync(Program((text, "assert False")), SMALL, kind).status in ("exited", "raised")


@kinds
def test_replacing_the_tools_of_the_boot_changes_no_word(kind: Kind) -> None:
    text = "import os, json, sys\nos.write = os._exit = lambda *_: None\nsys.stdout = None\njson.loads = None\n1 / 0"
    assert ran(text, kind).status == "raised"


# the machinery


@strong
def test_it_starts_fast_and_runs_side_by_side() -> None:
    """A tenth of a second alone; the threshold here is for machines that are busy with other things."""
    ran("pass")
    alone = min(ran_for("pass") for _ in range(5))
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        assert [found.status for found in threads.map(ran, ["import time; time.sleep(0.5)"] * 4)] == ["ended"] * 4
    assert time.monotonic() - begun < 1.9
    assert alone < 0.5


def ran_for(text: str) -> float:
    begun = time.monotonic()
    ran(text)
    return time.monotonic() - begun


@strong
@pytest.mark.anyio
async def test_a_cancelled_run_is_killed() -> None:
    begun = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(run, Program(("import time; time.sleep(30)",)), Limits(wall=30))
        await anyio.sleep(1)
        assert children() == ["bwrap"]
        group.cancel_scope.cancel()
    await anyio.sleep(1)
    assert children() == []
    assert time.monotonic() - begun < 10


def children() -> list[str]:
    """The names of this process's children that are sandboxes."""
    pids = [pid for told in Path("/proc/self/task").glob("*/children") for pid in told.read_text().split()]
    names = [path.read_text().strip() for pid in pids if (path := Path(f"/proc/{pid}/comm")).exists()]
    return [name for name in names if name == "bwrap"]


@strong
@pytest.mark.anyio
async def test_many_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, counts, found = threading.Lock(), [0], list[int](), list[str]()

    def watched(*asked: Any) -> Outcome:
        with lock:
            now[0] += 1
            counts.append(now[0])
        try:
            return run_sync(*asked)
        finally:
            with lock:
                now[0] -= 1

    async def one() -> None:
        found.append((await run(Program(("pass",)))).status)

    monkeypatch.setattr(running, "run_sync", watched)
    async with anyio.create_task_group() as group:
        for _ in range(3 * running.AT_ONCE):
            group.start_soon(one)
    assert found == ["ended"] * 3 * running.AT_ONCE
    assert max(counts) == running.AT_ONCE


def test_without_bubblewrap_nothing_runs_unless_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"only in a sandbox, and bubblewrap is not here.*apt-get.*sandbox=plain"):
        ran("open('/tmp/never', 'w')")
    assert ran("pass", "plain").status == "ended"


def test_where_namespaces_are_forbidden_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(
        UsageError, match=r"bubblewrap does not work here \(bwrap: No permissions.*sandbox=plain"
    ) as told:
        ran("pass")
    assert "\n" not in str(told.value)


def test_a_sandbox_that_dies_at_its_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "python", lambda: ["sh", "-c", "echo out of order >&2; exit 3"])
    with pytest.raises(ModelError, match="did not start: out of order"):
        ran("pass", "plain")


@pytest.mark.parametrize("name", ["wall", "cpu", "memory", "disk", "output"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Limits(**{name: 0})


# workers


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_a_worker_that_hangs_is_killed_and_the_next_call_works() -> None:
    workers = Workers("tests.test_sandbox:slow", size=1)
    assert workers.call([0], 20) == 0
    with pytest.raises(TimeoutError):
        workers.call([60], 0.3)
    assert workers.call([0.01], 20) == 0.01


def test_a_worker_tells_errors_and_survives_them() -> None:
    workers = Workers("json:loads", size=1)
    with pytest.raises(ModelError, match="JSONDecodeError"):
        workers.call(["{"], 20)
    assert workers.call(['{"a": "\u2028é"}'], 20) == {"a": "\u2028é"}


def test_a_worker_that_dies_is_told_and_replaced() -> None:
    workers = Workers("os:_exit", size=1)
    for _ in range(2):
        with pytest.raises(ModelError, match="died"):
            workers.call([3], 20)


@pytest.mark.parametrize(("target", "library", "reason"), [
    ("broken:f", "", "RuntimeError: no good"),
    ("operator:add", "broken", "RuntimeError: no good"),
    ("nowhere:f", "", "ModuleNotFoundError: No module named 'nowhere'"),
    ("operator:nothing", "", "AttributeError: .*'nothing'"),
    ("dying:f", "", "its process died"),
])  # fmt: skip
def test_a_worker_that_cannot_start_says_why(
    target: str, library: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no\\ngood')")
    (tmp_path / "dying.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    workers = Workers(target, 1, library=library)
    for _ in range(2):
        with pytest.raises(UsageError, match=f"^{target} cannot be run here: {reason}$"):
            workers.call([1, 2], 20)


def test_what_a_library_prints_is_no_answer() -> None:
    assert Workers("builtins:print", size=1).call(["noise"], 20) is None


def test_a_worker_serves_where_many_files_are_open() -> None:
    workers = Workers("operator:add", size=1)
    with ExitStack() as files:
        for _ in range(1024):
            files.enter_context(open(os.devnull))
        assert workers.call([1, 2], 20) == 3


def test_workers_serve_many_threads() -> None:
    workers = Workers("operator:add", size=2)
    found: list[int] = []

    def ask(i: int) -> None:
        found.append(workers.call([i, i], 20) - 2 * i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 50


def test_the_filter_is_for_this_machine() -> None:
    code = seccomp.filter_bytes()
    assert code is None or (sys.platform == "linux" and len(code) % 8 == 0)
