"""Runs become one page: it holds what they recorded, runs nothing of theirs, and needs no network."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from commandline import in_process
from hostile_bytes import VALUES, as_json, places, replaced
from matrix import few
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from flowlit.commands.pipeline.state import write_state
from flowlit.commands.report.find import find_groups
from flowlit.commands.report.page import render
from flowlit.commands.report.pictures import Room
from flowlit.commands.report.sections import sections_of

HOSTILE = "<img src=x onerror=alert(1)>$x^$\u202e&amp;\"'"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def stage(root, name, command="fit", done=True, words=None, **content):
    state = {"key": "0123456789abcdef", "done": done, "seconds": 90.0, "result": None, "words": words}
    write_state(root / name, state | {"content": {"command": command, **content}})


def train(root, name, scale=1.0, **content):
    """A training: curves, two grids of samples and a checkpoint."""
    stage(root, name, words=["fit", "-c", f"{name}.yaml", "--vars.root", "a folder"], **content)
    writer = SummaryWriter(str(root / name))
    for step in range(0, 100, 20):
        writer.add_scalar("train/loss", scale / (step + 1), step)
        writer.add_scalar("lr-Adam", 1e-3, step)
    for step in (50, 99):
        writer.add_image("samples/euler1", grey(step), step, dataformats="HWC")
    writer.close()
    (root / name / "checkpoints").mkdir()
    (root / name / "checkpoints/last.ckpt").touch()
    (root / name / "training_cost.json").write_text(json.dumps({**COST, "steps": 100}))


COST = {"format": "flowlit-training-cost", "version": 1, "networks": {"network": {"with_gradient": 6400}}}


def grey(step):
    return np.full((8, 16, 3), step, np.uint8)


def report(distances=(0.5, 0.25), params=1000, **changes):
    metrics = {}
    for steps, distance in enumerate(distances, 1):
        metrics |= {f"nfe/euler{steps}": float(steps), f"frechet_digits/euler{steps}": distance}
        metrics |= {f"images_per_s/euler{steps}": 2000.0 / steps}
    facts = {"sha256": "ab" * 32, "images": 10_000, "reference": {"sha256": "cd" * 32, "count": 50_000}}
    return {
        "format": "flowlit-metrics",
        "version": 2,
        "command": "validate",
        "metrics": metrics,
        "params": params,
        "seconds": 12.5,
        "features": {"digits": facts},
        "noise": {"seed": 7},
        "weights": "ema",
        "hardware": {"device": "Abacus 3000", "threads": 2},
        "versions": {"torch": "9.9"},
        "solvers": {"euler1": {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 1}}},
        **changes,
    }


def measure(root, content, name="evaluate", **settings):
    stage(root, name, "validate", **settings)
    (root / name / "metrics.json").write_bytes(as_json(content))
    (root / name / "samples").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(root / name / "samples/euler1.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A teacher, its student, and an evaluation, whose names are not in the order of their needs."""
    folder = tmp_path_factory.mktemp("runs") / "recipe"
    train(folder, "teacher")
    train(folder, "a_student", **{"model.network.checkpoint": "${vars.root}/teacher/checkpoints/last.ckpt"})
    measure(folder, report(), **{"model.checkpoint": "${vars.root}/${vars.stage}/checkpoints/last.ckpt",
                                 "vars.stage": "teacher", "--vars.stage": "a_student"})  # fmt: skip
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def attributes(self, *names):
        return [values[name] for _, values in self.tags for name in names if name in values]


def page_of(*folders):
    return Page(render("title", sections_of(find_groups(list(folders)))))


def check_harmless(page):
    """Nothing is loaded, and nothing can run."""
    assert not {"script", "iframe", "object", "link", "base", "form", "embed"} & {tag for tag, _ in page.tags}
    assert all(address.startswith("data:image/") for address in page.attributes("src"))
    assert all(address.startswith("#") for address in page.attributes("href"))
    assert not [name for _, values in page.tags for name in values if name.startswith("on")]
    assert "default-src 'none'" in page.attributes("content")[0]
    for _, values in page.tags:
        if values.get("src", "").startswith("data:image/svg"):
            check_plot(values["src"])


def check_plot(address):
    """No element of an SVG loads or runs anything."""
    for element in ElementTree.fromstring(base64.b64decode(address.partition(",")[2])).iter():
        assert element.tag.rpartition("}")[2] not in ("script", "image", "foreignObject", "a", "iframe")
        for name, value in element.items():
            local = name.rpartition("}")[2]
            assert not local.startswith("on") and (local != "href" or value.startswith("#"))


