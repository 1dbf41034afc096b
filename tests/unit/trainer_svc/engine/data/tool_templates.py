"""Chat templates with tools, in the two styles that bases have most, on the demo base's tokens."""

TAGGED = (
    "{% if tools %}<|system|>{% if messages[0].role == 'system' %}{{ messages[0].content }}\n"
    "{% endif %}Tools:{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}<|end|>"
    "{% elif messages[0].role == 'system' %}<|system|>{{ messages[0].content }}<|end|>{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|end|>"
    "{% elif m.role == 'tool' %}<|user|><tool_response>{{ m.content }}</tool_response><|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Calls are tagged JSON in the answer, results come as the user's: Qwen, Hermes."""

BARE = (
    "{% set asked = namespace(told=false) %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' and tools and not asked.told %}{% set asked.told = true %}"
    "<|user|>Answer with a call of one of these.\n"
    "{% for tool in tools %}{{ tool.function | tojson(indent=1) }}\n{% endfor %}"
    "{{ m.content }}<|end|>"
    "{% elif m.tool_calls %}"
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}<|assistant|>"
    '{"name": "{{ call.name }}", "parameters": {{ "{" }}'
    "{% for name, value in call.arguments.items() %}"
    '"{{ name }}": {{ value | tojson }}{{ "" if loop.last else ", " }}{% endfor %}{{ "}}" }}<|end|>'
    "{% elif m.role == 'tool' %}<|system|>{{ m.name }} gave {{ m.content | tojson }}<|end|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""One call an answer, as bare JSON out of an object; the first question has the tools: Llama."""
