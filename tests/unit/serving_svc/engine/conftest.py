"""vLLM, imported here once: what it imports warns of its own deprecated calls."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vllm.entrypoints.openai.chat_completion.protocol
    import vllm.lora.layers
    import vllm.sampling_params
    import vllm.tool_parsers  # noqa: F401
