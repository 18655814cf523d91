"""A model on Ray Serve whose weights come straight from where they are kept: read through the node's cache, shared
between nodes, and assigned, not copied, to the model."""

import logging

from fastapi import FastAPI
from ray import serve

api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Model:
    def __init__(self, weights: str, device: str, layers: int, width: int) -> None:
        from loaders.coldstart import ColdStart

        # Serve's own log: what goes there is in the replica's file and on Ray's dashboard.
        self.timeline = ColdStart("decoder", log=logging.getLogger("ray.serve"))
        # Imported here, in the replica, where the timeline sees how long it takes.
        from loaders.safetensors.torch import load_file
        from model import Decoder, shapes_only

        self.timeline.phase("fetch")
        state = load_file(weights, device=device)
        self.timeline.phase("device")
        with shapes_only():
            self.model = Decoder(layers=layers, width=width)
        self.model.load_state_dict(state, assign=True)
        self.model.eval()
        self.device = device
        self.timeline.ready(device=device, replica=serve.get_replica_context().replica_id.unique_id)

    @api.get("/")
    async def next_token(self, tokens: str = "1,2,3") -> dict[str, int]:
        import torch

        ids = torch.tensor([[int(token) for token in tokens.split(",")]], device=self.device)
        with torch.inference_mode():
            return {"next": int(self.model(ids)[0, -1].argmax())}

    @api.get("/cold-start")
    async def cold_start(self) -> dict[str, float]:
        return self.timeline.document()


def build(args: dict[str, str]) -> serve.Application:
    return Model.bind(
        args["weights"], args.get("device", "cpu"), int(args.get("layers", "4")), int(args.get("width", "256"))
    )
