"""LLaVA-NeXT with random weights, made on the device itself: at its real size, or small enough for any machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.gpu.runtimes.llava import Llava

MODEL = "fal-ai/llava-next"
PROMPT = "Describe this picture in as many words as you like."
# The real one's shapes: Yi-34B behind CLIP's ViT-L at 336 pixels.
REAL = {
    "text": {
        "vocab_size": 64_064,
        "hidden_size": 7_168,
        "intermediate_size": 20_480,
        "num_hidden_layers": 60,
        "num_attention_heads": 56,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4_096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e6,
    },
    "vision": {
        "hidden_size": 1_024,
        "intermediate_size": 4_096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
SMALL = {
    "text": REAL["text"]
    | {
        "vocab_size": 1_024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "vision": REAL["vision"]
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56},
}
SIZES = {"real": REAL, "small": SMALL}


def make(size: str, device: str) -> tuple[Any, Any]:
    """The model, in bfloat16 on a GPU and in float32 on a CPU, and its processor."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    from service.gpu.runtimes.devices import precision

    shapes = SIZES[size]
    side, patch = int(shapes["vision"]["image_size"]), int(shapes["vision"]["patch_size"])
    grid = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side], [side, 3 * side]]
    processor = _processor(side, patch, grid)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**shapes["vision"]),
        text_config=LlamaConfig(**shapes["text"]),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=grid,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaNextForConditionalGeneration._from_config(config, dtype=precision("auto", device)).eval()
    # No token ends an answer, so that all are as long as they may be.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def find(model: str, *, folder: Path, device: str, options: Mapping[str, str] | None = None) -> "Llava":
    """As `roundtrip gpu-worker --runtime bench.gpu_model:find --option size=small` has it; there is no folder."""
    from service.gpu.runtimes.llava import Llava, LlavaOptions

    given = dict(options or {})
    size = given.pop("size", "small")

    class Made(Llava):
        def load(self) -> None:
            self.adopt(*make(size, device))

    return Made(folder, device, LlavaOptions.model_validate(given))


def _processor(side: int, patch: int, grid: list[list[int]]) -> Any:
    """A tokenizer of bytes: what random weights say has no meaning in any other either."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, PreTrainedTokenizerFast

    names = ["<pad>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=grid
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", additional_special_tokens=["<image>"]
        ),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}",
    )
