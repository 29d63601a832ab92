"""Adams' multistep solver: its weights, its order, and all that solvers promise."""

import numpy as np
import pytest
import tiny
import torch
import yaml
from exact_flows import by_rate, curved, curved_end, start
from numpy.polynomial import Polynomial
from tools import CallCounter, LinearField, randomise, straight, tiny_unet, write_checkpoint

import flowlit
from flowlit._support.batch_invariance import BatchInvariant
from flowlit.couplings import SeededNoise
from flowlit.couplings.noise import seeded_normals
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.errors import FlowlitError, NotFinite
from flowlit.modules import FlowDataModule, Teacher
from flowlit.networks import EmpiricalFlow
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.paths import expand
from flowlit.solvers import Adams, Euler, Midpoint, Ralston
from flowlit.solvers.multistep import adams, adams_weights
from flowlit.types import Solver

BOTH = [Adams(5, order=2), Adams(5, order=3)]
SAMPLES = {"order 2": Adams(9, order=2), "order 3": Adams(9), "warped": Adams(9, rho=0.7)}


def order(solver):
    return f"order-{solver.order}"


# weights


@pytest.mark.parametrize(
    ("times", "weights"),
    [
        ([0.0], [1.0]),
        ([-1.0, 0.0], [-1 / 2, 3 / 2]),
        ([-2.0, -1.0, 0.0], [5 / 12, -16 / 12, 23 / 12]),
        ([0.0, 1.0], [1 / 2, 1 / 2]),
        ([-1.0, 0.0, 1.0], [-1 / 12, 8 / 12, 5 / 12]),
        ([-2.0, -1.0, 0.0, 1.0], [1 / 24, -5 / 24, 19 / 24, 9 / 24]),
        ([0.0, 2 / 3], [1 / 4, 3 / 4]),
    ],
    ids=["Euler", "Bashforth-2", "Bashforth-3", "trapezium", "Moulton-3", "Moulton-4", "Radau"],
)
def test_weights_on_a_uniform_grid_are_those_of_the_textbook(times, weights):
    assert adams_weights(times, 0.0, 1.0) == pytest.approx(weights, abs=1e-15)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_weights_integrate_polynomials_exactly_on_any_grid(num, reverse):
    draws = np.random.default_rng(num)
    times = sorted(draws.random(num).tolist(), reverse=reverse)
    begin, end = times[-1], 0.1 if reverse else 1.7
    polynomial = Polynomial(draws.standard_normal(num))
    found = sum(w * polynomial(t) for w, t in zip(adams_weights(times, begin, end), times, strict=True))
    assert found == pytest.approx(polynomial.integ()(end) - polynomial.integ()(begin), rel=1e-9)


# what it solves


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("wanted", "rho"), [(2, 1.0), (2, 0.7), (2, 1.5), (3, 1.0), (3, 0.7)])
def test_the_error_falls_with_the_order_it_is_told(wanted, rho, reverse):
    x0 = start().clamp(-1, 1)
    first, last = (curved_end(x0), x0) if reverse else (x0, curved_end(x0))
    steps = [64, 128, 256, 512]
    ends = [Adams(n, rho, wanted)(curved, first, reverse=reverse).x1 for n in steps]
    errors = [float((end - last).square().mean().sqrt()) for end in ends]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(wanted, abs=0.2)


@pytest.mark.parametrize("wanted", [2, 3])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_one_step_is_ralstons(wanted, reverse):
    x0 = start() / 2
    found, ralston = (solver(curved, x0, reverse=reverse) for solver in (Adams(1, order=wanted), Ralston(1)))
    assert torch.allclose(found.x1, ralston.x1, rtol=0, atol=1e-7) and torch.equal(found.nfe, ralston.nfe)


@pytest.mark.parametrize("solver", [Adams(1), Adams(2, order=2), Adams(3), Adams(7, rho=2.0)], ids=repr)
def test_a_straight_flow_is_followed_exactly_by_any_number_of_steps(solver):
    x0 = start()
    assert torch.allclose(solver(straight, x0).x1, 3 * x0 + 1, rtol=0, atol=2e-6), (
        "times reach a velocity as float32"
    )
    assert torch.allclose(solver(straight, 3 * x0 + 1, reverse=True).x1, x0, rtol=0, atol=2e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_a_velocity_that_is_a_polynomial_of_time_is_integrated_exactly_once_there_is_a_history(power):
    """The trapezium of the first step is exact for lines; for parabolas its error, Δ³ / 6, is all that there
    is.
    """

    def field(x, t, cond={}):
        return (expand(t, x).to(x.dtype) ** power).expand_as(x)

    x0, expected = start(), 1 / (power + 1) + (0 if power == 1 else (1 / 8) ** 3 / 6)
    assert torch.allclose(Adams(8)(field, x0).x1, x0 + expected, rtol=0, atol=1e-7)


def test_reverse_undoes_forward():
    x0 = start().clamp(-1, 1)
    x1 = Adams(200)(curved, x0).x1
    assert (x1 - x0).abs().max() > 0.04
    assert torch.allclose(Adams(200)(curved, x1, reverse=True).x1, x0, rtol=0, atol=1e-5)


def test_at_equal_cost_it_is_nearer_than_rules_without_a_history():
    x0 = start(16).clamp(-1, 1)
    errors = {
        type(solver): float((solver(curved, x0).x1 - curved_end(x0)).square().mean().sqrt())
        for solver in (Adams(19), Midpoint(10), Euler(20))
    }
    assert errors[Adams] < errors[Midpoint] / 3 < errors[Euler] / 9


def test_the_far_end_is_never_asked():
    """There the exact flow of images has no value, which RK45 and Heun's rule meet."""
    asked = []

    def field(x, t, cond={}):
        asked.append(float(t[0]))
        return curved(x, t)

    Adams(4)(field, start(1))
    assert asked == pytest.approx([0, 1 / 4, 1 / 2, 3 / 4, 11 / 12])
    asked.clear()
    Adams(4)(field, start(1), reverse=True)
    assert asked == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4, 1 / 12])


