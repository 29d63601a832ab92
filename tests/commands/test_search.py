"""``flowlit search`` writes a schedule that is used wherever a solver is, goes on, and refuses early."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from matrix import few
from texts import Reader
from tools import Mean, randomise, tiny_unet, write_checkpoint
from torch import nn

import flowlit
from flowlit._support.progress import Bar
from flowlit.commands.search.blocks import blocks_of
from flowlit.commands.search.features import FrechetDistance, MetricScore
from flowlit.commands.search.objective import EndpointError
from flowlit.commands.search.request import started
from flowlit.commands.search.results import Score, _verdict
from flowlit.data import Digits, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.metrics import KID, FrechetExtrapolated, InceptionScore, PrecisionRecall
from flowlit.metrics.base import FeatureBatch, FeatureMetric
from flowlit.metrics.cost import shares
from flowlit.metrics.frechet import covariance, frechet_distance
from flowlit.metrics.reference import make_reference, read_reference
from flowlit.metrics.report import Estimate
from flowlit.networks import ClassifierFreeGuidance, ConcatenatedImage
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.skipping import removable
from flowlit.solvers import RK4, Euler, SolverSchedule, UniPC
from flowlit.solvers.search.candidate import Choice, Space, alike, known
from flowlit.types import Solver

SMALL = ["--num", "2", "--fine", "6", "--weights", "raw", "--nfe", "3", "--budget", "14"]
SMALL += ["--population", "6", "--strategy", "Evolution"]
RESULTS = ("search.json", "solver.yaml", "layer.yaml")


def network(seed=0, **changes):
    return randomise(tiny_unet(**changes), seed, scale=0.15).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "net.ckpt"
    return write_checkpoint(path, network(), solver=spec(Euler(1)), codec=None)


@pytest.fixture(scope="module")
def searched(model, tmp_path_factory):
    """The folder of a search, and what it printed."""
    from commandline import in_process

    into = tmp_path_factory.mktemp("results") / "searched"
    outcome = in_process("search", model, "--into", into, *SMALL)
    assert outcome.code == 0, outcome.err
    return into, outcome.out


def test_the_result_is_the_best_that_was_tried_and_is_scored_on_other_noise(searched, model):
    into, out = searched
    state = json.loads((into / "search.json").read_text())
    scores = [each["score"] for each in state["tried"]]
    assert len(scores) == 14 and len({json.dumps(each["schedule"]) for each in state["tried"]}) == 14
    first = min(state["tried"], key=lambda each: each["score"])
    content = yaml.safe_load((into / "solver.yaml").read_text())
    assert content == {"class_path": "flowlit.solvers.SolverSchedule", "init_args": first["schedule"]}
    generator = flowlit.load(model, "raw")
    apart = EndpointError(generator, 2, 1, 128, fine=6)  # the seed after that of the search
    assert f"{apart(started(str(into / 'solver.yaml'))):.4g}" in out.splitlines()[2].split()
    assert f"{min(scores):.4g}" in out.splitlines()[2].split()
    adams = next(line for line in out.splitlines() if line.startswith("Adams, order 3 "))
    assert f"{apart(known(3, 3)['Adams, order 3']):.4g}" in adams and "times as near as" in out
    assert (into / "search.png").read_bytes().startswith(b"\x89PNG")
    assert not list(into.glob(".*"))


def test_it_is_used_wherever_a_solver_is(searched, model, cli, tmp_path):
    into, _ = searched
    content = yaml.safe_load((into / "solver.yaml").read_text())
    solver = build(content, Solver)
    assert isinstance(solver, SolverSchedule) and build(spec(solver), Solver) == solver
    words = ["sample", model, "--weights", "raw", "--num", "2", "--solver"]
    assert cli(*words, into / "solver.yaml", "--into", tmp_path / "a.npz").code == 0
    text = f"SolverSchedule({', '.join(f'{k}={v!r}' for k, v in content['init_args'].items())})"
    assert cli(*words, text, "--into", tmp_path / "b.npz").code == 0
    assert (tmp_path / "a.npz").read_bytes()[:200] == (tmp_path / "b.npz").read_bytes()[:200]
    drawn = tmp_path / "drawn.yaml"
    drawn.write_text(yaml.safe_dump({"solvers": {"searched3": content}}))  # a sweep's own are in their place
    for words, place in [
        (
            ["couple", "-c", "experiments/couple_digits.yaml", "-c", into / "layer.yaml"],
            ["model", "init_args"],
        ),
        (["sweep", "-c", "experiments/sweep_digits.yaml", "-c", drawn], []),
    ]:
        outcome = cli(*words, "--print_config")
        assert outcome.code == 0, outcome.err
        shown = yaml.safe_load(outcome.out)
        for key in [*place, "solvers"]:
            shown = shown[key]
        assert list(shown) == ["searched3"]
        shown = shown["searched3"]
        assert shown["class_path"] == "flowlit.solvers.SolverSchedule"
        absent = {"mean": None, "skipped": None}
        assert {**shown["init_args"], **absent} == {**content["init_args"], **absent}


@pytest.mark.parametrize("kept", few([8, 6, 4, 13], 1))
def test_a_killed_search_ends_as_if_it_had_not_been(searched, model, cli, tmp_path, kept):
    into, _ = searched
    state = json.loads((into / "search.json").read_text())
    state["tried"] = state["tried"][:kept]
    (tmp_path / "again").mkdir()
    (tmp_path / "again/search.json").write_text(json.dumps(state))
    outcome = cli("search", model, "--into", tmp_path / "again", *SMALL, "--batch", "1")
    assert outcome.code == 0, outcome.err
    for name in RESULTS:
        assert (tmp_path / "again" / name).read_bytes() == (into / name).read_bytes()


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        (0.02, "held out: 0.02, 1.50 times as near as Adams (0.03)"),
        (0.06, "held out: 0.06, 2.00 times as far as Adams (0.03)"),
        (None, "held out: no ratio, since one of them has no score"),
    ],
)
def test_a_result_that_is_farther_than_a_known_solver_is_said_to_be_so(held_out, expected):
    candidate = alike([0, 0.4, 1], Choice())
    others = [Score("Adams", candidate, 0.01, 0.03), Score("Euler", candidate, 0.01, 0.2)]
    assert _verdict([Score("searched, 1", candidate, 0.01, held_out), *others], 1) == expected


@pytest.mark.slow
def test_an_interrupted_search_keeps_what_it_has_tried(searched, model, cli, tmp_path, monkeypatch):
    into, _ = searched
    ticks = []
    update = Bar.update

    def interrupted(self, n=1):
        ticks.append(n)
        if len(ticks) == 9:
            raise KeyboardInterrupt
        return update(self, n)

    monkeypatch.setattr(Bar, "update", interrupted)
    assert cli("search", model, "--into", tmp_path / "s", *SMALL).code == 130
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["search.json"]
    monkeypatch.undo()
    cli("search", model, "--into", tmp_path / "s", *SMALL)
    assert (tmp_path / "s/search.json").read_bytes() == (into / "search.json").read_bytes()


@pytest.mark.slow
def test_a_larger_budget_goes_on_and_a_smaller_one_is_refused(searched, model, cli, tmp_path):
    into, _ = searched
    shutil.copytree(into, tmp_path / "s")
    assert cli("search", model, "--into", tmp_path / "s", *SMALL, "--budget", "16").code == 0
    longer = json.loads((tmp_path / "s/search.json").read_text())["tried"]
    assert len(longer) == 16
    assert longer[:14] == json.loads((into / "search.json").read_text())["tried"]
    refused = cli("search", model, "--into", tmp_path / "s", *SMALL, "--budget", "10").error
    assert "has 16 schedules; expected --budget 16 at least" in refused


START = "class_path: flowlit.solvers.SolverSchedule\ninit_args: {times: [%s], orders: %s}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--budget", "5"], "--budget 5 is less than one generation of 6"),
        (["--strategy", "DynamicProgramming", "--budget", "15"], "one generation of 16"),
        (["--nfe", "1"], "one evaluation is Euler's step, and there is nothing to search for"),
        (["--order", "4"], "the order is 4 at most; expected 1 to 3, since 3 evaluations allow no more"),
        (["--fine", "5"], "--fine 5 is no exact way for 3 steps; expected 6 or more"),
        (["--start", "repeated.yaml"], "expected increasing times"),
        (["--start", "falling.yaml"], "expected increasing times"),
        (["--start", "high.yaml"], "step 2 has order 3, but there are 2 evaluations by then"),
        (["--start", "short.yaml"], "has 2 steps of order 1 at most; expected 3 steps"),
        (["--start", "Heun(steps=2)"], "expected a SolverSchedule"),
        (["--start", "none.yaml"], "--start none.yaml: there is no such file"),
        (["--features", "tools.Mean"], "--features without --reference"),
        (["--reference", "x.npz"], "--reference without --features"),
        (["--metric", "KID"], "--metric without --features"),
        (["--by", "recall"], "--by recall without --metric"),
        (["--calls", "3"], "--nfe 3 is enough for 3 calls of the whole network; expected 4 or more"),
        (["--calls", "40", "--fine", "80"], "without all blocks that can be left out; expected"),
        (["--calls", "4", "--fine", "8", "--strategy", "Staged"], "only Evolution leaves blocks out"),
        (["--guidance", "2"], "unconditional"),
        (["--strategy", "Evolution", "--strategy.parents", "0"], "expected a whole number > 0"),
        (["--into", "repeated.yaml"], "is a file; expected a folder"),
        (["--into", "."], "and no search.json of a search to go on with"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(model, tmp_path, monkeypatch, words, expected):
    from commandline import in_process

    monkeypatch.chdir(tmp_path)
    files = {
        "repeated": ("0, 0.5, 0.5, 1", "1"),
        "falling": ("0, 0.6, 0.5, 1", "1"),
        "high": ("0, 0.3, 0.6, 1", "[1, 3, 1]"),
        "short": ("0, 0.5, 1", "1"),
    }
    for name, (times, orders) in files.items():
        (tmp_path / f"{name}.yaml").write_text(START % (times, orders))
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(EndpointError, "_exact", None)
    error = in_process("search", model, "--into", "results", *SMALL, *words).error
    assert expected in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("make", "read"), [(lambda: ConcatenatedImage(tiny_unet()), "image"), (Reader, "text")]
)
def test_networks_that_read_more_than_noise_and_classes_are_refused(cli, tmp_path, make, read):
    path = write_checkpoint(tmp_path / "net.ckpt", make(), solver=spec(Euler(1)), codec=None)
    expected = f"the network reads {read}, and flowlit %s generates from noise and classes alone"
    for words in ([], ["--calls", "4", "--fine", "8"]):
        error = cli("search", path, "--into", tmp_path / "s", *SMALL, *words).error
        assert expected % "search" in error and not (tmp_path / "s").exists()
    words = ["--weights", "raw", "--num", "32", "--nodes", "8", "--into", tmp_path / "s.safetensors"]
    assert expected % "statistics" in cli("statistics", path, *words).error
    assert [each.name for each in tmp_path.iterdir()] == ["net.ckpt"]


@pytest.mark.parametrize(
    "words",
    [
        ["KID", "--metric.subset_size", "6"],
        ["PrecisionRecall", "--metric.neighbourhood", "2"],
        ["InceptionScore", "--metric.splits", "2"],
        ["FrechetExtrapolated"],
    ],
    ids=lambda words: words[0],
)
def test_metrics_have_short_names(cli, tmp_path, words):
    error = cli("search", "net.ckpt", "--into", tmp_path / "s", *SMALL, "--metric", *words).error
    assert "--metric without --features: it is a number of features of images" in error  # it is parsed
    unknown = cli("search", "net.ckpt", "--into", tmp_path / "s", *SMALL, "--metric", f"{words[0]}s").error
    assert f"{words[0]}s" in unknown and "--metric without" not in unknown


def test_the_state_of_another_search_is_refused(searched, model, cli, tmp_path):
    into, _ = searched
    path = write_checkpoint(tmp_path / "other.ckpt", network(5), solver=spec(Euler(1)), codec=None)
    before = (into / "search.json").read_bytes()
    assert "is a search for another network" in cli("search", path, "--into", into, *SMALL).error
    for words, expected in [
        (["--nfe", "4", "--fine", "8"], "searched with nfe 3, found 4"),
        (["--seed", "1"], "searched with seed 0, found 1"),
        (["--strategy", "Staged"], 'searched with strategy {"class": "flowlit.solvers.search.Evolution"'),
        (["--fine", "9"], "searched with objective"),
    ]:
        assert expected in cli("search", model, "--into", into, *SMALL, *words).error
    assert (into / "search.json").read_bytes() == before
    state = json.loads(before)
    for damage, expected in [
        (lambda s: s["tried"][3]["schedule"]["times"].reverse(), "increasing times"),
        (lambda s: s["tried"][3]["schedule"]["orders"].pop(), "lists of different lengths"),
        (lambda s: s["tried"].reverse(), "generations do not follow each other"),
        (lambda s: s.update(tried=s["tried"][1:12]), "was made by another version of flowlit"),
        (lambda s: s.pop("settings"), "it lacks settings"),
        (lambda s: s.update(version=9), "version 9"),
    ]:
        changed = json.loads(json.dumps(state))
        damage(changed)
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d/search.json").write_text(json.dumps(changed))
        assert expected in cli("search", model, "--into", tmp_path / "d", *SMALL).error


@pytest.mark.slow
def test_other_strategies_start_from_what_was_found_and_count_guidance(searched, cli, tmp_path):
    into, _ = searched
    guided = network(2, num_classes=3, label_dropout=0.1)
    path = write_checkpoint(tmp_path / "net.ckpt", guided, solver=spec(Euler(1)), codec=None)
    words = ["--num", "2", "--fine", "6", "--weights", "raw", "--guidance", "2", "--order", "2"]
    words += ["--start", into / "solver.yaml", "--nfe", "6", "--budget", "18", "--into", tmp_path / "s"]
    for strategy in ("DynamicProgramming", "Staged"):
        outcome = cli("search", path, *words, "--strategy", strategy, "--population", "9")
        assert outcome.code == 0, outcome.err
        state = json.loads((tmp_path / "s/search.json").read_text())
        assert all(len(each["schedule"]["times"]) == 4 for each in state["tried"])  # two calls a step
        started_from = yaml.safe_load((into / "solver.yaml").read_text())["init_args"]
        assert state["tried"][0]["schedule"] == started_from and "start 1" in outcome.out
        shutil.rmtree(tmp_path / "s")
    assert "takes 2 evaluations a step" in cli("search", path, *words, "--nfe", "5").error


def test_a_frechet_distance_is_that_of_the_images(cli, tmp_path):
    reference = make_reference(Digits(limit=40), Mean(), str(tmp_path / "reference.npz"))
    generator = Generator(network(), Euler(1), Pixels())
    objective = FrechetDistance(generator, 12, 3, 5, Mean(), tmp_path / "reference.npz")
    candidate = alike([0, 0.4, 1], Choice(2, corrector=True))
    images = Generator(network(), candidate.schedule(), Pixels()).sample(12, seed=3)
    rows = Mean()(images).double()
    moments = covariance(torch.tensor(12.0), rows.sum(0), rows.T @ rows)
    expected = frechet_distance(*moments, reference.mean, reference.cov)
    assert objective(candidate) == pytest.approx(expected, rel=1e-6)


def scored(metric, by, folder, num=12):
    reference = folder / "reference.npz"
    if not reference.exists():
        make_reference(Digits(limit=40), Mean(), str(reference), keep_features=True)
    generator = Generator(network(), Euler(1), Pixels())
    return MetricScore(generator, num, 3, 5, Mean(), reference, metric, by)


@pytest.mark.parametrize(
    ("metric", "by", "sign"),
    [
        (KID(subsets=3, subset_size=6), None, 1),
        (PrecisionRecall(), "recall", -1),
        (PrecisionRecall(), "precision", -1),
        (FrechetExtrapolated(), None, 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_any_metric_of_images_is_an_objective_and_more_is_better_where_it_is(tmp_path, metric, by, sign):
    objective = scored(metric, by, tmp_path)
    candidate = alike([0, 0.4, 1], Choice(2, corrector=True))
    images = Generator(network(), candidate.schedule(), Pixels()).sample(12, seed=3)
    real = read_reference(tmp_path / "reference.npz").features()
    numbers = metric(FeatureBatch(Mean()(images)), real)
    expected = float(numbers[by or next(iter(numbers))].value)
    assert objective(candidate) == pytest.approx(sign * expected, rel=1e-4, abs=1e-7)
    assert objective.sign == sign and (by or metric.numbers[0]) in numbers


class Brightness(FeatureMetric):
    """A metric of one's own, which does not name its numbers."""

    def __call__(self, generated, real):
        return {"brightness": Estimate(float(generated.features.mean()))}


