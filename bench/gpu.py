"""What our runtime of LLaVA-NeXT costs beside the bare `generate`, and what it gains by micro-batching.

`python -m bench.gpu` on a machine with a GPU of 80 GB or more, in an environment with the extra `gpu`: the real size,
34.75 billion random weights in bfloat16, nothing is downloaded. `python -m bench.gpu --size small --device cpu` is for
any machine. With `--worker` the same inputs go through `roundtrip up` and `roundtrip gpu-worker`, too.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from PIL import Image

from bench.gpu_model import MODEL, PROMPT, SIZES, find
from bench.gpu_worker import print_worker

if TYPE_CHECKING:
    from service.gpu.runtimes.llava import Llava

GOAL = 0.02


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="real", help="of the model")
    parser.add_argument("--device", default="cuda:0", help="by torch's name")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="inputs together")
    parser.add_argument("--worker", action="store_true", help="measure it through a GPU worker, too")
    parser.add_argument("--jobs", type=int, default=10, help="through the worker")
    return parser.parse_args()


class Watching:
    """As a worker's: it keeps the last word, for a heartbeat to tell."""

    last: tuple[int, int | None] = (0, None)

    def step(self, done: int, of: int | None) -> None:
        self.last = (done, of)

    def log(self, line: str) -> None:
        print(line, file=sys.stderr)


@dataclass
class Way:
    name: str
    run: Callable[[], float]  # seconds of generating alone
    whole: list[float] = field(default_factory=list)
    generating: list[float] = field(default_factory=list)
    peak: int = 0


def bare(runtime: "Llava", picture: Image.Image, tokens: int, device: str) -> Callable[[], float]:
    """What somebody would write who had no use for us: processor, generate, decode."""
    import torch

    from service.gpu.runtimes.devices import synchronise

    model, processor = runtime._model, runtime._processor
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]

    def run() -> float:
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        prepared = processor(images=[picture], text=[text], return_tensors="pt").to(device)
        prepared["pixel_values"] = prepared["pixel_values"].to(model.dtype)
        synchronise(device)
        start = perf_counter()
        with torch.inference_mode():
            ids = model.generate(**prepared, max_new_tokens=tokens, do_sample=False)
        synchronise(device)
        seconds = perf_counter() - start
        made = ids[0, prepared["input_ids"].shape[1] :]
        processor.tokenizer.decode(made, skip_special_tokens=True)
        assert len(made) == tokens
        return seconds

    return run


def ours(runtime: "Llava", picture: Image.Image, tokens: int, together: int) -> Callable[[], float]:
    from service.catalog.llava import LlavaInput
    from service.gpu.runtimes import Call, Product

    input = LlavaInput(image_url="https://example.com/x.png", prompt=PROMPT, max_tokens=tokens, temperature=0)

    def run() -> float:
        results = runtime.run_many([Call(input, [picture], Watching()) for _ in range(together)])
        for result in results:
            if not isinstance(result, Product):
                raise result
            assert result.notes["usage"]["completion_tokens"] == tokens
            assert result.notes["batch"] == together
        assert isinstance(results[0], Product)
        seconds: float = results[0].notes["timings"]["generation_time"]
        return seconds

    return run


def take_turns(ways: list[Way], rounds: int, device: str) -> None:
    """One after the other, so that whatever the machine does meanwhile falls on all of them."""
    for turn in range(rounds + 1):
        for way in ways if turn % 2 else reversed(ways):
            reset_peak(device)
            start = perf_counter()
            generating = way.run()
            whole = perf_counter() - start
            # The first turn pays for kernels and caches.
            if turn:
                way.whole.append(whole)
                way.generating.append(generating)
                way.peak = max(way.peak, peak(device))


def reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peak(device: str) -> int:
    """Bytes that torch had taken on the device, at most; 0 on a CPU, where nobody counts."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def print_ways(ways: list[Way], tokens: int) -> float:
    """The table; the share by which the second way is slower than the first."""
    row("way", "whole s, median", "tokens/s, whole", "tokens/s, generating", "peak GiB")
    row(*["---"] * 5)
    for way in ways:
        whole, generating = statistics.median(way.whole), statistics.median(way.generating)
        gib = f"{way.peak / 2**30:.2f}" if way.peak else "not counted"
        row(way.name, f"{whole:.3f}", f"{tokens / whole:.1f}", f"{tokens / generating:.1f}", gib)
    # Pairs of neighbours in time, so that a slow minute is in both.
    return statistics.median(b / a for a, b in zip(ways[0].whole, ways[1].whole, strict=True)) - 1


def print_batches(runtime: "Llava", picture: Image.Image, options: argparse.Namespace) -> None:
    ways = [
        Way(str(together), ours(runtime, picture, options.tokens, together)) for together in sorted(options.batches)
    ]
    take_turns(ways, options.rounds, options.device)
    row("inputs together", "whole s, median", "tokens/s, all", "times one", "peak GiB")
    row(*["---"] * 5)
    first = statistics.median(ways[0].whole) / int(ways[0].name)
    for way in ways:
        whole, together = statistics.median(way.whole), int(way.name)
        gib = f"{way.peak / 2**30:.2f}" if way.peak else "not counted"
        rate = options.tokens * together / whole
        row(way.name, f"{whole:.3f}", f"{rate:.1f}", f"{first * together / whole:.2f}", gib)


def machine(device: str) -> str:
    import torch
    import transformers

    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"{name}; torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> None:
    options = read_options()
    import torch

    if options.device == "cpu":
        # Threads that wait for each other measure whoever else is on the machine.
        torch.set_num_threads(1)
    # More memory for the prompt of a wide picture than for any answer: 2,340 tokens at the real size.
    picture = Image.effect_mandelbrot((640, 480), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    started = perf_counter()
    runtime = find(MODEL, folder=_nowhere(), device=options.device, options={"size": options.size, "batch": "64"})
    runtime.load()
    weights: Any = runtime._model
    count = sum(parameter.numel() for parameter in weights.parameters())
    print(f"{count / 1e9:.2f} billion weights, {weights.dtype}, made in {perf_counter() - started:.0f} s")
    print(f"{machine(options.device)}\n")
    ways = [
        Way("bare generate", bare(runtime, picture, options.tokens, options.device)),
        Way("the runtime", ours(runtime, picture, options.tokens, 1)),
    ]
    take_turns(ways, options.rounds, options.device)
    overhead = print_ways(ways, options.tokens)
    print(f"\noverhead of the runtime: {overhead:+.2%} of the whole (goal: under {GOAL:.0%})\n")
    print_batches(runtime, picture, options)
    if options.worker:
        alone = statistics.median(ways[0].whole)
        del runtime, ways, weights
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
        print()
        print_worker(options, picture, alone)


def _nowhere() -> Any:
    from pathlib import Path

    return Path()


if __name__ == "__main__":
    main()
