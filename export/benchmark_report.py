"""A benchmark's result for people: a table in the terminal, a dated page of Markdown, and a chart."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from export.benchmark import Benchmark, Row

CHART_PX = (1400, 800)
DPI = 100


def show(result: Benchmark, console: Console) -> None:
    table = Table(*_headings(result), title=_title(result))
    for row in result.rows:
        table.add_row(*_cells(result, row))
    rates = Table("utterances at once", "per second", title="whole utterances")
    for one in result.throughput:
        rates.add_row(str(one.batch), f"{one.per_second:.1f}")
    console.print(Group(table, rates, *_notes(result)))


def write(result: Benchmark, folder: Path) -> Path:
    """Write <date>-<bundle>.md, .json and .png into a folder, which is made where it is missing; returns the page.

    Raises OSError where it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result.measured_at:%Y-%m-%d}-{result.bundle}"
    (folder / f"{name}.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    draw(result, folder / f"{name}.png")
    page = folder / f"{name}.md"
    page.write_text("\n".join([*_page(result, f"{name}.png"), ""]), encoding="utf-8")
    return page


def draw(result: Benchmark, path: Path) -> None:
    """One PNG of CHART_PX: median milliseconds of every row and contender, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(CHART_PX[0] / DPI, CHART_PX[1] / DPI), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    contenders = result.contenders
    height = 0.8 / len(contenders)
    for place, name in enumerate(contenders):
        rows = [(at, row) for at, row in enumerate(result.rows) if name in row.by]
        bars = axes.barh(
            [-at - (place - (len(contenders) - 1) / 2) * height for at, _ in rows],
            [row.by[name].median_ms for _, row in rows],
            height,
            label=name,
        )
        axes.bar_label(bars, [_ms(row.by[name].median_ms) for _, row in rows], padding=3, fontsize=8)
    axes.set_yticks([-at for at in range(len(result.rows))], [f"{row.part}, {row.size}" for row in result.rows])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, median (shorter is better)")
    axes.margins(x=0.1)
    axes.legend()
    axes.set_title(_title(result))
    figure.savefig(path)


def _title(result: Benchmark) -> str:
    host = result.host
    return f"{result.bundle} on {host.machine}, {host.threads} thread(s), {result.measured_at:%Y-%m-%d}"


def _headings(result: Benchmark) -> list[str]:
    bundle, *others = result.contenders
    headings = ["part", "size", f"{bundle} ms", "95 % ms", "first ms"]
    for other in others:
        headings += [f"{other} ms", "times faster"]
    return [*headings, "share of peak"] if result.host.peak_gflops else headings


def _cells(result: Benchmark, row: Row) -> list[str]:
    bundle, *others = result.contenders
    cells = [row.part, row.size]
    own = row.by.get(bundle)
    cells += [_ms(own.median_ms), _ms(own.p95_ms), _ms(own.first_ms)] if own else ["", "", ""]
    for other in others:
        its = row.by.get(other)
        ratio = f"{its.median_ms / own.median_ms:.1f}" if its and own else ""
        cells += [_ms(its.median_ms) if its else "", ratio]
    if result.host.peak_gflops:
        share = row.gflop / own.median_ms * 1000 / result.host.peak_gflops if row.gflop and own else None
        cells.append(f"{share:.0%}" if share is not None else "")
    return cells


def _notes(result: Benchmark) -> Iterator[str]:
    memory = ", ".join(f"{megabytes:.0f} MB {when}" for when, megabytes in result.resident_mb.items())
    yield f"Loaded and verified in {result.load_s:.2f} s; resident memory {memory}."
    packages = ", ".join(f"{name} {found}" for name, found in result.host.packages.items())
    yield (
        f"{result.repeats} repeats in turns, medians; load average {result.host.load_average:.1f} on "
        f"{result.host.cores} cores; Python {result.host.python}, {packages}."
    )
    if result.host.gpu is not None:
        yield f"GPU: {result.host.gpu}."
    if result.pytorch is not None:
        yield f"PyTorch computes on {result.pytorch}."
    if result.host.peak_gflops:
        yield (
            f"Peak: a large float32 matrix product reaches {result.host.peak_gflops:.0f} GFLOP/s here on as many "
            "threads; the share is of the arithmetic of matrix products and convolutions alone."
        )
    if result.host.memory_gb_per_s:
        once = ", ".join(
            f"{part} {megabytes / result.host.memory_gb_per_s:.1f} ms" for part, megabytes in result.weights_mb.items()
        )
        yield (
            f"Memory: a large array is read at {result.host.memory_gb_per_s:.1f} GB/s, so that reading each part's "
            f"weights once, as they lie on disk, takes at least: {once}."
        )


def _page(result: Benchmark, chart: str) -> Iterator[str]:
    yield f"# {_title(result)}"
    yield ""
    yield f"Bundle sha256 `{result.bundle_sha256}`, measured at {result.measured_at:%Y-%m-%d %H:%M} UTC."
    yield ""
    yield "| " + " | ".join(_headings(result)) + " |"
    yield "|---|---|" + "---:|" * (len(_headings(result)) - 2)
    for row in result.rows:
        yield "| " + " | ".join(_cells(result, row)) + " |"
    yield ""
    yield "| whole utterances at once | per second |"
    yield "|---:|---:|"
    for one in result.throughput:
        yield f"| {one.batch} | {one.per_second:.1f} |"
    yield ""
    for note in _notes(result):
        yield note
        yield ""
    yield f"![median milliseconds]({chart})"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
