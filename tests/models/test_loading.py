"""What is not loaded: wrong or missing weights, code that was not read, code for another version of a library."""

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
from safetensors.torch import load_file, save_file

from service.gpu.runtimes import CannotLoad, find
from service.gpu.runtimes.snapshots import SEAL, seal
from tests.models.tiny_remote import REVISION, save_remote, without_a_weight
from tests.models.witness import FLUX, LLAVA, MINICPM, NEMOTRON, SA2VA, loaded

REMOTE = {"minicpm": MINICPM, "sa2va": SA2VA, "nemotron": NEMOTRON}


def refusal(model: str, folder: Path, **options: str) -> str:
    with pytest.raises(CannotLoad) as refused:
        loaded(model, folder, **options)
    return str(refused.value)


@pytest.fixture
def own_llava(llava_folder: Path, tmp_path: Path) -> Path:
    return Path(copytree(llava_folder, tmp_path / "llava"))


def test_a_missing_weight_would_be_random_and_is_refused(own_llava: Path) -> None:
    without_a_weight(own_llava, "image_newline")
    words = refusal(LLAVA, own_llava)
    assert "missing keys: " in words
    assert "image_newline" in words


def test_a_weight_that_nobody_expects_is_refused(own_llava: Path) -> None:
    path = own_llava / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"another.weight": weights["image_newline"].clone()}, path, metadata={"format": "pt"})
    assert "unexpected keys: another.weight" in refusal(LLAVA, own_llava)


def test_a_weight_of_another_shape_is_refused(own_llava: Path) -> None:
    config = json.loads((own_llava / "config.json").read_text())
    config["vision_config"]["intermediate_size"] *= 2
    (own_llava / "config.json").write_text(json.dumps(config))
    assert "mlp.fc1" in refusal(LLAVA, own_llava)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refusal(LLAVA, tmp_path / "none")


def test_a_folder_without_weights_asks_no_hub(own_llava: Path) -> None:
    (own_llava / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(LLAVA, own_llava)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_every_part_of_the_pipeline_has_to_be_whole(flux_folder: Path, tmp_path: Path, part: str) -> None:
    folder = Path(copytree(flux_folder, tmp_path / "upscaler"))
    [path] = (folder / "flux" / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    assert name in refusal(FLUX, folder)


def test_the_classifier_has_to_know_what_is_unsafe(flux_folder: Path, tmp_path: Path) -> None:
    folder = Path(copytree(flux_folder, tmp_path / "upscaler"))
    config = json.loads((folder / "safety" / "config.json").read_text())
    config |= {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}
    (folder / "safety" / "config.json").write_text(json.dumps(config))
    assert "cat, dog" in refusal(FLUX, folder)


@pytest.mark.parametrize("part", ["safety", "captioner"])
def test_parts_that_are_not_there_have_to_be_done_without_aloud(flux_folder: Path, tmp_path: Path, part: str) -> None:
    for name in {"flux", "safety", "captioner"} - {part}:
        (tmp_path / name).symlink_to(flux_folder / name)
    assert str(tmp_path / part) in refusal(FLUX, tmp_path)


@pytest.mark.parametrize("family", REMOTE)
def test_remote_code_runs_only_when_that_was_said(family: str, tmp_path: Path) -> None:
    folder = save_remote(family, tmp_path / f"untrusted_{family}")
    assert "trust_remote_code" in refusal(REMOTE[family], folder, trust_remote_code="no")


@pytest.mark.parametrize("family", REMOTE)
def test_remote_code_runs_only_as_it_was_sealed(family: str, tmp_path: Path) -> None:
    folder = save_remote(family, tmp_path / f"changed_{family}", sealed=False)
    assert SEAL in refusal(REMOTE[family], folder)
    seal(folder, "tiny/model", REVISION)
    loaded(REMOTE[family], folder, revision=REVISION)
    marker = tmp_path / "was-run"
    modeling = folder / "modeling_tiny.py"
    modeling.write_text(f"open({str(marker)!r}, 'w')\n" + modeling.read_text())
    assert "modeling_tiny.py" in refusal(REMOTE[family], folder)
    assert not marker.exists()


def test_another_revision_than_the_pinned_one_is_refused(minicpm_folder: Path, llava_folder: Path) -> None:
    other = "f" * 40
    assert REVISION in refusal(MINICPM, minicpm_folder, revision=other)
    assert "nobody knows" in refusal(LLAVA, llava_folder, revision=other)


@pytest.mark.parametrize("family", REMOTE)
def test_remote_code_with_a_missing_weight_is_refused(family: str, tmp_path: Path) -> None:
    names = {"minicpm": "llm.lm_head.weight", "sa2va": "vision.bias", "nemotron": "diffusion_head.weight"}
    folder = without_a_weight(save_remote(family, tmp_path / f"incomplete_{family}"), names[family])
    assert names[family] in refusal(REMOTE[family], folder)


def test_code_for_transformers_4_says_which_version_is_here(tmp_path: Path) -> None:
    """Its constructor does not call post_init, like that of MiniCPM-V 2.6 and of Sa2VA."""
    words = refusal(MINICPM, save_remote("minicpm", tmp_path / "for_four", post_init=False))
    assert "does not fit transformers 5." in words
    assert "docs/gpu-models.md" in words


def test_nemotrons_code_finds_the_names_that_transformers_took_away(nemotron_folder: Path) -> None:
    """In a fresh process, where nothing else has put them back."""
    program = (
        "from transformers import masking_utils as m; assert not hasattr(m, 'sdpa_mask_older_torch');"
        "from service.gpu.runtimes.shims import fit_transformers as fit; fit(); made = m.create_causal_mask; fit();"
        "assert m.sdpa_mask_older_torch is m.sdpa_mask; assert m.create_causal_mask is made;"
        "import torch; from transformers import LlamaConfig;"
        "config = LlamaConfig(hidden_size=8, num_attention_heads=2, attn_implementation='eager');"
        "mask = m.create_causal_mask(config=config, input_embeds=torch.zeros(1, 3, 8), attention_mask=None,"
        " cache_position=torch.arange(3), past_key_values=None);"
        "print((mask[0, 0] == 0).int().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[1, 0, 0], [1, 1, 0], [1, 1, 1]]"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"colour": "red"}, "colour"), ({"batch": "0"}, "batch"), ({"revision": "main"}, "revision")],
)
def test_an_option_that_means_nothing_is_named(tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(CannotLoad, match=words):
        find(LLAVA, folder=tmp_path, device="cpu", options=options)


def test_a_model_without_a_runtime_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match="acme/any"):
        find("acme/any", folder=tmp_path, device="cpu", options={})
