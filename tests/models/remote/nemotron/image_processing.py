"""The function by which Nemotron's snapshot prepares a chat: it opens the picture itself."""

import numpy as np
import torch
from chat_utils import render
from PIL import Image

PATCHES = 4


def process_messages(tokenizer, messages, add_generation_prompt=True, enable_thinking=True):
    assert not enable_thinking
    content = messages[-1]["content"]
    pictures = [Image.open(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
    text = "".join(part["text"] for part in content if part["type"] == "text")
    prompt = render(tokenizer, text, len(pictures), add_generation_prompt)
    prompt = prompt.replace("<image>", "<image>" * PATCHES)
    pixels = [np.asarray(each.convert("RGB").resize((4, 4)), dtype=np.float32) / 255 for each in pictures]
    return {
        "input_ids": torch.tensor([tokenizer(prompt)["input_ids"]]),
        "pixel_values": torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        "image_sizes": torch.tensor([[each.height, each.width] for each in pictures]),
    }
