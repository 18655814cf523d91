"""Write random weights: `python make_weights.py model.safetensors [LAYERS WIDTH]`. Upload the file to your store."""

import sys

import torch
from model import Decoder
from safetensors.torch import save_file

torch.manual_seed(0)
layers, width = (int(text) for text in sys.argv[2:4]) if len(sys.argv) > 3 else (4, 256)
save_file(Decoder(layers=layers, width=width).state_dict(), sys.argv[1])
