"""A template gives what transformers gives with it, whatever the template uses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from tests.unit.trainer_svc.engine.data import tokenizers_of
from tests.unit.trainer_svc.engine.data.tokenizers_of import CHAT_TEMPLATE, OPEN_TEMPLATE
from tests.unit.trainer_svc.engine.data.tool_templates import BARE, TAGGED
from trainer_svc.encoding.chat_template import ChatTemplate

CHATML = """{%- if messages[0]['role'] == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
    {%- endif %}
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA_2 = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{- bos_token }}{% set dated = strftime_now('%d %b %Y') if strftime_now is defined else '' %}"
    "{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n"
    "{% generation %}{{ m.content | trim }}{% endgeneration %}{% endfor %}Today: {{ dated }}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (m['content'] | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LOOPS = (
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% if loop.index > 4 %}{% break %}{% endif %}{{ m | tojson }}|"
    "{{ m | tojson(indent=2, sort_keys=true) }}|{{ m | tojson(separators=(',', ':')) }}|"
    "{{ m | tojson(ensure_ascii=true) }}\n{% endfor %}{{ documents }}{{ tools is none }}"
)
SCOPED = (
    "{% set seen = 'outside' %}{% for m in messages %}{% generation %}{% set seen = 'inside' %}"
    "{{ m.content }}{{ seen }}{{ loop.index }}{% endgeneration %}{{ seen }}{% endfor %}"
)
FAMILIES = {
    "chat": CHAT_TEMPLATE,
    "open": OPEN_TEMPLATE,
    "tagged tools": TAGGED,
    "bare tools": BARE,
    "ChatML": CHATML,
    "Llama 2": LLAMA_2,
    "Llama 3": LLAMA_3,
    "Gemma": GEMMA,
    "loops and JSON": LOOPS,
    "generation": SCOPED,
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "find", "description": "größer <b>", "parameters": {"type": "object"}},
    }
]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
chats = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["system", "user", "assistant", "tool"]),
        any_text,
    ),
    min_size=1,
    max_size=5,
)


def outcome(render: Any) -> str:
    """Return the text, or what kind of error and what it says."""
    try:
        return str(render())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def both(template: Any, messages: list[Any], tools: Any, opened: bool) -> tuple[str, str]:
    theirs = tokenizers_of.byte_level(template)
    ours = ChatTemplate(template, theirs.special_tokens_map)
    kept = copy.deepcopy(messages)
    found = outcome(lambda: ours.render(messages, tools, opened=opened))
    assert messages == kept
    return found, outcome(
        lambda: theirs.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=opened
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(messages=chats, tools=st.sampled_from([None, TOOLS]), opened=st.booleans())
def test_a_template_gives_what_transformers_gives(
    family: str, messages: list[Any], tools: Any, opened: bool
) -> None:
    ours, theirs = both(FAMILIES[family], messages, tools, opened)
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_a_usual_chat_is_rendered(family: str) -> None:
    chat = [{"role": "user", "content": " Hi? "}, {"role": "assistant", "content": "Ho!"}]
    for messages in (chat, [{"role": "system", "content": "Be brief."}, *chat]):
        for opened in (False, True):
            ours, theirs = both(FAMILIES[family], messages, None, opened)
            assert ours == theirs
    assert "Hi?" in both(FAMILIES[family], chat, None, opened=False)[0]


def test_a_base_may_have_a_template_for_tools_and_one_for_the_rest() -> None:
    templates = {"default": "plain", "tool_use": "tools {{ tools | tojson }}", "rag": "x"}
    messages = [{"role": "user", "content": "?"}]
    for tools in (None, TOOLS):
        ours, theirs = both(templates, messages, tools, False)
        assert ours == theirs
    assert ChatTemplate(templates, {}).render(messages) == "plain"
    with pytest.raises(ValueError, match="templates rag, tools, and none is called 'default'"):
        ChatTemplate({"tools": "a", "rag": "b"}, {}).render(messages)


def test_a_chat_without_messages_is_none() -> None:
    with pytest.raises(ValueError, match="at least one message"):
        ChatTemplate("text", {}).render([])


def test_what_is_no_template_is_told() -> None:
    with pytest.raises(TemplateSyntaxError):
        ChatTemplate("{% if %}", {}).render([{"role": "user"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__.keys() }}",
    ],
)
def test_a_template_changes_nothing_and_reaches_nothing(template: str) -> None:
    messages = [{"role": "user", "content": "?"}]
    with pytest.raises(TemplateError, match="unsafe"):
        ChatTemplate(template, {}).render(messages)
    assert messages == [{"role": "user", "content": "?"}]
