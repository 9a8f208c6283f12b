"""The upscaler on diffusers' own classes, small: tiles, seeds, captions, the safety check, memory."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.gpu.runtimes import Cancelled, InputRefused, OutOfMemory, ProducedFile, Product
from service.gpu.runtimes.flux_pipeline import steps_run
from service.gpu.runtimes.flux_upscaler import FluxUpscaler
from tests.models.witness import FLUX, Witness, asked, loaded, raising, run

SMALL_TILES = {"tile": "64", "overlap": "16"}


@pytest.fixture(scope="module")
def runtime(flux_folder: Path) -> FluxUpscaler:
    runtime = loaded(FLUX, flux_folder, **SMALL_TILES)
    assert isinstance(runtime, FluxUpscaler)
    return runtime


def enlarged(product: Product) -> Image.Image:
    file = product.output["image"]
    assert isinstance(file, ProducedFile)
    opened = Image.open(io.BytesIO(file.content))
    assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (file.width, file.height))
    return opened


def unchecked(**fields: object) -> object:
    return asked(FLUX, **{"seed": 5, "steps": 4, "enable_safety_checker": False, **fields})


def test_the_payload_is_the_seeds(runtime: FluxUpscaler, picture: Image.Image) -> None:
    product = run(runtime, unchecked(upscale_factor=1.5), picture)
    assert set(product.output) == {"image", "seed", "timings", "caption"}
    assert enlarged(product).size == (112, 60)
    assert product.output["seed"] == 5
    assert product.output["caption"]
    parts = product.notes["timings"]
    assert product.output["timings"] == {"inference": parts["inference"]}
    assert parts.pop("total_time") >= sum(parts.values())


def test_steps_are_told_for_all_tiles(runtime: FluxUpscaler, picture: Image.Image) -> None:
    """150 x 80 pixels are 3 x 2 tiles; of 20 steps at 0.3 six are run."""
    witness = Witness()
    run(runtime, unchecked(steps=20), picture, witness=witness)
    told = [step for step in witness.steps if step[1] is not None]
    assert steps_run(20, 0.3) == 6
    assert told[-1] == (36, 36)
    assert {of for _, of in told} == {36}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_same_seed_gives_the_same_pixels_and_another_others(runtime: FluxUpscaler, picture: Image.Image) -> None:
    one, same, other = (np.asarray(enlarged(run(runtime, unchecked(seed=seed), picture))) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_a_seed_that_was_left_out_is_drawn_and_repeats_the_result(runtime: FluxUpscaler, picture: Image.Image) -> None:
    drawn = run(runtime, unchecked(seed=None), picture)
    again = run(runtime, unchecked(seed=drawn.output["seed"]), picture)
    assert (np.asarray(enlarged(drawn)) == np.asarray(enlarged(again))).all()


def test_any_integer_is_a_seed(runtime: FluxUpscaler, picture: Image.Image) -> None:
    assert run(runtime, unchecked(seed=-(2**80), steps=4, upscale_factor=1), picture).output["seed"] == -(2**80)


def test_tiles_in_batches_give_what_tiles_alone_give(flux_folder: Path, picture: Image.Image) -> None:
    results = [
        np.asarray(enlarged(run(loaded(FLUX, flux_folder, batch=batch, **SMALL_TILES), unchecked(), picture)))
        for batch in ("1", "4")
    ]
    # Sums in another order differ in the last bit, and one of 255 steps in rare places.
    assert np.abs(results[0].astype(int) - results[1].astype(int)).max() <= 1


def test_creativity_guidance_and_the_controlnet_change_the_result(
    runtime: FluxUpscaler, flux_folder: Path, picture: Image.Image, tmp_path: Path
) -> None:
    for name in ("flux", "captioner", "safety"):
        (tmp_path / name).symlink_to(flux_folder / name)
    plain = loaded(FLUX, tmp_path, **SMALL_TILES)
    pictures = [
        enlarged(run(each, unchecked(**fields), picture)).tobytes()
        for each, fields in [
            (runtime, {}),
            (runtime, {"creativity": 0.9}),
            (runtime, {"guidance": 20.0}),
            (runtime, {"guidance": 0.0}),
            (plain, {}),
        ]
    ]
    assert len(set(pictures)) == 5


def test_without_creativity_it_is_the_enlargement_alone(runtime: FluxUpscaler, picture: Image.Image) -> None:
    product = run(runtime, unchecked(creativity=0.0), picture)
    plain = picture.resize((150, 80), Image.Resampling.LANCZOS)
    assert enlarged(product).tobytes() == plain.tobytes()
    assert product.output["caption"]
    assert product.output["timings"]["inference"] >= 0


def test_the_caption_is_encoded_once(
    runtime: FluxUpscaler, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = runtime._pipeline._pipeline.text_encoder_2
    passes = []
    handle = encoder.register_forward_hook(lambda *_: passes.append(1))
    run(runtime, unchecked(), picture)
    handle.remove()
    assert passes == [1]


def test_what_is_unsafe_is_black_if_it_is_to_be_checked(runtime: FluxUpscaler, picture: Image.Image) -> None:
    """The tiny classifier thinks ill of all that is dark."""
    bright = Image.new("RGB", (40, 40), "white")
    kept = {"creativity": 0.0, "enable_safety_checker": True}
    dark_product, bright_product = (run(runtime, unchecked(**kept), each) for each in (picture, bright))
    assert dark_product.notes["safety"]["unsafe"] is True
    assert not np.asarray(enlarged(dark_product)).any()
    assert bright_product.notes["safety"]["unsafe"] is False
    assert np.asarray(enlarged(bright_product)).any()
    assert "safety" not in run(runtime, unchecked(creativity=0.0), picture).notes


def test_an_operator_can_do_without_a_classifier_and_the_job_says_so(flux_folder: Path, picture: Image.Image) -> None:
    runtime = loaded(FLUX, flux_folder, unchecked="yes", **SMALL_TILES)
    product = run(runtime, unchecked(creativity=0.0, enable_safety_checker=True), picture)
    assert product.notes["safety"] == {"checked": False}


def test_a_result_that_is_too_large_is_refused(flux_folder: Path, picture: Image.Image) -> None:
    runtime = loaded(FLUX, flux_folder, max_pixels="10000", **SMALL_TILES)
    assert run(runtime, unchecked(creativity=0.0, upscale_factor=1), picture)
    with pytest.raises(InputRefused, match="150 x 80"):
        run(runtime, unchecked(), picture)


@pytest.mark.parametrize("cancel_at", [3, -4])
def test_it_can_be_ended_while_it_captions_and_while_it_denoises(
    runtime: FluxUpscaler, picture: Image.Image, cancel_at: int
) -> None:
    whole = Witness()
    expected = enlarged(run(runtime, unchecked(), picture, witness=whole)).tobytes()
    witness = Witness(cancel_at=cancel_at % len(whole.steps))
    with pytest.raises(Cancelled):
        run(runtime, unchecked(), picture, witness=witness)
    assert (witness.steps[-1][1] is None) == (cancel_at == 3)
    assert enlarged(run(runtime, unchecked(), picture)).tobytes() == expected


def test_memory_is_sought_by_fewer_tiles_at_once_with_the_same_result(
    runtime: FluxUpscaler, picture: Image.Image
) -> None:
    expected = np.asarray(enlarged(run(runtime, unchecked(), picture))).astype(int)

    def hook(_module: object, _arguments: object, named: dict[str, torch.Tensor]) -> None:
        if named["hidden_states"].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB.")

    witness = Witness()
    handle = runtime._pipeline._pipeline.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        result = np.asarray(enlarged(run(runtime, unchecked(), picture, witness=witness))).astype(int)
    finally:
        handle.remove()
    assert np.abs(result - expected).max() <= 1
    assert [line.partition(":")[0] for line in witness.lines] == [
        "out of memory with 4 tiles of 64 x 64 together",
        "out of memory with 2 tiles of 64 x 64 together",
    ]


def test_then_by_smaller_tiles(flux_folder: Path) -> None:
    runtime = loaded(FLUX, flux_folder, tile="512", batch="1")
    assert isinstance(runtime, FluxUpscaler)
    hook, _ = raising(lambda: torch.OutOfMemoryError("CUDA out of memory."), 1)
    handle = runtime._pipeline._pipeline.vae.encoder.register_forward_pre_hook(hook)
    witness = Witness()
    try:
        product = run(runtime, unchecked(upscale_factor=1), Image.new("RGB", (300, 60), "red"), witness=witness)
    finally:
        handle.remove()
    assert enlarged(product).size == (300, 60)
    assert witness.lines == ["out of memory with 1 tiles of 300 x 60 together: CUDA out of memory."]
    # One tile at first, then two of 256 pixels; one of four steps at 0.3 is run.
    assert [of for _, of in witness.steps if of is not None][-1] == 2 * steps_run(4, 0.3)


def test_and_when_nothing_smaller_fits_it_fails(runtime: FluxUpscaler, picture: Image.Image) -> None:
    hook, passes = raising(lambda: torch.OutOfMemoryError("CUDA out of memory."), 99)
    handle = runtime._pipeline._pipeline.transformer.register_forward_pre_hook(hook)
    try:
        with pytest.raises(OutOfMemory):
            run(runtime, unchecked(), picture)
    finally:
        handle.remove()
    assert passes == [3]
    assert enlarged(run(runtime, unchecked(), picture))
