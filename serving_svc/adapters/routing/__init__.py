"""Which version answers for an adapter, and moving its route."""

from serving_svc.adapters.routing.promotion import Promotion
from serving_svc.adapters.routing.router import Resolved, Router
from serving_svc.adapters.routing.routes_on_disk import RoutesOnDisk

__all__ = ["Promotion", "Resolved", "Router", "RoutesOnDisk"]
