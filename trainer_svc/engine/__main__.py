"""`python -m trainer_svc.engine <fd>`: one worker process on an inherited socket.

The channel is open before anything heavy is imported, so that the process never outlives its
parent. The main thread runs the event loop, with a task for each lease; the step thread runs torch.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from structlog import get_logger

from tailorbird.errors import TailorbirdError
from tailorbird.object_store import open_store
from tailorbird.printed import log_what_is_printed
from tailorbird.telemetry import configure_logging
from trainer_svc.engine.channel import Channel
from trainer_svc.engine.pulse import Pulse, Sign, turns_of
from trainer_svc.jobs.model import JobError
from trainer_svc.protocol import Ready, Unusable

if TYPE_CHECKING:
    from trainer_svc.engine.base import Base
    from trainer_svc.engine.judging.references import References
    from trainer_svc.engine.loop import StepThread
    from trainer_svc.engine.step.bank import AdapterBank

_THREADS = 256
"""At most, for what jobs read, tokenise and write: enough that none waits for another's."""


def main(fd: int) -> None:
    """Load the base, say Ready, and serve until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Of a library that crashes the process its parent hears where that was.
    faulthandler.enable(all_threads=False)
    threading.excepthook = _thread_died
    channel = Channel(socket.socket(fileno=fd))
    settings = channel.settings
    configure_logging(settings.log_format, settings.log_level)
    log_what_is_printed(settings.log_format)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    # Threads that wait for one another spin. Where somebody else uses their cores that costs most
    # of the speed; without any spinning half of it is gone everywhere. Read when torch is imported.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"

    import torch
    from transformers.utils.logging import disable_progress_bar

    from trainer_svc.engine.base import limit_memory, load_base
    from trainer_svc.engine.judging.references import references

    disable_progress_bar()
    torch.set_num_threads(settings.threads)
    torch.set_num_interop_threads(1)
    Path(settings.scratch_dir).mkdir(parents=True, exist_ok=True)
    try:
        limit_memory(settings.device, settings.gpu_memory_share)
        base = load_base(settings.base_model_path, settings.device)
        if not base.packs:
            get_logger(__name__).warning(
                "records of the base are run one by one", why=base.why_alone
            )
        against = references(settings, base)
    except Exception as error:
        channel.send_last(Unusable(error=_told(error)))
        sys.exit(1)
    asyncio.run(_serve(channel, base, against))


async def _serve(channel: Channel, base: Base, against: References) -> None:
    """Serve for ever. The process ends rather than live on without commands or steps."""
    import torch

    from trainer_svc.engine.loop import StepThread
    from trainer_svc.engine.step.bank import AdapterBank
    from trainer_svc.engine.step.lanes import lanes_for
    from trainer_svc.engine.worker import Worker

    try:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        settings = channel.settings
        lanes = lanes_for(base, settings.threads)
        torch.set_num_threads(max(1, settings.threads // lanes))
        bank = AdapterBank(
            base, gradient_checkpointing=settings.gradient_checkpointing, lanes=lanes
        )
        steps = StepThread(bank, progress_interval=settings.progress_interval)
        store = open_store(settings.object_store, settings.store_retry_timeout)
        worker = Worker(settings, bank, steps, store, channel.send, against)
        channel.send(_ready(settings.device, bank))
        if settings.silence_seconds is not None:
            pulse = Pulse(
                channel.say_alive, settings.silence_seconds, _signs(settings.device, steps)
            )
            threading.Thread(target=pulse.run, name="pulse", daemon=True).start()
        serving = asyncio.create_task(worker.serve(channel.inbox.get))
        ended = asyncio.create_task(asyncio.to_thread(steps.wait))
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    except Exception:
        get_logger(__name__).exception("the worker cannot go on")
    finally:
        os._exit(1)


def _signs(device: str, steps: StepThread) -> Mapping[str, Sign]:
    """Return what must not hang. Of the event loop that runs, and of a GPU."""
    signs: dict[str, Sign] = {"the event loop": turns_of(asyncio.get_running_loop())}
    if device == "cuda":
        # A processor may take hours for a pass of a large base, and does not hang by itself.
        signs["the device"] = lambda: steps.turn
    return signs


def _ready(device: str, bank: AdapterBank) -> Ready:
    from trainer_svc.engine.step.optimizer import OPTIMIZER

    base = bank.base
    return Ready(
        device=device,
        dtype=str(base.dtype).removeprefix("torch."),
        compute_dtype=str(base.compute_dtype).removeprefix("torch."),
        attention=base.attention,
        optimizer=OPTIMIZER,
        gradient_checkpointing=bank.gradient_checkpointing,
    )


def _thread_died(died: threading.ExceptHookArgs) -> None:
    """End the process: without the threads of its channel it is of no use."""
    get_logger(__name__).error("a thread of the worker died", exc_info=died.exc_value)
    os._exit(1)


def _told(error: Exception) -> JobError:
    if isinstance(error, TailorbirdError):
        return JobError(reason=error.reason, message=error.message, metadata=error.metadata)
    text = " ".join(str(error).split())[:500]
    return JobError(
        reason="BASE_UNUSABLE",
        message=f"the base model cannot be loaded: {type(error).__name__}: {text}",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
