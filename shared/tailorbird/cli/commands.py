"""The table of all commands, for the help and for completion; it imports none of them."""

from __future__ import annotations

from typing import ClassVar

from tailorbird.cli.lazy import Entry, LazyGroup

ASKED = "tailorbird.cli.context"
"""In a command's meta: the context named before it, as in `tailorbird --context NAME jobs list`."""


class Commands(LazyGroup):
    """What `tailorbird` can be asked."""

    sections: ClassVar[dict[str, tuple[Entry, ...]]] = {
        "Run the services": (
            Entry(
                "up",
                "tailorbird.cli.up:up",
                "Start the trainer, serving and the web console, and stop them on Ctrl-C.",
            ),
            Entry(
                "console",
                "tailorbird.cli.console:console",
                "Start the web console, and stop it on Ctrl-C.",
            ),
            Entry(
                "doctor",
                "tailorbird.cli.doctor:doctor",
                "Look at everything the services and their callers need; say what is wrong, and"
                " what to do.",
            ),
            Entry(
                "info",
                "tailorbird.cli.info:info",
                "Show what the trainer and serving offer; fails if one does not answer.",
            ),
            Entry(
                "top",
                "tailorbird.cli.top:top",
                "Show what each replica does now: requests, slots, cache, jobs at work, tokens a"
                " second.",
            ),
            Entry(
                "health",
                "tailorbird.cli.health:health",
                "Exit with 0 if /readyz answers 200, else with 1; for an image's health check.",
            ),
            Entry("base", "tailorbird.cli.base:app", "Look at base models."),
            Entry("tokens", "tailorbird.cli.tokens:app", "Make tokens for callers."),
            Entry(
                "contexts",
                "tailorbird.cli.contexts:app",
                "Keep addresses, tenants and tokens under names, and choose one.",
            ),
        ),
        "Fine-tune": (
            Entry(
                "datasets",
                "tailorbird.cli.datasets:app",
                "Upload training data and look it up.",
            ),
            Entry("jobs", "tailorbird.cli.jobs:app", "Fine-tune: start jobs and follow them."),
        ),
        "Use adapters": (
            Entry(
                "adapters",
                "tailorbird.cli.adapters:app",
                "See adapters and their versions; move routes.",
            ),
            Entry(
                "generate",
                "tailorbird.cli.generate:generate",
                "Ask an adapter, or the base model, and print the answer as it comes.",
            ),
            Entry(
                "chat",
                "tailorbird.cli.chat:chat",
                "Chat with an adapter or the base model; /help says how to change or compare them.",
            ),
            Entry(
                "feedback",
                "tailorbird.cli.feedback:app",
                "Keep answers and corrections, and train on them.",
            ),
        ),
    }
