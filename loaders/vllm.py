"""vLLM reads its weights through `loaders.safetensors`: `vllm serve ... --load-format heliostat`.

vLLM finds `register` by its entry point (`vllm.general_plugins`) and calls it in each of its processes. Options come in
`--model-loader-extra-config`, a JSON object: see `Options`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

LOAD_FORMAT = "heliostat"

READ_AHEAD = 8 << 30
"""Bytes that are read ahead of the model. Each rank has its own, and all of them share the machine's memory."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `--model-loader-extra-config` may say."""

    weights: str | None = None
    """Where the weights are, if not where the model is: a file, an index or a folder, as `load_file` takes them."""
    region: str | None = None
    cache: str | None = "node"
    """`"node"`: each byte is fetched once for all ranks of the machine. None: each rank goes to the origin."""
    memory_limit: int = READ_AHEAD
    """Must hold the largest tensor and one chunk of 8 MiB."""
    device: str = "cpu"
    """Where tensors are handed to the model from."""

    @classmethod
    def read(cls, given: object) -> Options:
        """Return the options. Raises ValueError that names what is not known or not of its kind."""
        if not isinstance(given, Mapping):
            raise ValueError(f"--model-loader-extra-config of load format {LOAD_FORMAT} must be a JSON object")
        kinds: dict[str, tuple[type, ...]] = {each.name: (str, type(None)) for each in fields(cls)}
        kinds |= {"memory_limit": (int,), "device": (str,)}
        for name, value in given.items():
            if name not in kinds:
                raise ValueError(f"load format {LOAD_FORMAT} knows no option {name!r}, only {', '.join(kinds)}")
            if not isinstance(value, kinds[name]) or isinstance(value, bool):
                raise ValueError(f"load format {LOAD_FORMAT}: the option {name} cannot be {value!r}")
        return cls(**given)


def register() -> None:
    """Tell vLLM of the load format. Harmless when it was told before."""
    from vllm.model_executor import model_loader

    known = getattr(model_loader, "_heliostat_loader", None)
    if known is None:
        made = loader_class(model_loader.BaseModelLoader)
        model_loader.register_model_loader(LOAD_FORMAT)(made)
        model_loader._heliostat_loader = made


def loader_class(base: type[Any]) -> type[Any]:
    """Return the loader, a subclass of vLLM's own base class: that one creates the model and finishes its weights."""

    class HeliostatModelLoader(base):  # type: ignore[misc]  # known at run time only: vLLM is no dependency
        """Streams a checkpoint's tensors into a model."""

        def __init__(self, load_config: Any) -> None:
            super().__init__(load_config)
            self.options = Options.read(load_config.model_loader_extra_config or {})

        def download_model(self, model_config: Any) -> None:
            """Put the weights into this node's cache; what is on this machine already stays where it is."""
            from loaders.safetensors.sources.opening import local_path
            from loaders.safetensors.stage import stage

            uri = place_of(self.options, model_config)
            if local_path(uri) is None and self.options.cache is not None:
                stage(uri, region=self.options.region)

        def load_weights(self, model: Any, model_config: Any) -> None:
            """Fill a model that was created already, as vLLM's own loaders do."""
            if tuple(getattr(model, "secondary_weights", ())):
                raise ValueError(f"load format {LOAD_FORMAT} reads one checkpoint; this model wants a second one")
            unused = getattr(model, "is_unused_checkpoint_weight", None)
            loaded = model.load_weights(weights_of(self.options, place_of(self.options, model_config), unused))
            if loaded is not None and model_config.quantization is None:
                check_complete(model, loaded, place_of(self.options, model_config))

    return HeliostatModelLoader


def place_of(options: Options, model_config: Any) -> str:
    """Return where the weights are. vLLM replaces an s3:// or gs:// model by a local copy of its small files."""
    return str(options.weights or getattr(model_config, "model_weights", "") or model_config.model)


def weights_of(options: Options, uri: str, unused: Callable[[str], bool] | None) -> Iterator[tuple[str, Any]]:
    """Return the tensors as they arrive, without those that the model says it never uses: they are not even read."""
    from loaders.safetensors.torch import stream

    return stream(
        _folder(uri),
        options.device,
        options.region,
        tensors=None if unused is None else lambda name: not unused(name),
        cache="node" if options.cache is not None else None,
        memory_limit=options.memory_limit,
    )


def _folder(uri: str) -> str:
    """A remote folder ends with a slash; what vLLM calls a model has none."""
    is_file = uri.endswith((".safetensors", ".index.json", "/")) or "://" not in uri
    return uri if is_file else f"{uri}/"


def check_complete(model: Any, loaded: set[str], uri: str) -> None:
    """Raise ValueError for parameters that nothing was loaded for: they would be random numbers."""
    missing = sorted({name for name, _ in model.named_parameters()} - set(loaded))
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ValueError(f"{uri} has no weights for {some}")
