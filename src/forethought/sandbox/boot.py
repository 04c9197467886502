"""What runs first inside a sandbox: takes a program from standard input, limits itself, and runs it.

Stands alone: it is handed to a bare interpreter as text and imports nothing of this package.
"""

import builtins
import contextlib
import json
import os
import sys
import types


def read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = os.read(0, count - len(data))
        if not block:
            raise EOFError
        data += block
    return data


def limit(limits: dict[str, int]) -> None:
    """Hard limits: nothing in here may raise them again. A second more of the processor lets the first signal tell."""
    import resource

    wanted = {
        "RLIMIT_AS": (limits["memory"], limits["memory"]),
        "RLIMIT_CPU": (limits["cpu"], limits["cpu"] + 1),
        "RLIMIT_FSIZE": (limits["disk"], limits["disk"]),
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_NPROC": (1, 1),
        "RLIMIT_CORE": (0, 0),
    }
    for name, (soft, hard) in wanted.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            most = resource.getrlimit(kind)[1]
            lower = most != resource.RLIM_INFINITY and most < hard
            resource.setrlimit(kind, (min(soft, most), most) if lower else (soft, hard))


def refuse(code: bytes) -> bool:
    """Install a seccomp filter, for good, and die with the parent. Returns whether the kernel took the filter."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    held = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(held))
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    death_signal, no_new_privileges, set_seccomp, by_filter = 1, 38, 22, 2
    prctl(death_signal, 9, 0, 0, 0)
    if prctl(no_new_privileges, 1, 0, 0, 0):
        return False
    return bool(prctl(set_seccomp, by_filter, ctypes.addressof(program), 0, 0) == 0)


def run(parts: list[str], name: str) -> str:
    """Run the parts one after another as one module; how it ended.

    Nothing that decides which parts run is looked up once one of them has run: what a part replaces is its own affair.
    """
    module = sys.modules[name] = types.ModuleType(name)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # `site`, which has them, is not loaded
    execute = exec
    try:
        codes = tuple(compile(part, "program", "exec") for part in parts)
        for code in codes:
            execute(code, module.__dict__)
    except MemoryError:
        return "memory"
    except SystemExit:
        return "exited"
    except BaseException:  # noqa: BLE001 - it is told, with its traceback, as the program's end
        import traceback

        traceback.print_exc()
        return "raised"
    return "ended"


def main() -> None:
    asked = json.loads(read(int(read(10))))
    mark, write, leave = asked.pop("mark"), os.write, os._exit
    limit(asked["limits"])
    if asked["filter"]:
        refuse(bytes.fromhex(asked["filter"]))
    write(1, f"{mark}\n".encode())
    status = run(asked["parts"], asked["name"])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    write(1, f"\n{mark} {status}".encode())
    leave(0)


if __name__ == "__main__":
    main()
