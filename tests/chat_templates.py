"""Chat templates in the manner of families that people use, condensed: what they refuse, and how.

Each is written here for what its family does otherwise than others: roles that it raises on, ids of
calls, where thoughts stand. They are no copies, and leave out what no test looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfeval_backend.chat import ChatTemplate

__all__ = ["FAMILIES", "chat_of"]


def chat_of(template: str | dict[str, str]) -> ChatTemplate:
    """Return a tokenizer of bytes with a chat template, or with several by name."""
    from selfeval_backend.chat import ChatTemplate
    from tests.byte_tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer, name="test")


# Turns alternate, and nobody else speaks.

MISTRAL_01 = """
{%- for m in messages -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {%- if m['role'] == 'user' -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}
  {%- elif m['role'] == 'assistant' -%}{{- m['content'] + '</s>' -}}
  {%- else -%}{{- raise_exception('Only user and assistant roles are supported!') -}}{%- endif -%}
{%- endfor -%}
"""

GEMMA_2 = """
{%- if messages[0]['role'] == 'system' -%}
  {{- raise_exception('System role not supported') -}}
{%- endif -%}
{%- for m in messages -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
  {{- '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""

GEMMA_3 = """
{%- set first_user = '' -%}{%- set rest = messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set first_user = (messages[0]['content'] if messages[0]['content'] is string
                        else messages[0]['content'][0]['text']) + '\\n\\n' -%}
  {%- set rest = messages[1:] -%}
{%- endif -%}
{%- for m in rest -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' -}}
  {{- first_user if loop.first else '' -}}
  {%- if m['content'] is string -%}{{- m['content'] | trim -}}
  {%- else -%}
    {%- for part in m['content'] -%}{{- part['text'] | trim -}}{%- endfor -%}
  {%- endif -%}
  {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""

LLAMA_2 = """
{%- if messages[0]['role'] == 'system' -%}
  {%- set rest = messages[1:] -%}{%- set system = messages[0]['content'] -%}
{%- else -%}{%- set rest = messages -%}{%- set system = false -%}{%- endif -%}
{%- for m in rest -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {%- set shown = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content']
                  if loop.index0 == 0 and system else m['content'] -%}
  {%- if m['role'] == 'user' -%}{{- '<s>[INST] ' + shown | trim + ' [/INST]' -}}
  {%- elif m['role'] == 'assistant' -%}{{- ' ' + shown | trim + ' </s>' -}}{%- endif -%}
{%- endfor -%}
"""

# Calls with nine letters; the system stands in the last turn, and nowhere if that is a result.

MISTRAL_03 = """
{%- if messages[0].role == 'system' -%}
  {%- set system = messages[0].content -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set rest = messages -%}{%- endif -%}
{%- set users = rest | selectattr('role', 'equalto', 'user') | list -%}
{%- set ns = namespace(index=0) -%}
{%- for m in rest -%}
  {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) -%}
    {%- if (m.role == 'user') != (ns.index % 2 == 0) -%}
      {{- raise_exception('After the optional system message, roles must alternate') -}}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
  {%- endif -%}
{%- endfor -%}
{%- for m in rest -%}
  {%- if m.role == 'user' -%}
    {%- if tools and m == users[-1] -%}
      {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' -}}
    {%- endif -%}
    {%- set shown = system + '\\n\\n' + m.content if loop.last and system else m.content -%}
    {{- '[INST] ' + shown + '[/INST]' -}}
  {%- elif m.tool_calls -%}
    {{- '[TOOL_CALLS] [' -}}
    {%- for call in m.tool_calls -%}
      {%- if call.id is not defined or call.id | length != 9 -%}
        {{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}
      {%- endif -%}
      {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' -}}
      {{- ', ' if not loop.last else ']</s>' -}}
    {%- endfor -%}
  {%- elif m.role == 'assistant' -%}{{- ' ' + m.content | trim + '</s>' -}}
  {%- elif m.role == 'tool' -%}
    {%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 -%}
      {{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}
    {%- endif -%}
    {{- '[TOOL_RESULTS] {"content": ' + m.content | tojson + ', "call_id": "' -}}
    {{- m.tool_call_id + '"}[/TOOL_RESULTS]' -}}
  {%- else -%}{{- raise_exception('Only user and assistant roles are supported') -}}{%- endif -%}
{%- endfor -%}
"""

# Nothing is refused.

CHATML = """
{%- for m in messages -%}
  {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

SMOLLM_2 = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' -}}{%- endif -%}" + CHATML
)

PHI_3 = """
{%- for m in messages -%}
  {%- if m['role'] == 'user' -%}{{- '<|user|>\\n' + m['content'] + '<|end|>\\n' -}}
  {%- elif m['role'] == 'assistant' -%}
    {{- '<|assistant|>\\n' + m['content'] + '<|end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
"""What the system says is left out, in silence."""

QWEN_25 = """
{%- if tools -%}
  {{- '<|im_start|>system\\n' -}}
  {{- messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' -}}
  {{- '\\n\\n# Tools\\n<tools>' -}}
  {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
  {{- '\\n</tools><|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
  {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'user' or (m.role == 'system' and not loop.first)
         or (m.role == 'assistant' and not m.tool_calls) -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant' -}}
    {%- if m.content -%}{{- '\\n' + m.content -}}{%- endif -%}
    {%- for call in m.tool_calls -%}
      {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
      {{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- elif m.role == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

LLAMA_31 = """
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = messages[0]['content'] | trim -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system + '<|eot_id|>' -}}
{%- if tools -%}
  {%- if not messages -%}{{- raise_exception('There is no first user message!') -}}{%- endif -%}
  {{- '<|start_header_id|>user<|end_header_id|>' -}}
  {%- for t in tools -%}{{- '\\n\\n' + t | tojson(indent=4) -}}{%- endfor -%}
  {{- '\\n\\n' + messages[0]['content'] | trim + '<|eot_id|>' -}}
  {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for m in messages -%}
  {%- if not (m.role == 'tool' or m.tool_calls) -%}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' -}}
    {{- m['content'] | trim + '<|eot_id|>' -}}
  {%- elif m.tool_calls -%}
    {%- if m.tool_calls | length != 1 -%}
      {{- raise_exception('This model only supports single tool-calls at once!') -}}
    {%- endif -%}
    {%- set call = m.tool_calls[0].function -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", ' -}}
    {{- '"parameters": ' + call.arguments | tojson + '}<|eot_id|>' -}}
  {%- else -%}
    {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
"""One call a turn, and no text beside it; tools stand in the first turn, whose ever it is."""

SYSTEM_FIRST = """
{%- for m in messages -%}
  {%- if m.role == 'system' and not loop.first -%}
    {{- raise_exception('System message must be at the beginning.') -}}
  {%- endif -%}
  {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""As in Qwen 3.5."""

# Calls in other manners.

TEXT_ARGUMENTS = """
{%- for tool in tools or [] -%}{{- 'TOOL ' + tool | tojson + '\\n' -}}{%- endfor -%}
{%- for m in messages -%}
  {{- '<|' + m.role + '|>' -}}
  {%- if m.role == 'tool' -%}{{- m.name + ': ' -}}{%- endif -%}
  {{- m.content -}}
  {%- for call in m.tool_calls or [] -%}
    {{- 'CALL ' + call.function.name + ' ' + call.function.arguments -}}
  {%- endfor -%}
  {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

STRING_ARGUMENTS = TEXT_ARGUMENTS.replace(
    "call.function.arguments -", "(call.function.arguments | string) -"
)

HERMES = {
    "default": CHATML,
    "tool_use": QWEN_25,
}
"""Calls are shown only where tools are."""

COMMAND_R = """
{%- if messages[0]['role'] == 'system' -%}
  {%- set rest = messages[1:] -%}{%- set system = messages[0]['content'] -%}
{%- else -%}{%- set rest = messages -%}{%- set system = false -%}{%- endif -%}
{%- if system -%}{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system -}}{%- endif -%}
{%- for m in rest -%}
  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {%- set who = 'USER' if m['role'] == 'user' else 'CHATBOT' -%}
  {{- '<|START_OF_TURN_TOKEN|><|' + who + '_TOKEN|>' + m['content'].strip() -}}
  {{- '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}
"""

GRANITE = """
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}
  {%- set system = 'You are Granite.' + (' Think first.' if thinking else '') -%}
  {%- set rest = messages -%}
{%- endif -%}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' -}}
{%- if tools -%}
  {{- '<|start_of_role|>tools<|end_of_role|>' + tools | tojson + '<|end_of_text|>\\n' -}}
{%- endif -%}
{%- for m in rest -%}
  {{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] -}}
  {%- if m.tool_calls -%}{{- '<|tool_call|>' + m.tool_calls | tojson -}}{%- endif -%}
  {{- '<|end_of_text|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}
"""

PARTS_ONLY = """
{%- for m in messages -%}
  {{- m['role'] | capitalize + ': ' -}}
  {%- for part in m['content'] -%}
    {%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
  {%- endfor -%}
  {{- '<end_of_utterance>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
"""As in SmolVLM: text alone is shown as nothing."""

# What thinks.

QWEN_3 = """
{%- if messages[0].role == 'system' -%}
  {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {%- set content = m.content if m.content is string else '' -%}
  {%- if m.role == 'user' or (m.role == 'system' and not loop.first) -%}
    {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' -}}
  {%- elif m.role == 'assistant' -%}
    {%- set thought = '' -%}
    {%- if '</think>' in content -%}
      {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip() -%}
      {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if loop.index0 > ns.last and (loop.last or thought) -%}
      {{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}
    {%- endif -%}
    {{- content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}
    {{- '<think>\\n\\n</think>\\n\\n' -}}
  {%- endif -%}
{%- endif -%}
"""

QWEN_3_THINKING = QWEN_3.replace(
    """  {%- if enable_thinking is defined and enable_thinking is false -%}
    {{- '<think>\\n\\n</think>\\n\\n' -}}
  {%- endif -%}
""",
    "  {{- '<think>\\n' -}}\n",
)

QWEN_35 = QWEN_3.replace(
    "  {%- endif -%}\n{%- endif -%}\n",
    "  {%- else -%}{{- '<think>\\n' -}}{%- endif -%}\n{%- endif -%}\n",
)
"""Opens a thought unless it is told not to."""

DEEPSEEK_R1 = """
{%- set ns = namespace(system='') -%}
{%- for m in messages -%}
  {%- if m['role'] == 'system' -%}{%- set ns.system = ns.system + m['content'] -%}{%- endif -%}
{%- endfor -%}
{{- ns.system -}}
{%- for m in messages -%}
  {%- if m['role'] == 'user' -%}{{- '<|User|>' + m['content'] -}}{%- endif -%}
  {%- if m['role'] == 'assistant' and m['content'] is none -%}
    {{- '<|Assistant|>' -}}
    {%- for call in m['tool_calls'] -%}
      {{- '<|call|>' + call['type'] + '<|sep|>' + call['function']['name'] + '\\n```json\\n' -}}
      {{- call['function']['arguments'] + '\\n```<|/call|>' -}}
    {%- endfor -%}
    {{- '<|end|>' -}}
  {%- elif m['role'] == 'assistant' -%}
    {%- set content = m['content'] -%}
    {%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}
    {{- '<|Assistant|>' + content + '<|end|>' -}}
  {%- endif -%}
  {%- if m['role'] == 'tool' -%}{{- '<|output|>' + m['content'] + '<|/output|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|><think>\\n' -}}{%- endif -%}
"""
"""Calls are looked at only where there is no content, and arguments are joined as text."""

DEEPSEEK_V31 = """
{%- for m in messages -%}
  {%- if m['role'] == 'system' -%}{{- m['content'] -}}
  {%- elif m['role'] == 'user' -%}{{- '<|User|>' + m['content'] -}}
  {%- else -%}{{- '<|Assistant|></think>' + m['content'] + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|Assistant|>' + ('<think>' if thinking else '</think>') -}}
{%- endif -%}
"""

MAGISTRAL = MISTRAL_01.rstrip() + "{%- if add_generation_prompt -%}{{- '[THINK]' -}}{%- endif -%}"

REASONING_TAG = CHATML.replace(
    "assistant\\n' -}}{%- endif", "assistant\\n<reasoning>' -}}{%- endif"
)

COMMAND_A = """
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {{- '<|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' -}}
  {%- else -%}{{- '<|' + m.role | upper + '_TOKEN|>' + m.content -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|CHATBOT_TOKEN|>' + ('<|START_THINKING|>' if reasoning else '') -}}
{%- endif -%}
"""

HARMONY = """
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' -}}
  {%- else -%}
    {{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""

HARMONY_TOOLS = """
{%- for tool in tools or [] -%}{{- 'TOOL ' + tool | tojson + '\\n' -}}{%- endfor -%}
{%- set ns = namespace(called='') -%}
{%- for m in messages -%}
  {%- if m.tool_calls -%}
    {%- set later = messages[loop.index:] | selectattr('role', 'equalto', 'assistant')
                    | rejectattr('tool_calls', 'defined') | list -%}
    {%- if m.content and not later -%}
      {{- '<|start|>assistant<|channel|>analysis<|message|>' + m.content + '<|end|>' -}}
    {%- endif -%}
    {%- set ns.called = m.tool_calls[0].function.name -%}
    {{- '<|start|>assistant to=functions.' + ns.called -}}
    {{- '<|channel|>commentary json<|message|>' -}}
    {{- m.tool_calls[0].function.arguments | tojson + '<|call|>' -}}
  {%- elif m.role == 'tool' -%}
    {%- if not ns.called -%}{{- raise_exception('There is no call before it!') -}}{%- endif -%}
    {{- '<|start|>functions.' + ns.called + ' to=assistant<|message|>' -}}
    {{- m.content | tojson + '<|end|>' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' -}}
  {%- else -%}
    {{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""
"""One call a turn; text beside it is a thought, which is dropped once there is an answer."""

COHERE_2 = """
{%- set ns = namespace(index=0) -%}
{%- for m in messages -%}
  {%- if m.role != 'system' -%}
    {%- if (m.role == 'user') != (ns.index % 2 == 0) -%}
      {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
  {%- endif -%}
  {{- '<|' + m.role | upper + '_TOKEN|>' + m.content + '<|END|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|ASSISTANT_TOKEN|>' -}}{%- endif -%}
"""
"""The system may speak anywhere, and turns around it alternate."""

FAMILIES: dict[str, str | dict[str, str]] = {
    "mistral 0.1": MISTRAL_01,
    "mistral 0.3": MISTRAL_03,
    "gemma 2": GEMMA_2,
    "gemma 3": GEMMA_3,
    "llama 2": LLAMA_2,
    "llama 3.1": LLAMA_31,
    "chatml": CHATML,
    "smollm 2": SMOLLM_2,
    "phi 3": PHI_3,
    "qwen 2.5": QWEN_25,
    "qwen 3": QWEN_3,
    "qwen 3 thinking": QWEN_3_THINKING,
    "qwen 3.5": QWEN_35,
    "system first": SYSTEM_FIRST,
    "deepseek r1": DEEPSEEK_R1,
    "deepseek 3.1": DEEPSEEK_V31,
    "magistral": MAGISTRAL,
    "reasoning tag": REASONING_TAG,
    "command r": COMMAND_R,
    "command a": COMMAND_A,
    "granite": GRANITE,
    "hermes": HERMES,
    "harmony": HARMONY,
    "harmony with tools": HARMONY_TOOLS,
    "cohere 2": COHERE_2,
    "parts only": PARTS_ONLY,
    "text arguments": TEXT_ARGUMENTS,
    "string arguments": STRING_ARGUMENTS,
}
