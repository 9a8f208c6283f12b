"""The call interface of Nemotron's diffusion decoding, with its bare assertions, on a few thousand weights."""

import torch
from torch import nn
from transformers import PreTrainedModel

# The names that the real file imports, of which releases of transformers took some away.
from transformers.masking_utils import create_causal_mask, sdpa_mask_older_torch  # noqa: F401

from .configuration_tiny import TinyNemotronConfig


class TinyEncoder(nn.Module):
    """One forward pass is one function evaluation."""

    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.place = nn.Embedding(64, config.hidden_size)
        self.vision = nn.Linear(48, config.hidden_size)
        self.layers = nn.TransformerEncoderLayer(config.hidden_size, 4, 64, dropout=0.0, batch_first=True)

    def forward(self, ids, pixels):
        places = self.place(torch.arange(ids.shape[1], device=ids.device) % 64)
        words = self.embed(ids)
        # Of so few layers the prompt would otherwise be forgotten, and each place say the same.
        told = words[:, :24].mean(dim=1, keepdim=True) * 30 + self.vision(pixels.flatten(1))[:, None] * 3
        return self.layers(words + told + places * 4)


class TinyNemotron(PreTrainedModel):
    config_class = TinyNemotronConfig

    def __init__(self, config):
        super().__init__(config)
        self.encoder = TinyEncoder(config)
        self.diffusion_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(std=0.5)

    @torch.no_grad()
    def generate(
        self,
        prompt_ids,
        max_new_tokens=128,
        steps=128,
        block_length=32,
        shift_logits=False,
        threshold=None,
        causal_context=True,
        temperature=0,
        pixel_values=None,
        image_sizes=None,
        eos_token_id=None,
    ):
        assert max_new_tokens % block_length == 0
        blocks = max_new_tokens // block_length
        assert steps % blocks == 0
        steps_each = steps // blocks
        mask = self.config.mask_token_id
        ids, evaluations = prompt_ids, 0
        for _ in range(blocks):
            block = torch.full((1, block_length), mask, device=ids.device)
            ids = torch.cat([ids, block], dim=1)
            for _ in range(steps_each):
                masked = ids[0, -block_length:] == mask
                if not masked.any():
                    break
                logits = self.diffusion_head(self.encoder(ids, pixel_values))[0, -block_length:]
                evaluations += 1
                # It says whole words only, the mask among what it does not.
                logits[:, 3:260] = -torch.inf
                confidence, chosen = logits.float().softmax(-1).max(-1)
                confidence = torch.where(masked, confidence, -1.0)
                if threshold is None:
                    count = -(-block_length // steps_each)
                    reveal = confidence.topk(min(count, int(masked.sum()))).indices
                else:
                    reveal = (confidence > threshold).nonzero()[:, 0]
                    if len(reveal) == 0:
                        reveal = confidence.argmax()[None]
                ids[0, ids.shape[1] - block_length + reveal] = chosen[reveal]
            self.diffusion_head(self.encoder(ids, pixel_values))
            evaluations += 1
            if eos_token_id is not None and (ids[0, -block_length:] == eos_token_id).any():
                break
        return ids, evaluations
