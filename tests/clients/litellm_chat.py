"""One conversation with litellm: `python litellm_chat.py ADDRESS`."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks GitHub for prices
from litellm import completion

SETTINGS = {"model": "openai/tiny", "api_base": f"{sys.argv[1]}/v1", "api_key": "none", "max_tokens": 12, "seed": 1}

messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
first = completion(messages=messages, **SETTINGS)
content = first.choices[0].message.content
assert content
assert first.usage.completion_tokens <= 12
streamed = completion(messages=messages, stream=True, **SETTINGS)
assert "".join(part.choices[0].delta.content or "" for part in streamed) == content
later = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": content},
    {"role": "user", "content": "And?"},
]
assert completion(messages=later, **SETTINGS).choices[0].message.content
