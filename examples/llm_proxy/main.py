"""A proxy in front of a language model: budgets of tokens for teams, and for each user a rate and five calls at once.

It speaks as OpenAI's chat completions do, so their clients need another address and key, and nothing else.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quota import AsyncLedger, AsyncReservation
from quota.asgi import QuotaMiddleware

STORE = os.environ.get("QUOTA_STORE", "sqlite:///quota.db")  # or valkey://..., redis://..., postgresql://...
MODEL = os.environ.get("MODEL_URL", "http://127.0.0.1:9000")
MODEL_KEY = os.environ.get("MODEL_KEY", "none")

app = FastAPI()
model = httpx.AsyncClient(base_url=MODEL, headers={"Authorization": f"Bearer {MODEL_KEY}"}, timeout=300)


class Call(BaseModel):
    """What a user asks for; whatever else it says goes to the model as it is."""

    model_config = ConfigDict(extra="allow")
    messages: list[dict[str, Any]]
    max_tokens: int = Field(1024, ge=1, le=32_768)
    stream: bool = False


def prompt_tokens(call: Call) -> int:
    """Guess how many tokens a prompt has: one in four characters. Once it has answered, the model says exactly."""
    return sum(len(str(message.get("content"))) for message in call.messages) // 4


def cost(body: bytes) -> dict[str, int]:
    """Hold the most that a call can use, until it is known what it did."""
    try:
        call = Call.model_validate_json(body)
    except ValidationError:  # FastAPI refuses it, and then it costs nothing
        return {"requests": 1}
    return {"requests": 1, "tokens": prompt_tokens(call) + call.max_tokens}


@app.exception_handler(httpx.HTTPError)
async def unreachable(_: Request, error: Exception) -> Response:
    """Say that it was the model, for which nobody pays."""
    return JSONResponse({"error": {"message": f"the model did not answer: {error!r}"}}, 502)


@app.post("/v1/chat/completions")
async def complete(call: Call, request: Request) -> Response:
    """Ask the model; a failure of the model costs nothing."""
    asked = call.model_dump() | ({"stream_options": {"include_usage": True}} if call.stream else {})
    answer = await model.send(model.build_request("POST", request.url.path, json=asked), stream=True)
    if call.stream and answer.is_success:
        return Closing(pieces(call, answer, request), media_type="text/event-stream")
    content = await answer.aread()
    if answer.is_success:
        request.state.quota_actual = {"requests": 1, "tokens": json.loads(content)["usage"]["total_tokens"]}
    return Response(content, answer.status_code, media_type=answer.headers.get("content-type"))


async def pieces(call: Call, answer: httpx.Response, request: Request) -> AsyncIterator[str]:
    """Pass a stream on, and spend each token before it goes out: one that is cut costs what was sent."""
    held: AsyncReservation = request.state.quota_reservation
    async with aclosing(answer):
        await held.spend({"requests": 1, "tokens": prompt_tokens(call)})
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                piece = json.loads(line[6:])
                if piece.get("usage"):
                    request.state.quota_actual = {"requests": 1, "tokens": piece["usage"]["total_tokens"]}
                elif piece["choices"][0]["delta"].get("content"):
                    await held.spend({"tokens": 1})
            yield f"{line}\n"


class Closing(StreamingResponse):
    """A stream that lets its model go at once, whatever ends it."""

    async def __call__(self, *args: Any) -> None:
        """Send it."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().__call__(*args)


app.add_middleware(
    QuotaMiddleware, ledger=AsyncLedger(STORE), key="authorization", charge="response", cost_from_body=cost,
    on_unavailable="deny",
)  # fmt: skip
