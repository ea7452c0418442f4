"""One conversation with langchain-openai: `python langchain_chat.py ADDRESS`."""

import sys

from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", model="tiny", max_tokens=12, seed=1)
first = model.invoke([("system", "Be brief."), ("human", "Hello")])
assert first.content
assert "".join(part.content for part in model.stream([("system", "Be brief."), ("human", "Hello")])) == first.content
assert (
    model.invoke([("human", "Hello"), ("ai", first.content), ("human", "And?")]).usage_metadata["output_tokens"] <= 12
)
