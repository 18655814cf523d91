"""The example's model, loaded in one of two ways when a replica starts; each node has a cache folder of its own."""

import os
import shutil
import tempfile

import ray
from fastapi import FastAPI
from ray import serve

api = FastAPI()


def download_then_load(weights: str) -> dict[str, object]:
    import urllib.request

    from safetensors.torch import load_file

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        with urllib.request.urlopen(weights) as answer:
            shutil.copyfileobj(answer, file, 1 << 20)
        file.flush()
        return {name: tensor.clone() for name, tensor in load_file(file.name).items()}


def heliostat(weights: str) -> dict[str, object]:
    from loaders.safetensors.torch import load_file

    return load_file(weights)


# Above the class: Serve takes a copy of it, with the names that it sees then.
LOADERS = {"download": download_then_load, "heliostat": heliostat}


@serve.deployment
@serve.ingress(api)
class Model:
    def __init__(self, weights: str, way: str, folder: str, layers: int, width: int) -> None:
        from loaders.coldstart import ColdStart

        self.timeline = ColdStart("decoder")
        # Several Ray nodes share this machine, and would share its cache: then no byte would have to travel.
        os.environ["HELIOSTAT_CACHE_DIR"] = os.path.join(folder, ray.get_runtime_context().get_node_id()[:8])
        from model import Decoder, shapes_only

        self.timeline.phase("fetch")
        state = LOADERS[way](weights)
        self.timeline.phase("device")
        with shapes_only():
            self.model = Decoder(layers=layers, width=width)
        self.model.load_state_dict(state, assign=True)
        self.timeline.ready()

    @api.get("/cold-start")
    async def cold_start(self) -> dict[str, float]:
        return self.timeline.document()


def build(args: dict[str, str]) -> serve.Application:
    return Model.bind(args["weights"], args["way"], args["folder"], int(args["layers"]), int(args["width"]))
