"""A FLUX pipeline, its ControlNet and a picture classifier: the real classes, small."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxImg2ImgPipeline,
    FluxTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from tests.models.tiny_tokenizer import LINES

SHAPE = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
    "guidance_embeds": True,
}


def save_flux(folder: Path) -> None:
    torch.manual_seed(3)
    FluxImg2ImgPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=2,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5035,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=600,
                hidden_size=32,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=2,
                projection_dim=32,
                bos_token_id=0,
                eos_token_id=1,
            )
        ),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=600, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)),
        tokenizer_2=_t5_tokenizer(),
        transformer=FluxTransformer2DModel(**SHAPE),
    ).save_pretrained(folder)


def save_controlnet(folder: Path) -> None:
    torch.manual_seed(4)
    controlnet = FluxControlNetModel(**SHAPE)
    # It is made with zeros at its ends, and would then change nothing.
    for parameter in controlnet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    controlnet.save_pretrained(folder)


def save_safety(folder: Path) -> None:
    """It calls unsafe what is dark, so that both verdicts occur."""
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1},
    )
    torch.manual_seed(5)
    model = ViTForImageClassification(config)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    _separate(model, [torch.full((1, 3, 32, 32), value) for value in (-1.0, 1.0)])
    model.save_pretrained(folder)


def _separate(model: ViTForImageClassification, dark_and_bright: list[torch.Tensor]) -> None:
    """Set the last layer so that the first picture is unsafe and the second is not."""
    with torch.no_grad():
        dark, bright = (model.vit(pixels).last_hidden_state[0, 0] for pixels in dark_and_bright)
        direction = (dark - bright) / (dark - bright).norm().square() * 8
        middle = (dark + bright) / 2
        model.classifier.weight.copy_(torch.stack([-direction, direction]))
        model.classifier.bias.copy_(torch.stack([direction @ middle, -(direction @ middle)]))


def _clip_tokenizer() -> CLIPTokenizer:
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={name: index for index, name in enumerate(names)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> T5TokenizerFast:
    letters = sorted(set("".join(LINES)) - {" "})
    names = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T5TokenizerFast(
        vocab=[(name, -float(index)) for index, name in enumerate(names)], extra_ids=0, model_max_length=64
    )
