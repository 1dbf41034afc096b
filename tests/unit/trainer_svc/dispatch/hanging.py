"""python -m tests.unit.trainer_svc.dispatch.hanging FD: takes everything and says nothing."""

from __future__ import annotations

import threading

if __name__ == "__main__":
    threading.Event().wait()
