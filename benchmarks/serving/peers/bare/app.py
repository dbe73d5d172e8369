"""What HTTP and JSON cost by themselves: uvicorn, the body parsed by msgspec, a constant answer."""

from typing import Any

import msgspec

_ANSWER = b'{"predictions":[{"score":0.5}]}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads the body, parses the JSON, and answers a constant."""
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = bytearray()
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    msgspec.json.decode(body)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})
