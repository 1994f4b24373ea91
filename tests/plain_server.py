"""A server that answers as vLLM does, as far as this project asks, and as slowly as is wanted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["PlainServer", "serving_plainly"]

_CONTEXT_LENGTH = 512


class PlainServer(ThreadingHTTPServer):
    """Serves "reference": each sample is one token, again and again, up to max_tokens.

    Args:
        token_s: Seconds before each token of a stream.
        silent: Whether requests are taken, and never answered.
        speculative: Whether min_p is refused, as vLLM does with speculative decoding.
    """

    daemon_threads = True

    def __init__(
        self, *, token_s: float = 0.0, silent: bool = False, speculative: bool = False
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.token_s = token_s
        self.silent = silent
        self.speculative = speculative
        self.num_asked = 0
        self.bodies: list[dict[str, Any]] = []
        """What was asked of it, in order."""

    @property
    def base_url(self) -> str:
        """Up to and with the version."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that go away are what is tested."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PlainServer

    def do_GET(self) -> None:
        self._begin()
        self._send({"data": [{"id": "reference", "max_model_len": _CONTEXT_LENGTH}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._begin()
        self.server.bodies.append(body)
        if self.server.speculative and body.get("min_p"):
            message = "The min_p and logit_bias sampling parameters are not yet supported with "
            self._send({"error": {"message": message + "speculative decoding."}}, status=400)
        elif body.get("stream"):
            self._stream(body["max_tokens"])
        elif "logprob_token_ids" in body:
            labels = {f"token_id:{label}": -1.0 for label in body["logprob_token_ids"]}
            self._send({"choices": [{"logprobs": {"top_logprobs": [labels]}}]})
        elif self.path == "/v1/completions" and "structured_outputs" not in body:
            self._send({"choices": [{"token_ids": [65], "finish_reason": "length"}]})
        else:
            self._send({"error": {"message": "no"}}, status=400)

    def _begin(self) -> None:
        self.server.num_asked += 1
        if self.server.silent:
            time.sleep(3600)

    def _stream(self, max_tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for place in range(max_tokens):
            time.sleep(self.server.token_s)
            reason = "length" if place == max_tokens - 1 else None
            choice = {"token_ids": [65], "finish_reason": reason}
            self._chunk(f"data: {json.dumps({'choices': [choice]})}\n\n")
        self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def _send(self, answer: Mapping[str, Any], *, status: int = 200) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving_plainly(
    *, token_s: float = 0.0, silent: bool = False, speculative: bool = False
) -> Iterator[PlainServer]:
    """Run a server in a thread."""
    with PlainServer(token_s=token_s, silent=silent, speculative=speculative) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.block_on_close = False
