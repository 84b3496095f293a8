"""The page of a suite: Markdown, HTML and bars, made from the JSON files of its folder alone."""

from collections import defaultdict
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as Picture

from gloria.attention import save_figure
from gloria.durable import write_whole
from gloria.reproduce.cells import CELLS, FAILURES, read_cells, read_json
from gloria.reproduce.systems import SYSTEMS
from gloria.reproduce.tables import NAMES, Figure, Filled, filled_tables

PLAN = "plan.json"
MARKDOWN, HTML = "README.md", "index.html"


def write_page(out: str | Path) -> Path:
    """Write README.md, index.html and a picture for each table from the JSON files in a folder.

    Args:
        out: folder of `reproduce`.

    Returns:
        Path of README.md.

    Raises:
        FileNotFoundError: the folder holds no plan.json.
    """
    out = Path(out)
    if not (out / PLAN).is_file():
        raise FileNotFoundError(f"{out} holds no {PLAN}; expected the folder that `gloria reproduce` wrote")
    plan = read_json(out / PLAN)
    planned = {cell["name"]: cell["title"] for cell in plan["cells"]}
    cells = {name: cell for name, cell in read_cells(out / CELLS).items() if name in planned}
    failures = {name: cell for name, cell in read_cells(out / FAILURES).items() if name in planned}
    tables = filled_tables(cells)
    sections = []
    for filled in tables:
        picture = f"{filled.table.task}.png"
        save_figure(bars(filled), out / picture)
        sections.append(_section(filled) | {"picture": picture})
    page = {
        "plan": plan,
        "about": _about(plan, len(cells), sum(cell["seconds"] for cell in cells.values())),
        "sections": sections,
        "collapsed": [planned[name] for name, cell in cells.items() if cell["results"]["collapsed"]],
        "failed": [f"{planned[name]}: {cell['reason']}" for name, cell in failures.items()],
        "missing": [title for name, title in planned.items() if name not in cells and name not in failures],
        "not_run": [_reason(each) for each in plan["not_run"]],
    }
    for name, template in ((MARKDOWN, "page.md"), (HTML, "page.html")):
        environment = jinja2.Environment(
            autoescape=name == HTML, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        text = environment.from_string(files(__package__).joinpath(template).read_text(encoding="utf-8")).render(page)
        write_whole(out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return out / MARKDOWN


def bars(filled: Filled) -> Picture:
    """Draw a table: a bar for each system with its deviation over seeds, in groups, and a line where chance lies.

    A system has its color in all tables. Where its bars stand for shares of the labels, fewer are paler, and what sees
    no label is hatched.
    """
    series: dict[str, dict[str, Figure]] = defaultdict(dict)
    looks: dict[str, dict[str, Any]] = {}
    shares = sorted({line.fraction for line in filled.lines if line.fraction})
    chance: dict[str, float] = {}
    for line in filled.lines:
        for metric, figure in line.figures.items():
            share, name = _share(line.fraction), NAMES.get(metric, metric)
            # Of a table that sets zero-shot beside classifiers, a bar is one of both; else a system's, in each group.
            bar, group = (
                (f"{line.system} {share or 'zero-shot'}", name)
                if filled.table.beside
                else (line.system, f"{name}\n{share}")
            )
            series[bar][group] = figure
            paler = (shares.index(line.fraction) + 1) / len(shares) if filled.table.beside and line.fraction else 1
            color = to_rgba(f"C{SYSTEMS.index(line.system)}", paler)
            hatch = "//" if filled.table.beside and not line.fraction else None
            looks[bar] = {"color": color, "hatch": hatch}
            if metric in filled.chance:
                chance[group] = 100 * filled.chance[metric]
    groups = list(dict.fromkeys(group for of_bar in series.values() for group in of_bar))
    width = 0.8 / len(series)
    picture, axis = plt.subplots(figsize=(5 + 0.2 * len(groups) * len(series), 4), layout="constrained")
    for number, (bar, of_bar) in enumerate(series.items()):
        places = {group: groups.index(group) + width * (number + 0.5) - 0.4 for group in of_bar}
        heights = [figure.percent or 0 for figure in of_bar.values()]
        spread = [figure.deviation or 0 for figure in of_bar.values()]
        axis.bar(list(places.values()), heights, width, yerr=spread if any(spread) else None, label=bar, **looks[bar])
        for group, figure in of_bar.items():
            if figure.collapsed:
                axis.text(places[group], 2, "collapsed", rotation=90, ha="center", va="bottom", fontsize=7)
    for group, value in chance.items():
        at = groups.index(group)
        axis.hlines(value, at - 0.45, at + 0.45, colors="black", linestyles="dashed")
    axis.set_xticks(range(len(groups)), groups, fontsize=8)
    axis.set(ylabel="percent", ylim=(0, 105))
    axis.set_title(filled.table.title + (f" (dashed: {_nothing(filled)})" if chance else ""), fontsize=10)
    axis.legend(fontsize=7, bbox_to_anchor=(1, 1), loc="upper left")
    return picture


def _about(plan: Mapping[str, Any], done: int, seconds: float) -> list[str]:
    """Return the sentences that stand above the tables."""
    budget, machine, seeds = plan["budget"], plan["machine"], plan["budget"]["seeds"]
    return [
        f"{plan['source']}.",
        f"All systems share the encoders (a four-block ResNet and one layer of BERT, from scratch), {budget['pixels']} "
        f"pixels, {budget['steps']} steps of {budget['batch_size']} pairs and a learning rate of "
        f"{budget['learning_rate']}; what differs is the objective.",
        "Searched for beforehand, by single runs on phantoms: the local score of the small GLoRIA, how long a hinge "
        "counts all negatives, and which sentences ConVIRT draws.",
        "The system random is the same model with new weights.",
        "The published systems are larger, and trained on radiographs: compare the order of the rows, not the height.",
        f"Figures are means ± standard deviations over {seeds} seeds."
        if seeds > 1
        else "Figures are of one seed, and have no deviation.",
        f"{done} of {len(plan['cells'])} cells are done, and took {seconds / 60:.0f} minutes of a core; "
        f"{machine['cpu']}, torch {machine['torch']}.",
    ]


def _section(filled: Filled) -> dict[str, Any]:
    """Return a table as the templates take it: texts alone."""
    table = filled.table
    rows = []
    labeled = any(line.fraction for line in filled.lines)
    for line in filled.lines:
        labels = [f"{line.labels} ({_share(line.fraction)})" if line.fraction else "0"] * labeled
        texts = [line.figures[metric].text if metric in line.figures else "–" for metric in table.metrics]
        known = [each["figures"].get(line.system, {}).get(line.fraction, "–") for each in table.published]
        rows.append([line.system, *labels, *texts, *map(str, known)])
    if filled.chance:
        texts = [f"{100 * filled.chance[metric]:.1f}" if metric in filled.chance else "–" for metric in table.metrics]
        rows.append([_nothing(filled), *(["0"] * labeled), *texts, *("–" for _ in table.published)])
    return {
        "title": table.title,
        "about": table.about.split(". "),
        "header": [
            "system",
            *(["labels"] * labeled),
            *(NAMES.get(metric, metric) for metric in table.metrics),
            *(f"published, {each['data']}" for each in table.published),
        ],
        "rows": rows,
        "sources": {each["source"]["url"]: each["source"]["text"] for each in table.published},
        "classes": ", ".join(filled.classes),
        "not_at_hand": table.not_at_hand,
    }


def _share(fraction: float | None) -> str:
    return f"{100 * fraction:g} %" if fraction else ""


def _nothing(filled: Filled) -> str:
    """Return the name of an answer that knows nothing."""
    return "nothing anywhere" if filled.table.task.startswith("segmentation") else "chance"


def _reason(entry: Mapping[str, Any]) -> str:
    system = f" of {entry['system']}" if entry["system"] else ""
    return f"{entry['task']}{system}: {entry['reason']}"
