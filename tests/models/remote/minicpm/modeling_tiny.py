"""The call interface of MiniCPM-V 2.6, on a model of a few thousand weights that looks at pixels and prompt."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_tiny import TinyMiniCPMConfig


class TinyLLM(nn.Module):
    """Passed once a token."""

    def __init__(self, vocab, width):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.cell = nn.GRUCell(width, width)
        self.lm_head = nn.Linear(width, vocab)

    def forward(self, token, state):
        state = self.cell(self.embed(token), state)
        return self.lm_head(state), state


class TinyMiniCPM(PreTrainedModel):
    config_class = TinyMiniCPMConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.vpm = nn.Linear(48, config.hidden_size)
        self.llm = TinyLLM(config.vocab_size, config.hidden_size)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(std=0.8)

    def _look(self, image, slices):
        side = 4 if slices is None or slices > 1 else 2
        small = np.asarray(image.convert("RGB").resize((side, side)).resize((4, 4)), dtype=np.float32) / 255
        return self.vpm(torch.from_numpy(small.reshape(1, -1)).to(self.device, self.dtype))

    def chat(
        self,
        image,
        msgs,
        tokenizer,
        processor=None,
        vision_hidden_states=None,
        max_new_tokens=2048,
        min_new_tokens=0,
        sampling=True,
        max_inp_length=8192,
        system_prompt="",
        stream=False,
        max_slice_nums=None,
        use_image_id=None,
        **kwargs,
    ):
        assert len(msgs) > 0, "msgs is empty"
        assert sampling or not stream, "if use stream mode, make sure sampling=True"
        assert image is None
        state = torch.zeros(1, self.config.hidden_size, device=self.device, dtype=self.dtype)
        for msg in msgs:
            assert msg["role"] in ["user", "assistant"]
            for place, part in enumerate(msg["content"]):
                if isinstance(part, str):
                    ids = torch.tensor(tokenizer(part)["input_ids"][:max_inp_length], device=self.device)
                    for token in ids:
                        state = self.llm.cell(self.llm.embed(token[None]), state)
                else:
                    state = state + (place + 1) * self._look(part, max_slice_nums)
        token = torch.tensor([tokenizer.eos_token_id], device=self.device)
        said = []
        while len(said) < min(max_new_tokens, 40):
            logits, state = self.llm(token, state)
            token = torch.multinomial((logits / 0.7).softmax(-1), 1)[0] if sampling else logits.argmax(-1)
            if token.item() == tokenizer.eos_token_id and len(said) >= min_new_tokens:
                break
            said.append(token.item())
        return tokenizer.decode(said, skip_special_tokens=True).strip()
