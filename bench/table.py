"""
Turns what was measured into tables, and puts them into docs/benchmarks.md.

Pure but for `write`. A table is Markdown with aligned columns, so that it can be read on a terminal too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bars import BARS, NGINX_MICROSECONDS, Bar
from cases import GROUPS, PACED, Case, Cases, Measured, Series
from load import Shape
from losses import DELAY_MICROSECONDS, LOSS_PERCENT, REQUESTS, Carrier
from programs import BenchError

BEGIN = "<!-- what `bench/run.py --write` measured -->"
END = "<!-- end -->"
NO_RESULT = "no result"

Table = list[tuple[str, ...]]


def everything(
    cases: Cases, paced: Cases, carried: Mapping[Carrier, Measured], idle: Mapping[str, Series], chosen: Sequence[str]
) -> str:
    """All tables of the chosen groups, one below the other."""
    parts = [bars(cases, idle)]
    parts += [costs(cases, group) for name, tables in GROUPS.items() if name in chosen for group in tables]
    if carried:
        parts.append(losses(carried))
    if paced:
        parts.append(latencies(paced))
    groups: tuple[Mapping[Case, Measured] | Mapping[Carrier, Measured], ...] = (cases, paced, carried)
    problems = [f"- {case.name}: {error}" for group in groups for case, m in group.items() for error in m.errors]
    if problems:
        parts.append("\n".join(["Errors:", "", *problems]))
    return "\n\n".join(parts)


def bars(cases: Cases, idle: Mapping[str, Series]) -> str:
    """The promises: bar, factor, result, verdict."""
    rows: Table = [("what", "unit", "bar", "goal", "factor", "bar here", "result", "spread", "verdict")]
    rows += [row for row in (_bar(bar, cases, idle) for bar in BARS) if row]
    return aligned(rows)


def costs(cases: Cases, group: Sequence[Case]) -> str:
    """CPU and throughput of the cases of a group, which are asked for the same."""
    one, many = unit(group[0].shape)
    rows: Table = [(group[0].shape.words, f"CPU µs/{one}", "spread", f"{many}/s", "spread")]
    for case in group:
        measured = cases.get(case, Measured())
        if measured.errors or not measured.cost.values:
            rows.append((case.name, NO_RESULT, "", "", ""))
        else:
            cost, rate = measured.cost, measured.rate
            rows.append((case.name, number(cost.median), spread(cost), number(rate.median), spread(rate)))
    return aligned(rows)


def losses(carried: Mapping[Carrier, Measured]) -> str:
    """What comes through a tunnel over a bad link."""
    words = f"{DELAY_MICROSECONDS * 2 / 1000:g} ms, {LOSS_PERCENT} % lost each way; {REQUESTS.words}"
    rows: Table = [(words, "requests/s", "spread", "one answer, MiB/s", "spread")]
    for carrier, seen in carried.items():
        if seen.errors or not seen.rate.values:
            rows.append((carrier.name, NO_RESULT, *[""] * 3))
        else:
            rate, bulk = seen.rate, seen.bulk
            rows.append((carrier.name, number(rate.median), spread(rate), number(bulk.median), spread(bulk)))
    return aligned(rows)


def unit(shape: Shape) -> tuple[str, str]:
    """What the cost of a shape is of, and its plural."""
    return ("MiB", "MiB") if shape.body == 1 << 20 else ("request", "requests")


def latencies(paced: Cases) -> str:
    """Percentiles of the cases at a fixed rate."""
    rows: Table = [("open loop", "p50 µs", "spread", "p99 µs", "spread", "p99.9 µs", "spread", "own p99 µs")]
    for case in PACED:
        seen = paced[case].latency
        if paced[case].errors or not seen:
            rows.append((case.name, NO_RESULT, *[""] * 6))
            continue
        cells = [cell for name in ("p50", "p99", "p999") for cell in (number(seen[name].median), spread(seen[name]))]
        rows.append((case.name, *cells, number(seen["late"].median)))
    return aligned(rows)


def _bar(bar: Bar, cases: Cases, idle: Mapping[str, Series]) -> tuple[str, ...] | None:
    needed = (*bar.cases, bar.yardstick) if bar.yardstick else bar.cases
    told = [f"{limit:,g}" if limit is not None else "" for limit in (bar.first, bar.goal)]
    if any(case in cases and cases[case].errors for case in needed):
        return (bar.what, bar.unit, *told, "", "", "", "", NO_RESULT)
    try:
        result = bar.figure(cases, idle)
        factor = cases[bar.yardstick].cost.median / NGINX_MICROSECONDS[bar.yardstick.shape] if bar.yardstick else 1.0
    except KeyError:
        return None  # this run left it out
    here = number(bar.first * factor) if bar.first is not None else ""
    scale = f"{factor:.2f}" if bar.yardstick else ""
    return (bar.what, bar.unit, *told, scale, here, number(result.median), spread(result), verdict(bar, factor, result))


def verdict(bar: Bar, factor: float, result: Series) -> str:
    """How a result stands to its bar."""

    def reached(limit: float | None) -> bool:
        if limit is None:
            return False
        return result.median >= limit if bar.at_least else result.median <= limit * factor

    if bar.first is None:
        return ""
    if reached(bar.goal):
        return "goal reached"
    return "holds" if reached(bar.first) else "MISSED"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first leans right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Iterable[str]) -> str:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * (width + 1) + ":" if column else "-" * (width + 2) for column, width in enumerate(widths))
    return "\n".join([line(rows[0]), f"|{rule}|", *map(line, rows[1:])])


def spread(series: Series) -> str:
    """From the lowest to the highest."""
    return f"{number(min(series.values))} to {number(max(series.values))}"


def number(value: float) -> str:
    """Three digits that mean something."""
    if math.isnan(value):
        return "?"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def write(text: str, page: Path) -> None:
    """Replaces what stands between the markers of the page."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{page} has no place for the tables: the lines `{BEGIN}` and `{END}`")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