def test_numbers_that_there_are_not_are_refused(tmp_path):
    for metric, by, expected in [
        (PrecisionRecall(), None, "no --by; expected --by precision or recall"),
        (KID(subset_size=6), "recall", "--by recall; expected --by kid"),
        (KID(), None, "lower subset_size"),
        (InceptionScore(), None, "needs classes, which mean features do not give"),
        (Brightness(), None, "expected --by the name of one of its numbers"),
    ]:
        with pytest.raises(FlowlitError, match=expected):
            scored(metric, by, tmp_path)
    with pytest.raises(FlowlitError, match="has no such number; expected brightness"):
        scored(Brightness(), "darkness", tmp_path)(alike([0, 1], Choice()))
    assert scored(Brightness(), "brightness", tmp_path)(alike([0, 1], Choice())) is not None


@pytest.mark.slow
def test_a_metric_is_searched_for(model, cli, tmp_path):
    make_reference(Digits(limit=40), Mean(), str(tmp_path / "reference.npz"), keep_features=True)
    words = ["--features", "tools.Mean", "--reference", tmp_path / "reference.npz", "--into", tmp_path / "s"]
    words += ["--metric", "PrecisionRecall", "--metric.neighbourhood", "2", "--by", "recall", "--num", "4"]
    outcome = cli("search", model, *SMALL, *words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("recall_mean of 4 images") and "times as near" not in outcome.out
    tried = json.loads((tmp_path / "s/search.json").read_text())["tried"]
    assert f"{-min(each['score'] for each in tried):.4g}" in outcome.out.splitlines()[2].split()


def test_blocks_have_what_they_cost_and_how_far_the_velocity_is_without_them():
    whole = network(num_classes=3, label_dropout=0.1)
    guided = Generator(ClassifierFreeGuidance(whole, 2.0), Euler(1), Pixels())
    blocks = blocks_of(guided, 4, 3, 0)
    assert list(blocks.saved) == removable(whole) and blocks.limit == 3
    assert all(0 < share < 0.5 and len(blocks.harm[name]) == 8 for name, share in blocks.saved.items())
    assert all(value > 0 for values in blocks.harm.values() for value in values)
    first = next(iter(Space(4, 2, blocks=blocks).first()))
    assert blocks.fits(first) and any(choice.skipped for choice in first.choices)


class WithoutParts(nn.Conv2d):
    """A velocity of one layer, of which nothing can be left out."""

    shape = (1, 8, 8)

    def checkpointable(self):
        return []

    def forward(self, x, t, cond={}):
        return super().forward(x)


def test_a_network_without_blocks_is_refused():
    generator = Generator(WithoutParts(1, 1, 1), Euler(1), Pixels())
    expected = "--calls 4: WithoutParts has no block that can be left out; drop --calls"
    with pytest.raises(FlowlitError, match=expected):
        blocks_of(generator, 4, 3, 0)


@pytest.mark.slow
def test_blocks_are_left_out_at_equal_cost(model, cli, tmp_path):
    words = ["--calls", "4", "--fine", "8", "--into", tmp_path / "s"]
    outcome = cli("search", model, *SMALL, *words, "--budget", "8")
    assert outcome.code == 0, outcome.err
    content = yaml.safe_load((tmp_path / "s/solver.yaml").read_text())
    solver = build(content, Solver)
    inside = flowlit.load(model, "raw").network
    saved = shares(inside, removable(inside))
    costs = [1 - sum(saved[name] for name in names) for names in solver.skipped]
    assert len(costs) == 4 and 2.5 < sum(costs) <= 3
    assert f"cost {sum(costs):.2f} calls of the whole network" in outcome.out
    header = (tmp_path / "s/solver.yaml").read_text().partition("\n")[0]
    assert header.startswith("# A schedule of 4 calls, some without blocks, that flowlit search")
    assert "Adams, order 3 " in outcome.out  # of three whole ones
    state = (tmp_path / "s/search.json").read_bytes()
    shortened = json.loads(state)
    del shortened["tried"][5:]
    (tmp_path / "s/search.json").write_text(json.dumps(shortened))
    assert cli("search", model, *SMALL, *words, "--budget", "8").code == 0
    assert (tmp_path / "s/search.json").read_bytes() == state
    refused = cli("search", model, *SMALL, "--fine", "8", "--into", tmp_path / "s").error
    assert "searched with calls 4, found null" in refused
    sample = ["sample", model, "--weights", "raw", "--num", "2", "--into", tmp_path / "a.npz"]
    assert cli(*sample, "--solver", tmp_path / "s/solver.yaml").code == 0


@pytest.mark.slow
def test_a_frechet_distance_is_searched_for(model, cli, tmp_path):
    make_reference(Digits(limit=40), Mean(), str(tmp_path / "reference.npz"))
    words = ["--features", "tools.Mean", "--reference", tmp_path / "reference.npz", "--into", tmp_path / "s"]
    outcome = cli("search", model, *SMALL, *words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Fréchet distance (mean) of 2 images")


def test_scores_are_errors_at_the_end_whatever_the_batch():
    generator = Generator(network(num_classes=3), Euler(1), Pixels())
    candidate = known(3, 3)["UniPC on velocity, order 2"]
    scores = [EndpointError(generator, 3, 2, batch, fine=6)(candidate) for batch in (2, 128)]
    followed = EndpointError(generator, 3, 2, 2, fine=6)
    assert followed.paths().numbers == 3 * 64
    assert {*scores, followed(candidate)} == {scores[0]}
    x0 = flowlit.couplings.SeededNoise((1, 8, 8), 3, 2, 3).batch(range(3))
    with torch.no_grad():
        ends = [
            Generator(network(num_classes=3), solver, Pixels()).solve(x0.x0, x0.cond).x1
            for solver in (RK4(6), UniPC(3, order=2, prediction="velocity"))
        ]
    assert scores[0] == pytest.approx(float((ends[0] - ends[1]).square().mean().sqrt()), rel=1e-4)


def test_a_network_without_finite_images_is_said_to_be_so(cli, tmp_path):
    broken = network()
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    path = write_checkpoint(tmp_path / "net.ckpt", broken, solver=spec(Euler(1)), codec=None)
    assert "not finite" in cli("search", path, "--into", tmp_path / "s", *SMALL).error
    assert not (tmp_path / "s").exists()
