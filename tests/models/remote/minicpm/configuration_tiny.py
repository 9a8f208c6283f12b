from transformers import PretrainedConfig


class TinyMiniCPMConfig(PretrainedConfig):
    model_type = "tiny_minicpmv"

    def __init__(self, vocab_size=320, hidden_size=24, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        super().__init__(**kwargs)