def test_the_exact_flow_of_one_image_ends_on_it():
    image = torch.full((1, 1, 4, 4), 0.3)
    x0 = seeded_normals([3], range(5), (1, 4, 4))
    for solver in BOTH:
        assert torch.allclose(solver(EmpiricalFlow(image), x0).x1, image.expand_as(x0), atol=1e-5)


# what every solver promises


@pytest.mark.parametrize("wanted", [2, 3])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_nfe_is_one_more_than_steps_and_what_a_counting_wrapper_counts(steps, wanted):
    x0 = start(6, dtype=torch.float32)
    counter = CallCounter(lambda x, t, cond: -expand(cond["id"].float(), x) * x, 6)
    solution = Adams(steps, order=wanted)(counter, x0, counter.cond)
    assert solution.nfe.dtype == torch.int64 and solution.nfe.tolist() == [steps + 1] * 6
    assert torch.equal(solution.nfe, counter.counts)


def test_nfe_counts_a_velocity_that_asks_its_network_twice():
    field = LinearField()
    field.evaluations = 2
    assert Adams(4)(field, start(2, dtype=torch.float32)).nfe.tolist() == [10, 10]


@pytest.mark.parametrize("solver", SAMPLES.values(), ids=SAMPLES)
def test_a_sample_ends_on_the_same_bits_alone_and_in_any_batch(solver):
    network = BatchInvariant(randomise(tiny_unet(), scale=0.15).eval())
    x0 = seeded_normals([1], range(37), (1, 8, 8))
    with torch.inference_mode():
        whole, part = solver(network, x0).x1, solver(network, x0[[30, 4, 17]]).x1
        alone = torch.cat([solver(network, x0[i : i + 1]).x1 for i in (0, 20, 36)])
    assert (whole - x0).std() > 0.05
    assert torch.equal(part, whole[[30, 4, 17]]) and torch.equal(alone, whole[[0, 20, 36]])


@pytest.mark.parametrize("solver", BOTH, ids=order)
def test_a_sample_does_not_feel_a_neighbour_whose_velocity_is_not_finite(solver):
    x0 = start(3, dtype=torch.float32)
    states, alone = [], []
    with pytest.raises(NotFinite, match="1 of 3 generated images are not finite"):
        solver(
            lambda x, t, cond: torch.where(expand(cond["id"], x) == 1, torch.nan, -x),
            x0,
            {"id": torch.arange(3)},
            observe=lambda t, x, v: states.append(x),
        )
    solver(lambda x, t, cond: -x, x0, observe=lambda t, x, v: alone.append(x))
    assert states[-1][1].isnan().all()
    assert torch.equal(torch.stack(states)[:, [0, 2]], torch.stack(alone)[:, [0, 2]])


