"""A model that knows nothing, to try the proxy with: it repeats itself for ``max_tokens``."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

PACE = float(os.environ.get("MODEL_PACE", "0.02"))  # seconds for a token

app = FastAPI()


@app.post("/v1/chat/completions", response_model=None)
async def complete(call: dict[str, Any]) -> StreamingResponse | dict[str, Any]:
    """Answer with as many words as are allowed."""
    prompt, words = sum(len(message["content"].split()) for message in call["messages"]), call["max_tokens"]
    usage = {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}
    if call.get("stream"):
        return StreamingResponse(streamed(words, usage), media_type="text/event-stream")
    return {"choices": [{"message": {"role": "assistant", "content": "word " * words}}], "usage": usage}


async def streamed(words: int, usage: dict[str, int]) -> AsyncIterator[str]:
    """A word in each event, then what it was in all."""
    for _ in range(words):
        yield f"data: {json.dumps({'choices': [{'delta': {'content': 'word '}}]})}\n\n"
        await asyncio.sleep(PACE)
    yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
