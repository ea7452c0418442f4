"""Run a program with limits: `python -I launcher.py LIMITS STATUS COMMAND…`; see `glassgpt.code.isolation`.

A script of its own, which imports nothing of this package: it runs between fork and exec, where a process with threads
must not run Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def enter_namespaces() -> bool:
    """Enter own user, network, process and IPC namespaces, and return whether the system allows it."""
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if library.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC):
        return False
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    return True


def set_limits(limits: dict[str, int]) -> None:
    """Set each limit by its name in `resource`, never above one that is set already."""
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (most, most))


def main(limits: str, status: str, *command: str) -> None:
    """Enter namespaces, set limits, write "1" or "0" to the file descriptor `status`, and run the command."""
    isolated = enter_namespaces()
    os.write(int(status), b"1" if isolated else b"0")
    os.close(int(status))
    if isolated:  # only children are in the new process namespace; with the first one all others end
        child = os.fork()
        if child:
            _, result = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(result)
            os._exit(code if code >= 0 else 128 - code)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    set_limits(json.loads(limits))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(127)


if __name__ == "__main__":
    main(*sys.argv[1:])
