"""vLLM, imported here once: what it imports warns of its own deprecated calls."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vllm.lora.layers  # noqa: F401
