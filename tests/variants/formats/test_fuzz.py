"""Damaged adapter files of three kinds: each is read or refused in one line; none hangs, runs code or fills the memory.

`MUTATIONS=1000 pytest tests/variants/formats/test_fuzz.py -m slow` tries a thousand of each kind.
"""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.support import mutate
from tests.support.adapter_files import without_hash
from tests.support.survey import number, outcome, survey
from tests.support.tiny import gpt2, roberta, trained
from variants import AdaLoRA, DoRA, LoRA, VeRA, formats, load
from variants.base_model import stand_in
from variants.formats import loralib, native, peft
from variants.formats.native import save_adapter

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COUNT = number()
VARIANTS = (
    LoRA(r=2, per_layer={"*.0.*": {"r": 3}}),
    DoRA(r=2, target="o,up"),
    VeRA(r=5, save_projection=True),
    AdaLoRA(init_r=3, target_r=2),
)


def files(folder: Path, config: str, tensors: str) -> list[tuple[dict, dict[str, torch.Tensor], bytes]]:
    """(configuration, tensors, the tensors' bytes) of each folder in ``folder``."""
    return [
        (json.loads((own / config).read_text()), load_file(own / tensors), (own / tensors).read_bytes())
        for own in sorted(folder.iterdir())
    ]


def writer(originals: list, target: Path, config: str, tensors: str):
    """Leaves a mutation of one of the originals: its configuration's structure or bytes, its tensors or their bytes."""

    def write(draw: random.Random) -> None:
        settings_, values, data = draw.choice(originals)
        target.mkdir(exist_ok=True)
        kind = draw.randrange(4)
        text = json.dumps(settings_).encode()
        if kind == 0:
            text = mutate.json_bytes(mutate.mutated(settings_, draw))
        elif kind == 1:
            text = mutate.mutated_bytes(text, draw)
        elif kind == 2:
            data = mutate.mutated_bytes(data, draw)
        (target / config).write_bytes(text)
        (target / tensors).write_bytes(data)
        if kind == 3:
            save_file(mutate.mutated_tensors(values, draw), target / tensors)

    return write


def read_all(place: Path):
    """Read as the commands do, with the model and without it, and strictly."""

    def read() -> None:
        formats.load(roberta(), place, alpha=4.0)
        if (place / native.CONFIG).is_file():
            load(roberta(), place, strict=True)
        formats.load(stand_in(place), place, alpha=4.0)

    return read


def test_adapter_folders(tmp_path):
    for i, variant in enumerate(VARIANTS):
        without_hash(save_adapter(trained(roberta(), variant), tmp_path / "good" / str(i)))  # so that all is read
    originals = files(tmp_path / "good", native.CONFIG, native.TENSORS)
    (tmp_path / "work").mkdir()
    place = tmp_path / "work/adapter"
    survey(writer(originals, place, native.CONFIG, native.TENSORS), read_all(place), tmp_path / "work", COUNT).settle()


def test_peft_folders(tmp_path):
    for i, variant in enumerate(VARIANTS):
        peft.save(trained(roberta(), variant), tmp_path / "good" / str(i))
    originals = files(tmp_path / "good", peft.CONFIG, peft.TENSORS)
    (tmp_path / "work").mkdir()
    place = tmp_path / "work/adapter"
    survey(writer(originals, place, peft.CONFIG, peft.TENSORS), read_all(place), tmp_path / "work", COUNT).settle()


def test_loralib_files(tmp_path):
    originals = []
    for name, build in (("roberta", roberta), ("gpt2", gpt2)):
        loralib.save(trained(build(), LoRA(r=2)), tmp_path / name)
        originals.append((build, torch.load(tmp_path / name, weights_only=True), (tmp_path / name).read_bytes()))
    odd = (*mutate.VALUES[:12], torch.zeros(1).expand(10**9), torch.zeros(2, 2).to_sparse())
    model = [roberta]
    (tmp_path / "work").mkdir()
    place = tmp_path / "work/lora.bin"

    def write(draw: random.Random) -> None:
        model[0], state, data = draw.choice(originals)
        if draw.random() < 0.5:
            place.write_bytes(mutate.mutated_bytes(data, draw))
            return
        changed = mutate.mutated_tensors(dict(state), draw)
        if draw.random() < 0.3:
            changed[draw.choice(sorted(changed) or ["x"])] = draw.choice(odd)
        torch.save(changed, place)

    def read() -> None:
        formats.load(model[0](), place, alpha=4.0)
        formats.load(stand_in(place), place, alpha=4.0)

    survey(write, read, tmp_path / "work", COUNT).settle()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for name, save in (("ours", save_adapter), ("peft", peft.save)):
        for i, variant in enumerate(VARIANTS):
            save(trained(roberta(), variant), root / name / str(i))
    return root


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), value=JSON, which=st.integers(0, len(VARIANTS) - 1), kind=st.sampled_from(["ours", "peft"]))
def test_any_value_in_the_place_of_any_option(data, value, which, kind, folders):
    folder, name = folders / kind / str(which), native.CONFIG if kind == "ours" else peft.CONFIG
    text = (folder / name).read_text()
    config = json.loads(text)
    holder = config
    if kind == "ours" and data.draw(st.booleans()):
        holder = config[data.draw(st.sampled_from(["options", "base"]))]
    key = data.draw(st.sampled_from(sorted(holder)))
    holder[key] = value
    try:
        (folder / name).write_text(json.dumps(config))
        how, said = outcome(lambda: formats.load(roberta(), folder))
        assert how in ("accepted", "one line"), f"{key}={value!r}: {how}: {said}"
    finally:
        (folder / name).write_text(text)
