"""An OpenAI-compatible server in a process of its own: one token after a fixed wait, streamed or whole as asked."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers import Body, Endpoint, _reply


def answer(prompt: str, so_far: str, seed: int) -> str:
    """One token, since the server waits before each."""
    return rf"\boxed{{{seed % 10}}}"


class Both(Endpoint):
    """The tests' server, which also answers those that do not stream."""

    async def _complete(self, body: Body, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if body.get("stream"):
            return await super()._complete(body, reader, writer)
        await asyncio.sleep(self.delay)
        message = {"role": "assistant", "content": answer("", "", len(self.bodies))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
        await _reply(writer, 200, {"choices": [choice], "usage": usage})
        return True


if __name__ == "__main__":
    with Both(say=answer, delay=float(sys.argv[1])).serve() as endpoint:
        sys.stdout.write(f"{endpoint.url}\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the parent closes it
