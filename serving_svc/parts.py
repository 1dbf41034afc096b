"""Puts serving's parts together around one engine and those that follow it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.gate import PROBE_FLOOR_DEFAULT, PROBE_FLOORS, ServedBase
from serving_svc.adapters.hot import HotList
from serving_svc.adapters.import_sources import ImportSources
from serving_svc.adapters.importing import AdapterImporter
from serving_svc.adapters.refusals import Refusals
from serving_svc.adapters.residency import Residency
from serving_svc.adapters.router import Router
from serving_svc.adapters.routes_on_disk import RoutesOnDisk
from serving_svc.adapters.service import Adapters
from serving_svc.adapters.workers import Workers
from serving_svc.api.adapter_servicer import AdapterServicer
from serving_svc.api.convert_generation import server_info
from serving_svc.api.inference_servicer import InferenceServicer
from serving_svc.engine.base import ServableBase
from serving_svc.engine.plan import EnginePlan
from serving_svc.engine.supervisor import Supervisor, Watch
from serving_svc.engine.vllm_engine import VllmEngine
from serving_svc.generation.life import Life
from serving_svc.generation.residents import Residents
from serving_svc.generation.scheduler import Scheduler, SchedulerLimits
from serving_svc.generation.service import Generations
from serving_svc.generation.slot_loader import SlotLoader
from serving_svc.generation.warming import Warmer
from serving_svc.metrics import ServingMetrics
from serving_svc.settings import ServingSettings
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.errors import StoreUnavailable, TailorbirdError
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import open_store
from tailorbird.profile import ServingProfile, write_profile
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.server import RpcServer
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

_log = structlog.get_logger(__name__)
