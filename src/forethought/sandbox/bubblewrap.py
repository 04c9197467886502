"""Command lines for an interpreter in a sandbox: inside bubblewrap, or bare."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from forethought.core.errors import UsageError
from forethought.sandbox.limits import Limits

BOOT = Path(__file__).with_name("boot.py").read_text()
WAYS_ON = (
    "install it where it may make user namespaces (apt-get install bubblewrap; in Docker it takes --privileged or a "
    "seccomp profile that lets it), or ask for the weaker sandbox=plain"
)


def interpreter() -> str:
    """The real interpreter, not a virtual environment's link to it."""
    return os.path.realpath(sys.executable)


def python() -> list[str]:
    """Isolated: no environment, no site packages, no user folder, no byte code written."""
    return [interpreter(), "-I", "-S", "-B", "-c", BOOT]


def wrapped(limits: Limits) -> list[str]:
    """The command inside bubblewrap: its own namespaces, the interpreter read-only, a small /tmp, no /proc."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UsageError(f"generated programs run only in a sandbox, and bubblewrap is not here: {WAYS_ON}")
    walls = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    walls += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    for name, value in {"HOME": "/tmp", "PATH": "", "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": libraries()}.items():
        walls += ["--setenv", name, value] if value else []
    files = [part for path in seen() for part in ("--ro-bind", path, path)]
    files += [part for path, target in links() for part in ("--symlink", target, path)]
    files += [part for path in packages() for part in ("--tmpfs", path, "--remount-ro", path)]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        files += ["--dev-bind", device, device]
    files += ["--size", str(limits.disk), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return [bwrap, *walls, *files, "--", *python()]


@functools.cache
def seen() -> tuple[str, ...]:
    """What the sandbox sees of the host: the interpreter, its library, and the shared libraries of the system."""
    paths = [interpreter(), *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))]
    paths += [str(path) for path in Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").glob("libpython*.so*")]
    system = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64")
    paths += [path for path in system if os.path.isdir(path) and not os.path.islink(path)]
    whole = [path for path in dict.fromkeys(map(os.path.realpath, paths)) if os.path.exists(path)]
    return tuple(p for p in whole if not any(p != other and p.startswith(f"{other}/") for other in whole))


@functools.cache
def links() -> tuple[tuple[str, str], ...]:
    """Where /lib and its like are links into /usr."""
    return tuple((path, os.readlink(path)) for path in ("/lib", "/lib32", "/lib64") if os.path.islink(path))


@functools.cache
def packages() -> tuple[str, ...]:
    """Folders with installed packages inside what is seen: covered, so that the host's packages are not."""
    folders = [os.path.join(root, name) for root in seen() for name in ("site-packages", "dist-packages")]
    folders += ["/usr/lib/python3/dist-packages"]
    return tuple(folder for folder in folders if os.path.isdir(folder))


@functools.cache
def libraries() -> str:
    """Where the loader finds the interpreter's own shared library, if it has one."""
    folder = str(sysconfig.get_config_var("LIBDIR") or "")
    return folder if sysconfig.get_config_var("Py_ENABLE_SHARED") else ""


@functools.cache
def complaint(bwrap: str | None) -> str | None:
    """Why this `bwrap` cannot be used on this machine; None if it can."""
    if bwrap is None:
        return "bubblewrap is not here"
    command = [*wrapped(Limits())[:-1], "pass"]
    try:
        trial = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start here ({error})"
    said = " ".join(trial.stderr.decode(errors="replace").split())[:200]
    return None if trial.returncode == 0 else f"bubblewrap does not work here ({said or trial.returncode})"


def check() -> None:
    """Raises UsageError, with what to do about it, where there is no strong sandbox."""
    why = complaint(shutil.which("bwrap"))
    if why is not None:
        raise UsageError(f"generated programs run only in a sandbox, and {why}: {WAYS_ON}")