@pytest.mark.parametrize("solver", BOTH, ids=order)
def test_condition_rows_follow_their_samples(solver):
    x0, rate = start(8, dtype=torch.float32), torch.tensor([0.1, 3, 1.5, 0.5, 2.5, 1, 4, 2])
    together = solver(by_rate, x0, {"rate": rate}).x1
    alone = [solver(by_rate, x0[i : i + 1], {"rate": rate[i : i + 1]}).x1 for i in range(8)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.allclose(solver(by_rate, x0, {"rate": rate.flip(0)}).x1, together, atol=0.01)


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_state_is_float32_at_least(given):
    expected = torch.float64 if given == torch.float64 else torch.float32
    seen = set()

    def field(x, t, cond):
        seen.add((x.dtype, t.dtype))
        return (-x).to(torch.bfloat16)  # a network under autocast

    assert Adams(4)(field, start().to(given)).x1.dtype == expected
    assert seen == {(expected, torch.float32)}


def test_under_autocast_only_the_network_computes_in_bfloat16():
    network, x0 = randomise(tiny_unet(), scale=0.15).eval(), seeded_normals([1], range(4), (1, 8, 8))
    with torch.no_grad():
        exact = Adams(6)(network, x0).x1
        with torch.autocast("cpu", torch.bfloat16):
            rough = Adams(6)(network, x0).x1
    assert (
        rough.dtype == torch.float32
        and 0 < (rough - exact).square().mean().sqrt() < 0.05 * (exact - x0).std()
    )


def test_the_starting_noise_is_left_alone():
    x0 = start(dtype=torch.float32)
    kept = x0.clone()
    Adams(4)(LinearField(), x0)
    assert torch.equal(x0, kept)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("solver", BOTH, ids=order)
def test_observers_see_where_each_velocity_was_evaluated(solver, reverse):
    seen = []
    x0 = start(2) / 2
    solver(curved, x0, observe=lambda t, x, v: seen.append((t, x, v)), reverse=reverse)
    grid = [0, 0.2, 0.4, 0.6, 0.8]
    assert [float(t[0]) for t, _, _ in seen] == pytest.approx([1 - t for t in grid] if reverse else grid)
    assert torch.equal(seen[0][1], x0) and all(t.shape == (2,) for t, _, _ in seen)
    for t, x, v in seen:
        assert torch.allclose(v, curved(x, t), atol=1e-6)


def test_gradients_flow_through_it():
    field, x0 = LinearField(), start(dtype=torch.float32)
    Adams(4)(field, x0).x1.mean().backward()
    nudged = LinearField(c=0.1 + 1e-2)
    with torch.no_grad():
        slope = (Adams(4)(nudged, x0).x1.mean() - Adams(4)(LinearField(), x0).x1.mean()) / 1e-2
    assert float(field.c.grad) == pytest.approx(float(slope), rel=1e-3)


# arguments, names, pairs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number > 0"),
        ({"steps": -3}, "steps is -3; expected a whole number > 0"),
        ({"steps": 4, "rho": 0.0}, "rho is 0.0; expected a finite number > 0"),
        ({"steps": 4, "rho": -1.0}, "rho is -1.0; expected a finite number > 0"),
        ({"steps": 50, "rho": 0.002}, "rho=0.002 makes some of 50 steps empty"),
        ({"steps": 4, "rho": 1e18}, "makes some of 4 steps empty"),
        ({"steps": 4, "order": 1}, "order is 1; expected 2 or 3"),
        ({"steps": 4, "order": 4}, "order is 4; expected 2 or 3"),
    ],
    ids=repr,
)
def test_nonsense_is_refused_before_a_run_begins(arguments, message):
    with pytest.raises(FlowlitError, match=message):
        Adams(**arguments)


@pytest.mark.parametrize("solver", [Adams(3), Adams(12, rho=1.5, order=2)], ids=repr)
def test_it_survives_its_description(solver):
    assert spec(solver)["class_path"] == "flowlit.solvers.Adams"
    assert build(spec(solver), Solver) == solver
    assert identity(solver) != identity(Adams(4))


def test_the_function_takes_a_grid_of_ones_own():
    x0, grid = start().clamp(-1, 1), [0.0, 0.01, 0.05, *np.linspace(0.1, 1, 30).tolist()]
    assert torch.allclose(adams(curved, x0, grid).x1, curved_end(x0), rtol=0, atol=3e-4)


def test_its_short_name_resolves_on_the_command_line(cli):
    few = "{few: {class_path: Adams, init_args: {steps: 8}}}"
    outcome = cli("couple", "-c", "experiments/couple_digits.yaml", "--model.solvers", few, "--print_config")
    assert outcome.code == 0, outcome.err
    found = yaml.safe_load(outcome.out)["model"]["init_args"]["solvers"]["few"]
    arguments = {"steps": 8, "rho": 1.0, "order": 3, "grid": None}
    assert found == {"class_path": "flowlit.solvers.Adams", "init_args": arguments}


def test_couple_makes_its_pairs_whatever_the_batch_size_is(tmp_path):
    network, stores = randomise(tiny_unet(), scale=0.15).eval(), []
    for size in (3, 10):
        model = Teacher(network=network, solvers={"adams": Adams(6)})
        store = str(tmp_path / str(size))
        data = FlowDataModule(noise=SeededNoise((1, 8, 8), 1, seed=0))
        words = {"num": 10, "seed": 7, "shard_size": 5, "batch_size": size, "x0": "float32", "x1": "float32"}
        tiny.trainer(tmp_path, 1).couple(model, data, store=store, **words)
        stores.append(StoredPairs([store]).__getitems__(range(10)))
        manifest = read_manifest(store)
        assert manifest["solver"].items() >= spec(Adams(6)).items()
        assert manifest["nfe"]["min"] == manifest["nfe"]["max"] == 7
    assert torch.equal(stores[0].x1, stores[1].x1)
    with torch.inference_mode():
        assert torch.equal(stores[0].x1, Adams(6)(BatchInvariant(network), stores[0].x0).x1)


def test_a_generator_takes_it(tmp_path):
    path = write_checkpoint(
        tmp_path / "c.ckpt", randomise(tiny_unet(), scale=0.15), solver=spec(Adams(3)), codec=None
    )
    assert flowlit.load(path, "raw").solver == Adams(3)
