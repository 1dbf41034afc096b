"""Imports vLLM, which takes seconds and warns of what it does to itself."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vllm.entrypoints.openai.chat_completion.protocol
    import vllm.sampling_params
    import vllm.tool_parsers  # noqa: F401
