"""Run a command that dies with the process that started it: `python -S -E launch.py <parent pid> <command> ...`.

On Linux the kernel kills the command when its parent ends, however it ends (PR_SET_PDEATHSIG, kept over exec), so a
supervisor that is killed with -9 leaves nothing behind. Elsewhere the command just runs. The kernel watches the
*thread* that started the child: start children from threads that live as long as they should.

Imports nothing but the standard library, and little of it: it stands before every start of a process.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
