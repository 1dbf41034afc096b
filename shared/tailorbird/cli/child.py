"""python child.py PARENT COMMAND...: becomes COMMAND, which gets SIGTERM when process PARENT dies.

However the parent dies, kill -9 included. Linux only; elsewhere COMMAND runs on. Not imported: run
by its path, so that it starts at once.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(sys.argv[1]):
            sys.exit("the parent died first")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command is the caller's
