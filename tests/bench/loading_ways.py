"""One measured load in a fresh process: `python -m tests.bench.loading_ways WAY PLACE TIMES` prints JSON.

`PLACE` is a path or URI. Imports come before the clock starts. Every load's tensors are kept, so that no load gets
memory back that an earlier one already touched. Object stores are reached as the environment says.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Load = Callable[[str], Mapping[str, Any]]


def heliostat() -> Load:
    from loaders.safetensors.torch import load_file

    return lambda place: load_file(place, cache=None, progress=False)


def safetensors() -> Load:
    """Reads lazily, by page faults, so each tensor is cloned to have its bytes."""
    from safetensors.torch import load_file

    return lambda place: {name: tensor.clone() for name, tensor in load_file(place).items()}


def fastsafetensors() -> Load:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load(place: str) -> Mapping[str, Any]:
        loader = SafeTensorsFileLoader(SingleGroup(), device="cpu", nogds=True)
        loader.add_filenames({0: [place]})
        try:
            buffer = loader.copy_files_to_device()
            return {name: buffer.get_tensor(name).clone() for name in buffer.key_to_rank_lidx}
        finally:
            loader.close()

    return load


def runai() -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load(place: str) -> Mapping[str, Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(place)
            return {name: tensor.clone() for name, tensor in streamer.get_tensors()}

    return load


def tensorizer() -> Load:
    from tensorizer import TensorDeserializer

    def load(place: str) -> Mapping[str, Any]:
        with TensorDeserializer(place, device="cpu", lazy_load=False, num_readers=2) as found:
            return dict(found.items())

    return load


def boto3() -> Load:
    """Download, then load: what most replicas do."""
    import boto3 as library
    from botocore.config import Config
    from safetensors.torch import load_file

    def load(place: str) -> Mapping[str, Any]:
        parts = urlsplit(place)
        client = library.client("s3", config=Config(s3={"addressing_style": "path"}))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "weights.safetensors")
            client.download_file(parts.netloc, parts.path.lstrip("/"), path)
            return {name: tensor.clone() for name, tensor in load_file(path).items()}

    return load


def httpx() -> Load:
    """Download over one connection, then load."""
    import httpx as library
    from safetensors.torch import load_file

    def load(place: str) -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "weights.safetensors")
            with library.stream("GET", place, trust_env=False) as answer, open(path, "wb") as file:
                file.writelines(answer.iter_bytes(1 << 20))
            return {name: tensor.clone() for name, tensor in load_file(path).items()}

    return load


def s3torchconnector() -> Load:
    from s3torchconnector import S3ClientConfig
    from s3torchconnector._s3client import S3Client
    from safetensors.torch import load as parse

    def load(place: str) -> Mapping[str, Any]:
        parts = urlsplit(place)
        config = S3ClientConfig(force_path_style=True)
        client = S3Client("us-east-1", endpoint=os.environ["AWS_ENDPOINT_URL"], s3client_config=config)
        content = client.get_object(parts.netloc, parts.path.lstrip("/")).read()
        return {name: tensor.clone() for name, tensor in parse(content).items()}

    return load


WAYS: dict[str, Callable[[], Load]] = {
    "heliostat": heliostat,
    "safetensors": safetensors,
    "fastsafetensors": fastsafetensors,
    "runai": runai,
    "tensorizer": tensorizer,
    "boto3": boto3,
    "httpx": httpx,
    "s3torchconnector": s3torchconnector,
}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def most_resident() -> int:
    """Return the highest resident size so far. (`ru_maxrss` would count the process that started this one, too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def checksum(tensors: Mapping[str, Any]) -> int:
    """Of every byte; the same for every way that loaded the same file."""
    import torch

    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy()), found)
    return found


def tensorize(source: str, target: str) -> None:
    """Write the same tensors in tensorizer's own format."""
    from safetensors.torch import load_file
    from tensorizer import TensorSerializer

    writer = TensorSerializer(target)
    writer.write_state_dict(load_file(source))
    writer.close()


def main() -> None:
    if sys.argv[1] == "tensorize":
        return tensorize(sys.argv[2], sys.argv[3])
    way, place, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    import torch  # noqa: F401

    load = WAYS[way]()
    kept, seconds, cpu = [], [], []
    Path("/proc/self/clear_refs").write_text("5")
    resident = most_resident()
    peak = 0
    for _ in range(times):
        cpu_before, before = cpu_seconds(), time.perf_counter()
        kept.append(load(place))
        seconds.append(time.perf_counter() - before)
        cpu.append(cpu_seconds() - cpu_before)
        peak = peak or most_resident() - resident
    sums = {checksum(tensors) for tensors in (kept[0], kept[-1])}
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "checksums": sorted(sums)}))
    sys.stdout.flush()
    # Some libraries' threads do not end by themselves.
    return os._exit(0)


if __name__ == "__main__":
    main()
