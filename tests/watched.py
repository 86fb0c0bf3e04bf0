"""Watch what a piece of code does to the machine, with Python's own audit events.

Of what it runs, opens, writes, deletes and starts, ``watched`` records what is outside the folders
that it was given. Libraries that write without Python (torch and OpenCV from C++) raise no event:
compare ``snapshot`` of a folder with canary files before and after, too. Take one harmless case
first, so that what is imported at first use is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

REPO = Path(__file__).resolve().parents[1]

# Where programs are: their code may be read and run.
_PROGRAMS = tuple(
    {os.path.realpath(path) for path in (REPO, sys.prefix, sys.base_prefix, "/usr/share/fonts")}
    | {os.path.realpath(path) for path in sysconfig.get_paths().values()}
    | {os.path.realpath(path) for path in sys.path if path.endswith("site-packages")}
)
# What the system says of itself and of its processes; /proc/self/cwd and the like are elsewhere.
_SYSTEM = ("/proc", "/sys/devices", "/sys/fs/cgroup", "/dev/null", "/dev/urandom")

# Event: which of its arguments are paths. An open for reading is told apart below.
_CHANGES = {
    "os.chmod": (0,), "os.chown": (0,), "os.lchown": (0,), "os.link": (0, 1), "os.mkdir": (0,),
    "os.remove": (0,), "os.rename": (0, 1), "os.rmdir": (0,), "os.symlink": (1,),
    "os.truncate": (0,), "os.utime": (0,), "os.setxattr": (0,), "os.mkfifo": (0,),
    "shutil.rmtree": (0,), "shutil.copyfile": (1,), "shutil.move": (0, 1),
    "shutil.unpack_archive": (0, 1), "sqlite3.connect": (0,),
}  # fmt: skip
_READS = {"os.listdir": (0,), "os.scandir": (0,), "os.walk": (0,), "glob.glob": (0,),
          "os.chdir": (0,), "shutil.copyfile": (0,), "ctypes.dlopen": (0,)}  # fmt: skip
# Nothing that reads a file has a reason for these.
_NEVER = (
    "builtins.breakpoint", "builtins.input", "ftplib.connect", "http.client.connect", "os.exec",
    "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.system", "os.putenv", "os.unsetenv", "pickle.find_class", "pty.spawn", "code.__new__",
    "signal.pthread_kill", "smtplib.connect", "socket.bind", "socket.connect",
    "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen",
    "sys.addaudithook", "sys.setprofile", "sys.settrace", "urllib.Request", "webbrowser.open",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch(NamedTuple):
    write: tuple[str, ...]
    read: tuple[str, ...]
    seen: list[str]


_watches: list[_Watch] = []
_installed: list[bool] = []  # an audit hook cannot be taken away
_recording = threading.local()


@contextmanager
def watched(*folders: str | Path, read: tuple[str | Path, ...] = ()) -> Iterator[list[str]]:
    """Record what the block does outside of some folders.

    Args:
        *folders: Where it may read, write and delete.
        read: Where it may only read, besides what is installed.

    Yields:
        A line for each event that is none of those, empty if all is well. Its code may be an
        event too: of strings that are compiled or run, of modules of a package that was not
        imported before, and of processes and connections.
    """
    if not _installed:
        sys.addaudithook(_record)
        _installed.append(True)
    own = tuple(os.path.realpath(folder) for folder in folders)
    more = tuple(os.path.realpath(folder) for folder in read)
    watch = _Watch(own, own + more + _PROGRAMS + _SYSTEM, [])
    _watches.append(watch)
    # A log that cannot be written, as one to the closed stream of an earlier test, would print a
    # traceback, for which Python compiles lines of the code.
    printed, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield watch.seen
    finally:
        logging.raiseExceptions = printed
        _watches.remove(watch)


def snapshot(folder: str | Path) -> dict[str, tuple[Any, ...]]:
    """All that is in a folder: kind, time and content by path; links are not followed."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = ""
        found[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches or getattr(_recording, "now", False):
        return
    watch, _recording.now = _watches[-1], True  # what is done here raises events of its own
    try:
        if line := _fault(watch, event, arguments):
            watch.seen.append(line)
    finally:
        _recording.now = False


def _fault(watch: _Watch, event: str, arguments: tuple[Any, ...]) -> str | None:
    if event in _NEVER:
        return f"{event} {arguments!r:.200}"
    if event == "open":
        path, mode, flags = arguments
        writes = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING)
        return _outside(watch.write if writes else watch.read, f"open {mode or flags}", path)
    if event == "exec":
        code = arguments[0]
        name = code.co_filename if isinstance(code, CodeType) else repr(code)
        return None if _is_program(name) else f"exec of {name}"
    if event == "compile":
        return None if _is_program(arguments[1]) else f"compile {arguments[0]!r:.200}"
    if event == "import":
        package = str(arguments[0]).partition(".")[0]
        return None if package in sys.modules else f"import {arguments[0]}"
    found = [_outside(watch.write, event, *_of(arguments, i)) for i in _CHANGES.get(event, ())]
    found += [_outside(watch.read, event, *_of(arguments, i)) for i in _READS.get(event, ())]
    return next(filter(None, found), None)


def _of(arguments: tuple[Any, ...], index: int) -> tuple[Any, Any]:
    """A path of an event, and the folder that it is relative to."""
    folders = [a for a in arguments[index + 1 :] if isinstance(a, int) and a >= 0]
    return arguments[index], folders[-1] if folders else None


def _outside(allowed: tuple[str, ...], event: str, path: Any, folder: int | None = None) -> Any:
    if isinstance(path, int) or path is None:
        return None  # opened before, by its path
    name = os.fsdecode(path)
    if "\0" in name:
        return None  # no system takes it
    if folder is not None and not os.path.isabs(name):
        name = os.path.join(f"/proc/self/fd/{folder}", name)
    # The last part may be a link that is deleted or replaced itself: where it lies counts.
    follow = event.startswith(("open", "os.listdir", "os.scandir", "os.chdir", "os.truncate"))
    head, tail = os.path.split(os.path.abspath(name) if not name.startswith("/proc") else name)
    real = os.path.realpath(name) if follow else os.path.join(os.path.realpath(head), tail)
    if any(real == one or real.startswith(one + os.sep) for one in allowed):
        return None
    return f"{event} {real}"


def _is_program(name: Any) -> bool:
    if not isinstance(name, (str, bytes, os.PathLike)):
        return False
    name = os.fsdecode(name)
    if name.startswith("<frozen ") or name == "<__array_function__ internals>":
        return True
    real = os.path.realpath(name)
    return os.path.isfile(real) and any(real.startswith(one + os.sep) for one in _PROGRAMS)
