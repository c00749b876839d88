"""telme-bench: how fast a bundle recognises on this machine, alone or against PyTorch."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler

from export import benchmark, benchmark_report
from export.benchmark import Benchmark, Case, Row, Work
from export.errors import ExportError
from export.material import Material, dialogue
from telme.bundle import COMPACT, BundleError
from telme.runtime.recognizer import BACKENDS, Recognizer

if TYPE_CHECKING:
    from export.torch_model import Place

CLIP = Path("demo/conversation.mp4")
PICTURES = 8

log = logging.getLogger(__name__)

EAGER, COMPILE, AUTHORS_STYLE = "eager", "compile", "authors-style"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    options = _parser().parse_args(arguments)
    handler = RichHandler(console=Console(stderr=True), show_path=False)  # stdout is for the result
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    try:
        _demand_sense(options)
        result = _measure(options)
        if options.json:
            sys.stdout.write(result.model_dump_json(indent=2) + "\n")
        else:
            benchmark_report.show(result, Console())
        if options.report is not None:
            sys.stderr.write(f"report written to {benchmark_report.write(result, options.report)}\n")
    except (ExportError, BundleError) as error:
        sys.stderr.write(f"telme-bench: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"telme-bench: cannot write the report ({error}); give another --report.\n")
        return 2
    except ModuleNotFoundError as missing:
        sys.stderr.write(f'telme-bench needs {missing.name}: run `pip install "telme-live[export,train]"`.\n')
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-bench: interrupted; nothing was written.\n")
        return 130
    return 0


def _demand_sense(options: argparse.Namespace) -> None:
    """Raises ExportError for what cannot be measured, before anything is loaded."""
    for flag in ("repeats", "threads"):
        if getattr(options, flag) < 1:
            raise ExportError(f"--{flag} cannot be {getattr(options, flag)}; give at least 1, or leave it out.")
    if options.against and options.run is None:
        raise ExportError(
            f"--against {' '.join(options.against)} needs --run: the run folder that the bundle came from."
        )
    if not options.media.is_file():
        raise ExportError(f"There is no clip {options.media}; give one with speech and a face with --media.")


def _measure(options: argparse.Namespace) -> Benchmark:
    resident = {"before": benchmark.resident_mb()}
    started = perf_counter()
    recognizer = Recognizer.load(options.bundle, backend=options.backend, threads=options.threads)
    load_s = perf_counter() - started
    recognizer.warm_up()
    resident["loaded and warm"] = benchmark.resident_mb()
    material = Material.read(options.media, PICTURES)
    if not benchmark.typical(recognizer, material)[2]:
        log.warning("%s shows no face: the visual part is not timed; give another clip with --media", options.media)
    rates = benchmark.throughput(recognizer, material, options.repeats)
    resident["after the largest batch"] = benchmark.resident_mb()
    name = recognizer.bundle.manifest.name
    peak = memory = place = None
    if options.against:
        from export.eager import memory_gb_per_s, on_threads, peak_gflops, place_of

        place = place_of(recognizer.bundle)
        with on_threads(options.threads):
            rows = _against(options, recognizer, material, place)
            if place.device == "cpu":
                peak, memory = peak_gflops(), memory_gb_per_s()
    else:
        rows = benchmark.measure(benchmark.cases({name: recognizer}, material), options.repeats)
    return Benchmark(
        bundle=name,
        bundle_sha256=recognizer.bundle.sha256,
        measured_at=benchmark.now(),
        repeats=options.repeats,
        host=benchmark.host(options.threads, peak, memory),
        pytorch=None if place is None else str(place),
        load_s=load_s,
        weights_mb={part: each.bytes / 1e6 for part, each in recognizer.bundle.manifest.parts.named()},
        resident_mb=resident,
        rows=tuple(rows),
        throughput=tuple(rates),
    )


def _against(options: argparse.Namespace, recognizer: Recognizer, material: Material, place: "Place") -> list[Row]:
    from export.eager import AuthorsStyle, floating_point_operations, pytorch
    from export.trained import Trained

    trained = Trained.read(options.run)
    name = recognizer.bundle.manifest.name
    contenders = {name: recognizer, EAGER: pytorch(trained, recognizer.bundle, options.threads, place)}
    if COMPILE in options.against:
        compiled = replace(place, compiled=True)
        contenders[COMPILE] = pytorch(trained, recognizer.bundle, options.threads, compiled)
    cases = benchmark.cases(contenders, material)
    operations = [floating_point_operations(case.work[EAGER]) / 1e9 if EAGER in case.work else 0.0 for case in cases]
    if AUTHORS_STYLE in options.against:
        authors = AuthorsStyle(trained, pytorch(trained, recognizer.bundle, options.threads))
        turns = dialogue(benchmark.TYPICAL_TOKENS, benchmark.prompter(recognizer))
        longest = trained.specifications.text.max_tokens
        for beside, tokens in (("", 0), (f", beside a prompt of {longest} tokens", longest)):
            work: dict[str, Work] = {
                name: lambda: benchmark.from_clip(recognizer, material, turns),
                AUTHORS_STYLE: partial(authors.recognise, material, turns, tokens),
            }
            cases.append(Case("clip", material.clip.name + beside, work))
            operations.append(0.0)
    rows = benchmark.measure(cases, options.repeats)
    return [row.model_copy(update={"gflop": gflop or None}) for row, gflop in zip(rows, operations, strict=True)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="telme-bench", description=__doc__)
    parser.add_argument(
        "bundle", nargs="?", default=COMPACT, help="folder, or hf://org/name on a hub (default: the one that ships)"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="what runs the parts (default: as the bundle says)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each part (default: 1)")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--media", type=Path, default=CLIP, metavar="FILE", help="clip with speech and a face (default: %(default)s)"
    )
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        choices=[EAGER, COMPILE, AUTHORS_STYLE],
        help="time PyTorch on the same checkpoint in the same run: on the CPU in float32, beside engines on the GPU in "
        "float16. compile: torch.compile, too; authors-style: also do with the whole clip what the released inference "
        "code does, on the CPU",
    )
    parser.add_argument("--run", type=Path, metavar="RUN_FOLDER", help="the checkpoint, for --against")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a dated page, its figures and a chart here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
