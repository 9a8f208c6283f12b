from transformers import PretrainedConfig


class TinyNemotronConfig(PretrainedConfig):
    model_type = "tiny_nemotron_diffusion"

    def __init__(self, vocab_size=320, hidden_size=32, mask_token_id=100, image_token_id=4, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.mask_token_id = mask_token_id
        self.image_token_id = image_token_id
        super().__init__(**kwargs)
