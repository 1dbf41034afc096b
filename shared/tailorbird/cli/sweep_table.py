"""A sweep as a person reads it: one row a trial, one column a rung."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from tailorbird.cli.output import last_part
from tailorbird.cli.watch import state_name
from tailorbird.tuning.v1 import sweep_pb2

_STOPPED = {"HALVED": "halved", "NON_FINITE": "no number"}


def sweep_table(sweep: sweep_pb2.Sweep) -> Table:
    """Show every trial: its settings, its validation loss at each rung, and where it stands."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = Text(f"{last_part(sweep.name)}  {_where(sweep)}", style="")
    for head in ("TRIAL", "RANK", "ALPHA", "RATE", "EPOCHS", "STEP"):
        table.add_column(head, justify="right")
    for rung in sweep.rungs:
        table.add_column(f"{100 * rung.fraction:.3g}%", justify="right")
    table.add_column("")
    for trial in sweep.trials:
        table.add_row(*_cells(trial, len(sweep.rungs)), style=_style(trial))
    return table


def _where(sweep: sweep_pb2.Sweep) -> str:
    words = [state_name(sweep.state)]
    if sweep.progress.total_steps:
        words.append(f"step {sweep.progress.step}/{sweep.progress.total_steps}")
    words.append(f"rung {sweep.rungs_decided}/{len(sweep.rungs)}")
    return " · ".join(words)


def _cells(trial: sweep_pb2.Trial, rungs: int) -> list[str]:
    losses = [
        f"{rung.validation_loss:.4f}" if rung.HasField("validation_loss") else "-"
        for rung in trial.rungs
    ]
    return [
        str(trial.index),
        str(trial.rank),
        f"{trial.alpha:g}",
        f"{trial.learning_rate:.3g}" if trial.HasField("learning_rate") else "auto",
        str(trial.epochs) if trial.HasField("epochs") else "auto",
        f"{trial.step}/{trial.total_steps}" if trial.total_steps else "",
        *losses,
        *[""] * (rungs - len(losses)),
        _standing(trial),
    ]


def _standing(trial: sweep_pb2.Trial) -> str:
    if trial.state == sweep_pb2.TRIAL_STATE_BEST:
        return "best"
    reason = trial.stop_reason
    return _STOPPED.get(reason, reason.lower().replace("_", " "))


def _style(trial: sweep_pb2.Trial) -> str:
    if trial.state == sweep_pb2.TRIAL_STATE_BEST:
        return "bold green"
    return "dim" if trial.state == sweep_pb2.TRIAL_STATE_STOPPED else ""
