"""CLIP and DINO scores against their definitions, by tiny models made from configurations."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
)

from modules.benchmarks.dreambooth.similarity import Similarity
from tests.support.tiny_pipelines import LETTERS
from variants.errors import UserError

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
    vision = small | {"image_size": 32, "patch_size": 16}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    clip.save_pretrained(folder / "clip")
    CLIPProcessor(images, tokenizer).save_pretrained(folder / "clip")
    dino = Dinov2Model(Dinov2Config(**{**vision, "mlp_ratio": 1}))
    dino.save_pretrained(folder / "dino")
    images.save_pretrained(folder / "dino")
    return folder, clip, CLIPProcessor(images, tokenizer)


@pytest.mark.slow
def test_they_are_mean_cosines(models):
    folder, clip, processor = models
    found = Similarity(["clip_i", "clip_t", "dino"], str(folder / "clip"), str(folder / "dino"))
    prompts = ["a red dog", "cat"]
    scores = found.scored(PICTURES[:2], prompts, PICTURES[2:])
    assert list(scores) == ["clip_i", "clip_t", "dino"]
    told = processor(text=prompts, images=list(PICTURES), return_tensors="pt", padding=True)
    with torch.no_grad():
        output = clip(**told)
    images, texts = output.image_embeds, output.text_embeds
    pairs = [cosine_similarity(images[a], images[b], dim=0) for a in (0, 1) for b in (2, 3, 4)]
    assert scores["clip_i"] == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-5)
    assert scores["clip_t"] == pytest.approx(cosine_similarity(images[:2], texts).mean().item(), abs=1e-5)
    same = found.scored(PICTURES[:1], prompts[:1], PICTURES[:1])
    assert same["dino"] == pytest.approx(1, abs=1e-5) == same["clip_i"]


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        Similarity(["dino"], "", str(tmp_path))
