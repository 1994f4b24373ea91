"""A real vLLM server on loopback, with the reference model, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.error import URLError

from selfeval_backend.model import REFERENCE_FOLDER

__all__ = ["VllmServer", "start_vllm_server"]

_STARTS_WITHIN_S = 180
_ARGUMENTS = (
    *("--dtype", "float32", "--block-size", "32", "--enforce-eager"),
    "--no-enable-chunked-prefill",  # see engine/vllm/loading.py
    *("--enable-prompt-tokens-details", "--scheduling-policy", "priority", "--enable-scale-out"),
    *("--structured-outputs-config", '{"backend": "guidance"}'),  # see engine/grammars.py
    *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
)
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServer:
    """One that runs."""

    base_url: str
    process: subprocess.Popen[bytes]

    def metric(self, name: str) -> float:
        """Return one of the server's own metrics, summed over its labels."""
        url = self.base_url.removesuffix("/v1") + "/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " "))
        )


@contextmanager
def start_vllm_server(
    *arguments: str,
    folder: Path = REFERENCE_FOLDER,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[VllmServer]:
    """Start a server, wait until it answers, and stop it at the end.

    Args:
        arguments: Further ones of its command line.
        folder: The model; it is served under the name "reference".
        environment: Further variables of its environment.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", "reference", "--host", "127.0.0.1", "--port", str(port)),
        *_ARGUMENTS,
        *arguments,
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **_ENVIRONMENT, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield VllmServer(base_url=f"http://127.0.0.1:{port}/v1", process=process)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):  # its engine outlives a server that was killed
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: object) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (URLError, OSError):
            if process.poll() is not None:
                break
            time.sleep(0.25)
    log.seek(0)  # type: ignore[attr-defined]  # a binary file
    tail = log.read()[-4000:].decode(errors="replace")  # type: ignore[attr-defined]  # as above
    raise RuntimeError(f"the server did not start:\n{tail}")