@pytest.fixture
def quick(monkeypatch):
    """Plots are empty."""
    empty = "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()
    monkeypatch.setattr("flowlit.commands.report.sections.draw_curves", lambda *_: empty)
    monkeypatch.setattr("flowlit.commands.report.results.draw_costs", lambda *_: empty)
    monkeypatch.setattr("flowlit.commands.report.results.embedded", lambda *_: empty)


def test_a_page_of_a_pipeline(root, tmp_path):
    into = tmp_path / "new/report.html"
    outcome = in_process("report", root, "--into", into, "--title", "My <b>recipe")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{into}: 3 runs, ")
    page = Page(into.read_text())
    check_harmless(page)
    assert "My <b>recipe" in page.text
    assert re.findall(r"flowlit fit.*", page.text) == [
        f"flowlit fit -c {name}.yaml --vars.root 'a folder'" for name in ("teacher", "a_student")
    ]
    for fact in (
        "frechet_digits, 10,000 images",
        "Abacus 3000",
        "90 s",
        "6,400",
        "Euler(steps=1)",
        "step 99",
    ):
        assert fact in page.text, fact
    svgs = [source for source in page.attributes("src") if "svg" in source]
    assert len(svgs) == 2 + 2 * 2  # distance over NFE and speed, two curves of two trainings
    assert len(page.attributes("src")) - len(svgs) == 2 * 2 + 1  # grids through time, and one of a file


def test_the_recipe_is_in_the_order_of_needs(root, quick):
    (group,) = find_groups([root])
    assert [(run.name, run.needs) for run in group.stages] == [
        ("teacher", []),
        ("a_student", ["teacher"]),
        ("evaluate", ["a_student"]),
    ]
    words = page_of(root).attributes("aria-label")
    assert "teacher needs no other run; a_student needs teacher; evaluate needs a_student" in words


def test_a_root_that_was_moved_and_one_in_a_circle(tmp_path, quick):
    here = tmp_path / "recipe"
    saved = "model: {checkpoint: old/place/recipe/teacher/checkpoints/last.ckpt, store: shared/pairs}\n"
    for name in ("student", "teacher"):
        (here / name).mkdir(parents=True)
        (here / name / "config.yaml").write_text(
            saved.replace("teacher", "student" if name == "teacher" else "teacher")
        )
    (group,) = find_groups([here])
    assert {run.name: run.needs for run in group.stages} == {"student": ["teacher"], "teacher": ["student"]}
    assert group.stages[0].reads == ["shared/pairs"]
    check_harmless(page_of(here))


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(root):
    one = render("a", sections_of(find_groups([root])))
    assert one == render("a", sections_of(find_groups([root, root / "teacher"])))


def test_runs_are_compared_by_stage(root, tmp_path, quick):
    other = tmp_path / "other"
    train(other, "a_student", scale=3.0, **{"model.lr": 0.5})
    measure(other, report((0.4,)), **{"model.lr": 0.5})
    page = page_of(root / "a_student", other, root / "evaluate")
    assert "differences in a_student" in page.text
    assert "other/evaluate" in page.text
    assert len([a for a in page.attributes("src") if "svg" in a]) == 2 + 2  # one plot for both runs
    assert page_of(root / "teacher").text.count("flowlit fit") == 1  # of one run, that run alone


def test_methods_of_an_arena_are_in_one_table(tmp_path, quick):
    for method in ("first", "second"):
        for seed in "12":
            train(tmp_path / "arena" / method / seed, "student")
            measure(tmp_path / "arena" / method / seed, report((0.5 + len(method),)))
    page = page_of(tmp_path / "arena")
    assert "Fréchet distance of 10,000 images" in page.text
    assert "first/1/evaluate" in page.text
    (tmp_path / "arena/first/1/evaluate/metrics.json").write_bytes(as_json(report(images=7, features={})))
    assert "no comparison of methods" in page_of(tmp_path / "arena").text


def test_what_a_run_says_is_never_code(tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "")
    train(folder, HOSTILE, **{HOSTILE: HOSTILE, "a": f"{HOSTILE}/b\nc"})
    distances = {f"frechet_{HOSTILE}/{HOSTILE}": 1.0, f"nfe/{HOSTILE}": 1.0, f"images_per_s/{HOSTILE}": 3.0}
    distances |= {f"frechet_{HOSTILE}/b": 2.0, "nfe/b": 2.0}
    hostile = {key: {HOSTILE: HOSTILE} for key in ("hardware", "versions", "solvers")}
    measure(folder, report(metrics=distances, features={HOSTILE: {"images": 3}}, **hostile))
    with SummaryWriter(str(folder / HOSTILE)) as writer:
        for step in (0, 1):
            writer.add_scalar(f"train/{HOSTILE}", 1.0, step)
    html = render(HOSTILE, sections_of(find_groups([folder])))
    check_harmless(Page(html))
    assert "\u202e" not in html and HOSTILE[:12] in Page(html).text


