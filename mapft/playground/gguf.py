"""A model in a GGUF file as an ordinary folder of transformers, kept in the cache."""

import shutil
from hashlib import blake2b
from pathlib import Path

from mapft.utils.errors import UserError
from mapft.utils.files import TEMPORARY, locked

from .cache import cache_folder


def unpacked(file: Path) -> Path:
    """The folder with the float32 weights and the tokenizer of a GGUF file, written on first use.

    Training needs weights that are not quantized, and transformers does not save a model that it read from a GGUF
    file, so the model is built again from its weights. UserError for a file that transformers cannot read.
    """
    state = file.stat()
    digest = blake2b(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    folder = cache_folder() / f"gguf-{file.stem}-{digest}"
    if not folder.exists():
        with locked(folder):
            if not folder.exists():
                temporary = folder.with_name(f".{folder.name}{TEMPORARY}")
                shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
                _unpack(file, temporary)
                temporary.rename(folder)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise UserError(f"{file} is a GGUF file, which needs the package gguf; pip install 'mapft[gguf]'.")
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except Exception as error:  # transformers' reader raises errors of many types for a file that it does not know
        raise UserError(
            f"{file} cannot be read as a GGUF model ({type(error).__name__}: {error}); give a model of an architecture "
            "that transformers reads from GGUF, or the folder it was converted from."
        ) from error
    del quantized.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantized.config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
