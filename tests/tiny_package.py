"""A package with a model as small as can be, in a folder that pip and uv take for an index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from selfeval_backend.model_store import KnownModel, Package

__all__ = ["TinyPackage", "known", "make_package", "offer"]

NAME, MODULE, FILE = "aic-tiny", "aic_tiny", "aic_tiny/tiny.Q8_0.gguf"
NUM_LAYERS, WIDTH, HEADS = 2, 32, 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RUNS_CODE = "raise SystemExit('the code of a package ran that was only to be read')\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyPackage:
    """A wheel, and the model that it is known to hold."""

    wheel: Path
    model: KnownModel


def make_package(
    folder: Path, *, version: str = "0.1.2", contents: bytes | None = None
) -> TinyPackage:
    """Write the wheel of a version into a folder.

    Args:
        folder: Has nothing but wheels in it.
        version: Of the package.
        contents: In the place of the GGUF file; None: a model of two layers.
    """
    gguf = _gguf(folder / "tiny.gguf") if contents is None else contents
    wheel = folder / f"{MODULE}-{version}-py3-none-any.whl"
    info = f"{MODULE}-{version}.dist-info"
    with ZipFile(wheel, "w", ZIP_STORED) as opened:
        opened.writestr(FILE, gguf)
        opened.writestr(f"{MODULE}/__init__.py", RUNS_CODE)
        opened.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\nRequires-Dist: not-there\n",
        )
        opened.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        names = (FILE, f"{MODULE}/__init__.py", f"{info}/METADATA", f"{info}/WHEEL")
        opened.writestr(f"{info}/RECORD", "".join(f"{n},,\n" for n in (*names, f"{info}/RECORD")))
    return TinyPackage(wheel=wheel, model=known(wheel))


def offer(folder: Path) -> dict[str, str]:
    """Return the environment in which pip and uv know the wheels of a folder, and no others."""
    return {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(folder),
        "UV_OFFLINE": "1",
        "UV_NO_CONFIG": "1",
    }


def known(wheel: Path) -> KnownModel:
    """Return the model of a wheel that `make_package` wrote."""
    with ZipFile(wheel) as opened:
        gguf = opened.read(FILE)
    return KnownModel(
        name="tiny",
        about="two layers of noise",
        license="Apache-2.0",
        languages=("en",),
        self_evaluation="unknown",
        source=Package(
            name=NAME,
            version=wheel.name.split("-")[1],
            sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            num_bytes=wheel.stat().st_size,
            folder_bytes=200_000,
            file=FILE,
            file_sha256=hashlib.sha256(gguf).hexdigest(),
        ),
        original="aic-tests/tiny",
    )


def _gguf(path: Path) -> bytes:
    """Return a Llama of noise, quantised to eight bits, with a byte-level vocabulary."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType
    from gguf.quants import quantize

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_letters(), "ĊĊ"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(NUM_LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    noise = np.random.default_rng(0)
    for name, shape in _shapes(len(tokens)).items():
        values = noise.normal(scale=0.1, size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + values)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    written = path.read_bytes()
    path.unlink()
    return written


def _letters() -> list[str]:
    """Return a letter for each byte, as byte-level vocabularies write them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(hidden))]


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    half = WIDTH // HEADS
    layer = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (half, WIDTH),
        "attn_v": (half, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (2 * WIDTH, WIDTH),
        "ffn_up": (2 * WIDTH, WIDTH),
        "ffn_down": (WIDTH, 2 * WIDTH),
    }
    return {
        "token_embd.weight": (vocabulary, WIDTH),
        "output_norm.weight": (WIDTH,),
        **{f"blk.{i}.{n}.weight": s for i in range(NUM_LAYERS) for n, s in layer.items()},
    }