DAMAGES = {
    "stage.json": b"{",
    "metrics.json": b"[]",
    "config.yaml": b"a: &a [*a]\n",
    "training_cost.json": b"{}",
    "manifest.json": b"\xff",
    "samples/a.png": b"no picture",
    "events.out.tfevents.9.x": b"\0" * 100,
    "config_validate.yaml": b"- 1\n",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_a_remark(name, tmp_path, quick):
    measure(tmp_path / "root", report())
    path = tmp_path / "root/evaluate" / name
    path.write_bytes(DAMAGES[name])
    page = page_of(tmp_path / "root")
    check_harmless(page)
    assert page.text.rpartition("Missing")[2].count("evaluate") >= 1


def test_a_pipe_is_not_waited_for(tmp_path, quick):
    measure(tmp_path / "root", report())
    for name in ("events.out.tfevents.1", "samples/pipe.png", "training_cost.json", "config.yaml"):
        os.mkfifo(tmp_path / "root/evaluate" / name)
    text = page_of(tmp_path / "root").text.rpartition("Missing")[2]
    assert "not all plain files" in text and "pipe.png is no picture" in text


def test_a_picture_of_too_many_pixels_is_a_remark(tmp_path, quick):
    measure(tmp_path / "root", report())
    Image.new("1", (8192, 8192)).save(tmp_path / "root/evaluate/samples/large.png")
    assert "8192×8192 pixels are too many" in page_of(tmp_path / "root").text


def test_pictures_beyond_the_room_are_counted(tmp_path, monkeypatch, quick):
    monkeypatch.setattr("flowlit.commands.report.sections.Room", lambda: Room(10))
    measure(tmp_path / "root", report())
    assert "1 pictures are left out" in page_of(tmp_path / "root").text


@pytest.mark.parametrize("every", few([13, 1], 1))
def test_any_value_in_a_report_gives_a_page(tmp_path, quick, every):
    for place in list(places(report((0.5,))))[::every]:
        for value in VALUES[::every]:
            measure(tmp_path / "root", replaced(report((0.5,)), place, value))
            check_harmless(page_of(tmp_path / "root"))


def test_a_folder_without_anything_it_should_have(tmp_path, quick):
    stage(tmp_path / "root", "teacher", done=False)
    text = page_of(tmp_path / "root").text
    for lacking in (
        "not finished",
        "no curves",
        "no checkpoint",
        "No run has logged",
        "command line was not",
    ):
        assert lacking in text, lacking


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["empty"], "empty has no run in it"),
        (["gone"], "gone does not exist"),
        (["a.html"], "a.html is a file"),
        (["root", "empty"], "empty has no run in it"),
        (["root", "--into", "empty"], "expected a file that ends in .html"),
        (["root", "--into", "folder.html"], "folder.html is a folder"),
        (["root", "--into", "a.html/b.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_one_error(words, error, tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    measure(tmp_path / "root", report())
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "a.html").touch()
    before = sorted(tmp_path.rglob("*"))
    assert error in in_process("report", *words).error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_it_needs_no_torch(root, tmp_path):
    code = (
        "import sys; from flowlit.commands import main; "
        "main(['report', sys.argv[1], '--into', sys.argv[2]]); "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, str(root), str(tmp_path / "a.html")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_it_fits_a_phone_and_prints(root, tmp_path):
    (tmp_path / "page.html").write_text(render("a", sections_of(find_groups([root]))))
    (tmp_path / "frame.html").write_text(
        "<iframe src=page.html width=390 height=800></iframe><script>onload = () => { const page = "
        "frames[0].document.documentElement; document.title = page.scrollWidth + ' ' + page.clientWidth; "
        "}</script>"
    )
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    words += [f"--user-data-dir={tmp_path / 'profile'}"]
    quiet = {
        "capture_output": True,
        "text": True,
        "timeout": 120,
        "env": {**os.environ, "HOME": str(tmp_path)},
    }
    shown = subprocess.run([*words, "--dump-dom", f"file://{tmp_path}/frame.html"], **quiet)
    width, room = re.search(r"<title>(\d+) (\d+)</title>", shown.stdout).groups()
    assert int(width) <= int(room)
    pdf = tmp_path / "page.pdf"
    subprocess.run([*words, f"--print-to-pdf={pdf}", f"file://{tmp_path}/page.html"], **quiet)
    assert pdf.read_bytes().startswith(b"%PDF")
