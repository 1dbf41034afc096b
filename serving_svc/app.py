"""The composition root: builds serving from its settings, and the order of its start and stop."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import multiprocessing
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from serving_svc.engine.base import ServableBase, load_servable_base
from serving_svc.engine.launch import engine_starter, prepare_environment
from serving_svc.engine.supervisor import Supervisor, Watch
from serving_svc.metrics import ServingMetrics
from serving_svc.parts import Parts, build_parts
from serving_svc.settings import ServingSettings
from tailorbird.local_disk import locked_folder
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.server import RpcServer, stop_signal
from tailorbird.telemetry import HealthServer

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
