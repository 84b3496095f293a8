"""Given a directory, nothing asks the network: in a process whose sockets refuse and that nobody told to be offline."""

import os
import subprocess
import sys

from PIL import Image

# Every attempt is noted as well as refused: huggingface_hub takes a failed request for a reason to look in its cache.
SEALED = """
import os, socket, sys

attempts = []

def refuse(*arguments, **keywords):
    attempts.append(arguments)
    raise OSError("a network connection was attempted")

class Sealed(socket.socket):
    __init__ = refuse

socket.socket = Sealed
socket.create_connection = socket.getaddrinfo = refuse

assert "HF_HUB_OFFLINE" not in os.environ and "TRANSFORMERS_OFFLINE" not in os.environ
folder, out, image = sys.argv[1:]

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor
from typer.testing import CliRunner

import gloria
from gloria.card import write_card
from gloria.cli import app

for Model, Processor in ((gloria.GloriaModel, gloria.GloriaProcessor), (AutoModel, AutoProcessor)):
    model, processor = Model.from_pretrained(folder), Processor.from_pretrained(folder)
    assert type(model) is gloria.GloriaModel and type(processor) is gloria.GloriaProcessor
    batch = processor(images=image, text=["No effusion.", "A small nodule."])
    with torch.no_grad():
        model.eval()(**{**batch, "pixel_values": batch["pixel_values"].expand(2, -1, -1, -1)})
AutoConfig.from_pretrained(folder)
model.save_pretrained(out)
processor.save_pretrained(out)
gloria.GloriaModel.from_pretrained(out)
write_card(out, "other")
given = ["attend", out, "--image", image, "--report", "No effusion.", "--out", out + "/attention", "--cpu"]
result = CliRunner().invoke(app, given)
assert result.exit_code == 0, result.output
assert not attempts, attempts
try:
    socket.create_connection(("localhost", 9))
except OSError:
    pass
assert len(attempts) == 1  # so one would have been noted
print("sealed")
"""


def test_a_directory_is_loaded_without_a_network(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    Image.new("L", (40, 30), 9).save(tmp_path / "image.png")
    assert sorted(path.name for path in (tmp_path / "saved").glob("*.safetensors")) == ["model.safetensors"]
    assert not list((tmp_path / "saved").glob("*.bin"))
    told = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    environment["HF_HOME"] = str(tmp_path / "cache")  # empty: nothing can come from there either
    paths = [str(tmp_path / name) for name in ("saved", "out", "image.png")]
    result = subprocess.run(
        [sys.executable, "-c", SEALED, *paths], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "sealed\n"
