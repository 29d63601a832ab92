"""The model card: what the hub reads, and what people do. It says nothing that was not recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ...data.provenance import in_words, trained_on
from ...metrics.cost import count_parameters
from ...metrics.report import distance_features
from ...networks.checkpoints.spec import spec, summarise
from ..report import facts, results
from ..report.blocks import Block, Table
from ..report.find import Group
from ..report.page import shown
from .recorded import Records

if TYPE_CHECKING:
    from ...generators import Generator

TASK = "unconditional-image-generation"

SPECIAL = re.compile(r"([\\`*_\[\]<>|#&~$!])")
"""Signs that Markdown or HTML would take for theirs."""

COMMANDS = 20
"""Command lines that a card has, at most."""


def card(generator: Generator, records: Records, *, name: str, model: str, licence: str, samples: str) -> str:
    """Return the text of ``README.md``.

    Args:
        generator: as others will load it.
        records: of its runs.
        name: of the model.
        model: its id on the hub.
        licence: in the hub's spelling; '' is unknown.
        samples: words for the picture; they begin with No where there is none.
    """
    picture = [samples] if samples.startswith("No ") else [f"![{samples}](samples.png)", "", f"{samples}."]
    sections = {
        "Use": _use(model),
        "Samples": picture,
        "What it is": _what(generator),
        "Data": _data(generator),
        "Recipe": _recipe(records),
        "Measurements": _measurements(records),
        "Limits": _limits(generator, records),
        "Licence": [f"{plain(licence)}." if licence else "Unknown: whoever shares this has not stated one."],
    }
    front = yaml.safe_dump(_front(generator, records, name, licence), sort_keys=False, allow_unicode=True)
    text = [f"---\n{front}---", f"# {plain(name)}"]
    for title, lines in sections.items():
        text += [f"## {title}", "\n".join(lines)]
    return without_place("\n\n".join(text) + "\n", records)


def without_place(text: str, records: Records) -> str:
    """Return a text without the place of the runs on this machine, and without the user's name."""
    for stage in records.recipe[:1] or records.measured[:1]:
        root = stage.folder.absolute().parent
        for place in {f"{root.parent}/", f"{plain(str(root.parent))}/"} - {"/"}:
            text = text.replace(place, "")
    home = str(Path.home())
    return text if home == "/" else text.replace(f"{home}/", "~/")


def _front(generator: Generator, records: Records, name: str, licence: str) -> dict[str, Any]:
    """Return the mapping that the hub reads."""
    front: dict[str, Any] = {
        "library_name": "flowlit",
        "pipeline_tag": TASK,
        "license": licence.lower() or "unknown",
        "tags": ["flowlit", "image-generation", "rectified-flow"],
    }
    measured = _index(records)
    data = trained_on(generator.network) or {}
    if measured and data.get("name"):
        called = str(data["name"])
        slug = re.sub(r"[^a-z0-9]+", "-", called.lower()).strip("-") or "images"
        entry = {"task": {"type": TASK}, "dataset": {"name": called, "type": slug}, "metrics": measured}
        front["model-index"] = [{"name": name, "results": [entry]}]
    return front


def _index(records: Records) -> list[dict[str, Any]]:
    """Return the distances as the hub lists them."""
    metrics = []
    for report in records.reports:
        for tag, value in report["metrics"].items():
            kind, _, solver = tag.rpartition("/")
            if distance_features(kind) and value is not None:
                images = f"{report['images']:,} images, " if isinstance(report.get("images"), int) else ""
                metrics.append({"type": kind, "name": f"{kind} ({images}{solver})", "value": value})
    return metrics


def _use(model: str) -> list[str]:
    lines = ["```python", "import flowlit  # pip install 'flowlit[hub]'", ""]
    lines.append(f'generator = flowlit.load("{model}")  # or the path of this folder')
    return [*lines, "images = generator.sample(16, seed=0)  # uint8 (N, C, H, W)", "```"]


def _what(generator: Generator) -> list[str]:
    shape = "×".join(map(str, generator.shape or ()))
    lines = [
        f"- network: {plain(summarise(spec(generator.network)))}, "
        f"{count_parameters(generator.network):,} parameters",
        f"- solver: {plain(facts.spelt(spec(generator.solver)))}",
        f"- noise: {shape or 'of any shape'}; images: uint8",
    ]
    names = generator.class_names
    if generator.num_classes:
        listed = f": {plain(facts.listed(names))}" if names else ""
        lines.append(f"- classes: {generator.num_classes}{listed}")
    return lines


def _data(generator: Generator) -> list[str]:
    data = trained_on(generator.network)
    return [f"{plain(in_words(data))}." if data else "Not recorded."]


def _recipe(records: Records) -> list[str]:
    if not records.recipe:
        return ["Not recorded: the weights were not read from the folder of a run."]
    group = [Group("", records.recipe[0].folder.parent, records.recipe)]
    commands = [line for stage in records.recipe for line, _ in stage.commands[:1]][:COMMANDS]
    shell = ["", "```bash", *(shown(line).replace("`", "'") for line in commands), "```"]
    return [*_markdown(facts.costs(group)), *(shell if commands else [])]


def _measurements(records: Records) -> list[str]:
    if not records.measured:
        return ["Nothing was measured with these weights, as far as the runs beside them say."]
    group = [Group("", records.measured[0].folder.parent, records.measured)]
    blocks = [*results.tables(results.results_of(group)), *facts.protocols(group)]
    return _markdown([*blocks, *facts.environments(group), *results.others(group)])


def _limits(generator: Generator, records: Records) -> list[str]:
    size = "×".join(map(str, (generator.shape or ())[-2:]))
    lines = [f"- It makes images of {size} pixels, and of no other size."] if size else []
    lines.append("- Its images are of the kind that it was trained on; what is rare there is rare here.")
    features = {
        distance_features(tag.rpartition("/")[0]) for each in records.reports for tag in each["metrics"]
    }
    own = sorted(name for name in features if name not in (None, "inception"))
    if own:
        lines.append(
            f"- Distances in {plain(', '.join(own))} features are no FIDs, and do not compare with them."
        )
    looked = any(tag.startswith("memorisation") for each in records.reports for tag in each["metrics"])
    sign = "memorisation above is a sign of it, which is near 0 for copies and about 1 for new images"
    lines.append(
        f"- Whether it repeats images that it was trained on: {sign if looked else 'that was not measured'}."
    )
    return lines


def plain(text: str) -> str:
    """Return a text of a run as Markdown that shows it as it is.

    >>> print(plain("a|<b>\\n#"))
    a\\|\\<b\\>\\\\n\\#
    """
    return SPECIAL.sub(r"\\\1", str(shown(text)))


def _markdown(blocks: Sequence[Block]) -> list[str]:
    """Return tables as Markdown; numbers to the right."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            rules = ["---"] * block.left + ["---:"] * (len(block.header) - block.left)
            rows = [block.header, *block.rows]
            first, *others = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
            caption = [plain(block.caption), ""] if block.caption else []
            lines += [*caption, first, f"|{'|'.join(rules)}|", *others, ""]
        elif text := getattr(block, "text", ""):
            lines += [plain(text), ""]
    return lines
