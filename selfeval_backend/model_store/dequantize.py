"""Turn a GGUF file into a plain model folder: weights in bfloat16, tokenizer, chat template.

Run as a program (``python -m selfeval_backend.model_store.dequantize FILE FOLDER``): what
transformers prints on the way, and the memory that it takes, stay in a process of their own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from selfeval_backend.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["dequantize", "main", "read_model", "read_tokenizer", "save_plain"]

_OF_THE_MAKER = ("transformers_version", "_model_name_or_path")
"""What config files say of who wrote them: without it, the same weights are the same folder."""


def dequantize(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file as a folder that every engine loads.

    Args:
        file: Llama, or another architecture that transformers reads from GGUF.
        folder: Empty.

    Raises:
        ValueError: It splits text in a way that is not known here.
    """
    model, tokenizer = read_model(file), read_tokenizer(file)
    tokenizer.model_max_length = model.config.max_position_embeddings
    save_plain(model, tokenizer, folder)


def read_model(file: Path) -> PreTrainedModel:
    """Return the model of a GGUF file, in float32, as if it had never been quantised.

    One that transformers read itself refuses to be saved.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    config = read.config
    del config.quantization_config
    config._name_or_path = ""
    make = AutoModelForCausalLM.from_config
    model: PreTrainedModel = make(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # theirs
    model.load_state_dict(read.state_dict())
    # The file has token ids, and nothing on sampling.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # theirs
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a GGUF file, with its chat template.

    transformers splits the text of every GPT-2 vocabulary alike, whatever ``tokenizer.ggml.pre``
    says: here it is split as the model was trained, or else a blank line before "1." would be two
    tokens that it has never seen there.

    Raises:
        ValueError: The file's way is not known here.
    """
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    way = None if field is None else field.contents()
    if way != "smollm":
        raise ValueError(f"{file.name} splits text as {way!r}, which is not known here")
    read = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    digits: PreTokenizer = Digits(individual_digits=True)
    read.backend_tokenizer.pre_tokenizer = Sequence([digits, ByteLevel(add_prefix_space=False)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # theirs
        tokenizer_object=read.backend_tokenizer,
        bos_token=read.bos_token,
        eos_token=read.eos_token,
        pad_token=read.pad_token,
        unk_token=read.unk_token,
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
    )


def save_plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model in bfloat16 and its tokenizer; whoever may read one file may read them all."""
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        facts = read_json(folder / name)
        write_json(folder / name, {k: v for k, v in facts.items() if k not in _OF_THE_MAKER})
    for path in folder.iterdir():
        shutil.copymode(folder / "config.json", path)


def main() -> None:
    """Convert the file that the command line names."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the file
    dequantize(Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
