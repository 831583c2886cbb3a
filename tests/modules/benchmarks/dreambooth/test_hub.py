"""An image model and pictures from the Hub; its libraries talk to a server on this machine."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.support.hub_server import HubServer
from tests.support.processes import run
from tests.support.tiny_images import pictures
from tests.support.tiny_pipelines import stable_diffusion

LOAD = """
from modules.backbones.diffusion.families import load_image_model
from modules.backbones.weights import weights_hash
from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.benchmarks.dreambooth.sources import OwnSource
name, kind, folder = DREAMBOOTH.backbone("tiny/sd")
model = load_image_model(folder, name)
print(name, kind, weights_hash(folder), type(model).__name__, sorted(path.name for path in folder.rglob("*.fp16.*")))
print(tuple(model.paint(["a red dog"], [0], 2, 3.0).shape))
given = {"data": "tiny/pictures", "prompts": "a; b"}
source, task = OwnSource(given), next(iter(DREAMBOOTH.on(given).tasks.values()))
splits = source.load(task)
prompts = sorted(splits["train"].prompts + splits["validation"].prompts)
print(source.kind, task.name, source.sizes[task.name], prompts[0])
attempt(DREAMBOOTH.backbone, "tiny/pictures-only")
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_hub(tmp_path):
    model = files(stable_diffusion(tmp_path / "sd"))
    half = {"unet/diffusion_pytorch_model.fp16.safetensors": b"never fetched"}
    mine = files(pictures(tmp_path / "mine"))
    for name in [name for name in mine if name.endswith(".png")]:
        file = io.BytesIO()
        Image.open(io.BytesIO(mine[name])).resize((40, 40)).save(file, "PNG")
        mine[name] = file.getvalue()
    repos = {
        ("models", "tiny/sd"): model | half,
        ("models", "tiny/pictures-only"): {"README.md": b"nothing"},
        ("datasets", "tiny/pictures"): mine,
    }
    with HubServer(repos) as server:
        first, painted, data, nothing = run(LOAD, server.url, tmp_path)
    assert first.startswith("tiny/sd hub ") and first.endswith("StableDiffusion []")
    assert painted == "(1, 3, 32, 32)"
    assert data.startswith("hub pictures {'train': 5, 'validation': 1, 'test': 2} sks, ")
    assert "has no model_index.json" in nothing
