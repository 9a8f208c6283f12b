"""The call interface of Sa2VA's chat model, on a few thousand weights: pixels and prompt decide what it says."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, StoppingCriteriaList

from .configuration_tiny import TinySa2VAConfig

PARTS = ("the dark part", "the bright part")
FEW = "<p> {0} </p> [SEG] .<|im_end|>"
BOTH = "<p> {0} </p> [SEG] beside <p> {1} </p> [SEG] .<|im_end|>"


class TinyEncoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.project = nn.Linear(width, 1)

    def get_sam2_embeddings(self, images, expand_size=1):
        return {"grey": images.mean(dim=0), "size": images.shape[1:]}

    def language_embd_inference(self, states, embeddings):
        """The half of the pixels on the side of the grey that the embedding names."""
        grey = states["grey"]
        middle = (grey.min() + grey.max()) / 2
        dark = self.project(embeddings[0]).sign().item() < 0
        return (grey <= middle if dark else grey > middle)[None, None].float() * 20 - 10


class TinySa2VA(PreTrainedModel):
    config_class = TinySa2VAConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vision = nn.Linear(3, config.hidden_size)
        self.grounding_encoder = TinyEncoder(config.hidden_size)
        self.init_prediction_config = False
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(std=0.8)

    def preparing_for_generation(self, tokenizer, max_new_tokens=2048, torch_dtype=torch.bfloat16):
        if not hasattr(self, "tokenizer"):
            self.tokenizer = tokenizer
        self.stop_criteria = StoppingCriteriaList()
        self.most = max_new_tokens
        self.init_prediction_config = True

    def predict_forward(self, image=None, video=None, text=None, past_text="", mask_prompts=None, tokenizer=None):
        if not self.init_prediction_config:
            assert tokenizer
            self.preparing_for_generation(tokenizer=tokenizer)
        ids = torch.tensor([self.tokenizer(text)["input_ids"]], device=self.device)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).to(self.device)
        seen = self.embed(ids)[0].mean(dim=0)
        if "<image>" in text:
            seen = seen + self.vision(pixels.mean(dim=(0, 1)).to(self.dtype))
        # Whether to speak of one part or of both is the prompt's matter, and which comes first the picture's.
        first = 0 if pixels.mean() < 0.5 else 1
        segment = "segment" in text
        answer = (BOTH if "both" in text else FEW).format(PARTS[first], PARTS[1 - first])
        if not segment:
            answer = f"{'dark' if first == 0 else 'bright'} {seen.sum().item():.3f}<|im_end|>"
        said = self.tokenizer(answer)["input_ids"]
        for count in range(1, len(said) + 1):
            stop = self.stop_criteria(torch.tensor([said[:count]], device=self.device), None)
            if count == self.most or bool(torch.as_tensor(stop).all()):
                break
        said = said[:count]
        masks = []
        for place, _ in enumerate(token for token in said if token == self.tokenizer.convert_tokens_to_ids("[SEG]")):
            states = self.grounding_encoder.get_sam2_embeddings(pixels.permute(2, 0, 1))
            dark = (first + place) % 2 == 0
            weight = self.grounding_encoder.project.weight[0]
            logits = self.grounding_encoder.language_embd_inference(states, [-9 * weight if dark else 9 * weight])
            masks.append((logits[:, 0].sigmoid() > 0.5).cpu().numpy())
        return {"prediction": self.tokenizer.decode(said, skip_special_tokens=False).strip(), "prediction_masks": masks}
