"""Talks to a ComfyUI server as its own page does: prompts over HTTP, progress over the websocket."""

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
OnMessage = Callable[[Message], None]


class PromptRejected(RuntimeError):
    """The server refused the prompt before running anything. `.reply` is its JSON."""

    def __init__(self, reply: dict[str, Any]):
        self.reply = reply
        super().__init__(json.dumps(reply, indent=1, ensure_ascii=False))


class PromptFailed(RuntimeError):
    """A node raised while the prompt ran. `.details` is the server's message (node_id, node_type, exception_message, traceback)."""

    def __init__(self, details: dict[str, Any]):
        self.details = details
        super().__init__(f"{details.get('node_type')} (node {details.get('node_id')}): {details.get('exception_message')}")


class ComfyUIClient:
    def __init__(self, url: str):
        self.url = url
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.load(reply)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read()
            return json.loads(text) if text else None

    def fetch(self, file: dict[str, str]) -> bytes:
        """A file that a history entry names by filename, subfolder and type."""
        query = urllib.parse.urlencode({key: file[key] for key in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=60) as reply:
            return reply.read()

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt in API format and return its id."""
        try:
            reply = self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", errors="replace")
            if error.code == 400:
                raise PromptRejected(json.loads(text)) from None
            raise RuntimeError(f"{error}: {text}") from None
        if reply["node_errors"]:  # the server runs the branches without errors; half a prompt is not what was asked for
            self.post("/queue", {"delete": [reply["prompt_id"]]})
            self.post("/interrupt", {"prompt_id": reply["prompt_id"]})
            raise PromptRejected(reply)
        return reply["prompt_id"]

    def run(self, prompt: dict[str, Any], on_message: OnMessage = lambda message: None, seconds: float = 900) -> dict[str, Any]:
        """Queue a prompt, wait until it has run, and return its history entry (`outputs`: node id -> files).

        Args:
            on_message: called with every JSON message of the server (`type`, `data`) while the prompt runs.
            seconds: give up after this long.
        """
        return asyncio.run(asyncio.wait_for(self._run(prompt, on_message), seconds))

    async def _run(self, prompt: dict[str, Any], on_message: OnMessage) -> dict[str, Any]:
        import aiohttp

        url = f"{self.url}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            prompt_id = await asyncio.to_thread(self.queue, prompt)
            async for frame in socket:
                if frame.type != aiohttp.WSMsgType.TEXT:  # binary frames are preview pictures
                    continue
                message = json.loads(frame.data)
                if message.get("data", {}).get("prompt_id") not in (prompt_id, None):
                    continue
                on_message(message)
                if message["type"] in ("execution_error", "execution_interrupted"):
                    raise PromptFailed(message["data"])
                if message["type"] == "executing" and message["data"].get("node") is None:  # after execution_success the history may lag
                    return (await asyncio.to_thread(self.get, f"/history/{prompt_id}"))[prompt_id]
        raise RuntimeError("the server closed the connection before the prompt had run")
