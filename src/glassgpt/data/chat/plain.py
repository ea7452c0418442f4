"""The chat template of models that come without one: a transcript in which the end-of-text token ends each answer."""

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' -%}{{ 'User: ' + message.content + '\\n' }}
{%- else -%}{{ 'Assistant:' }}{%- generation -%}{{ ' ' + message.content + eos_token }}{%- endgeneration -%}{{ '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
