"""Several students as one network: each row is that of its class's student, and of no other."""

import pytest
import torch
import yaml
from texts import Hashed, Reader
from tools import randomise, tiny_unet, write_checkpoint
from torch import nn

import flowlit
from flowlit._support.batch_invariance import BLOCK, BatchInvariant
from flowlit.commands._line.untrained import fresh_network
from flowlit.commands.convert import convert
from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.metrics.cost import count_macs
from flowlit.modules import FlowModule
from flowlit.networks import ClassifierFreeGuidance, Router, pretrained
from flowlit.networks.checkpoints.fingerprint import fingerprint, identity
from flowlit.networks.checkpoints.spec import spec
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler, Heun

NAMES = ("cat", "dog", "emu")


class Constant(nn.Module):
    """v = a number of its own, which has a gradient; counts its rows, and keeps its labels."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))
        self.rows = 0
        self.labels = []

    def forward(self, x, t, cond={}):
        self.rows += len(x)
        self.labels += cond.get("label", torch.tensor([])).tolist()
        return torch.zeros_like(x) + self.value


def net(seed, **arguments):
    return randomise(tiny_unet(**{"num_classes": 3, **arguments}), seed)


def inputs(*labels):
    torch.manual_seed(0)
    x = torch.randn(len(labels), 1, 8, 8)
    return x, torch.linspace(0, 0.9, len(labels)), {"label": torch.tensor(labels)}


def test_each_row_reaches_the_student_of_its_class_once():
    students = [Constant(1), Constant(2), Constant(3)]
    router = Router(students, [[0, 3], [1], [2, 4]])
    labels = [4, 0, 1, 3, 2, 1, 0]
    velocities = router(*inputs(*labels))
    assert velocities[:, 0, 0, 0].tolist() == [3, 1, 2, 1, 3, 2, 1]
    assert [student.rows for student in students] == [3, 2, 2]
    assert [student.labels for student in students] == [[0, 3, 0], [1, 1], [4, 2]]
    assert (router.num_classes, router.evaluations, router.reads) == (5, 1, {"label"})


def test_rows_times_and_conditions_stay_together():
    students = [net(1), net(2)]
    x, t, cond = inputs(2, 0, 1, 1, 2)
    velocities = Router(students, [[1], [0, 2]])(x, t, cond)
    for i, k in enumerate([1, 1, 0, 0, 1]):
        alone = students[k](x[i : i + 1], t[i : i + 1], {"label": cond["label"][i : i + 1]})
        torch.testing.assert_close(velocities[i : i + 1], alone)


def test_a_student_without_labels_gets_none():
    students = [net(1, num_classes=0), net(2)]
    x, t, cond = inputs(0, 1, 2, 0)
    velocities = Router(students, [[0], [1, 2]])(x, t, cond)
    torch.testing.assert_close(velocities[[0, 3]], students[0](x[[0, 3]], t[[0, 3]]))


def test_students_of_the_batch_alone_get_gradients():
    students = [Constant(1), Constant(2), Constant(3)]
    Router(students, [[0], [1], [2]])(*inputs(0, 2, 0))[:, 0, 0, 0].sum().backward()
    assert [student.value.grad and float(student.value.grad) for student in students] == [2, None, 1]


def test_a_single_student_is_no_router_to_the_bit():
    network = net(1)
    router = Router([network], [[0, 1, 2]])
    one, other = (Generator(each, Heun(2), Pixels()) for each in (router, network))
    assert torch.equal(one.sample(7, seed=3), other.sample(7, seed=3))
    noise = one.noise([1, 2, 3])
    ours, theirs = (each.solve(noise, labels=[2, 0, 1]) for each in (one, other))
    assert torch.equal(ours.x1, theirs.x1) and torch.equal(ours.nfe, theirs.nfe)


def test_an_image_is_the_same_in_any_batch():
    generator = Generator(Router([net(1), net(2)], [[0, 2], [1]]), Euler(2), Pixels())
    noise = generator.noise(range(40))
    labels = [i % 3 for i in range(40)]
    whole = generator.solve(noise, labels=labels).x1
    for rows in ([0], [1], [4, 5, 6], list(range(17))):
        part = generator.solve(noise[rows], labels=[labels[i] for i in rows]).x1
        assert torch.equal(part, whole[rows])


def test_blocks_are_those_of_each_student():
    students = [Constant(1), Constant(2)]
    BatchInvariant(Router(students, [[0], [1]]))(*inputs(*[0] * 20, 1))
    assert [student.rows for student in students] == [2 * BLOCK, BLOCK]


def named(network, names=NAMES):
    network.class_names = names
    return network


def test_what_is_saved_is_loaded_to_the_bit(tmp_path):
    generator = Generator(Router([named(net(1)), named(net(2))], [[0, 2], [1]]), Euler(1), Pixels())
    generator.save(tmp_path / "g.safetensors")
    convert(tmp_path / "g.safetensors", into=tmp_path / "again.safetensors")
    for file in ("g", "again"):
        loaded = flowlit.load(tmp_path / f"{file}.safetensors")
        assert torch.equal(loaded.sample(9, seed=3), generator.sample(9, seed=3))
        assert identity(loaded.network) == identity(generator.network)
        assert (loaded.num_classes, loaded.class_names, loaded.shape) == (3, NAMES, (1, 8, 8))
    images = generator.sample(4, seed=1, label="dog")
    assert torch.equal(loaded.sample(4, seed=1, label="dog"), images)


SOLVER = {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 1}}


def yaml_of(path, files, solvers={"euler1": SOLVER}, **arguments):
    students = [
        {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": str(file), **arguments}}
        for file in files
    ]
    network = {
        "class_path": "flowlit.networks.Router",
        "init_args": {"students": students, "classes": [[0, 2], [1]]},
    }
    path.write_text(yaml.safe_dump({"model": {"init_args": {"network": network, "solvers": solvers}}}))
    return path


def checkpoints(tmp_path):
    return [
        write_checkpoint(tmp_path / f"{k}.ckpt", net(k), net(k + 5), class_names=list(NAMES)) for k in (1, 2)
    ]


def test_checkpoints_of_students_become_one_file(tmp_path):
    files = checkpoints(tmp_path)
    out = convert(yaml_of(tmp_path / "r.yaml", files), into=tmp_path / "r.safetensors")
    assert "Router(students=" in out[0]
    loaded = flowlit.load(tmp_path / "r.safetensors")
    students = [pretrained(file) for file in files]
    assert [fingerprint(each) for each in loaded.network.students] == list(map(fingerprint, students))
    assert (loaded.solver, loaded.class_names) == (Euler(1), NAMES)
    expected = Generator(students[1], Euler(1), Pixels()).sample(3, seed=2, label=1)
    assert torch.equal(loaded.sample(3, seed=2, label=1), expected)


def test_a_router_of_files_is_not_fresh(tmp_path):
    students = [pretrained(file) for file in checkpoints(tmp_path)]
    router = Router(students, [[0], [1, 2]])
    assert router.loaded["file"] == ", ".join(student.loaded["file"] for student in students)
    assert fresh_network(FlowModule(router, RectifiedFlow())) == ""
    assert Router([net(1), students[0]], [[0], [1, 2]]).loaded is None
    assert fresh_network(FlowModule(Router([net(1), net(2)], [[0], [1, 2]]), RectifiedFlow())) == "Router"


@pytest.mark.parametrize(
    ("solvers", "message"),
    [(None, "solvers is None; expected a solver"), ({}, "expected a solver to generate")],
)
def test_a_router_without_a_solver_is_refused(tmp_path, solvers, message):
    path = yaml_of(tmp_path / "r.yaml", checkpoints(tmp_path), solvers)
    with pytest.raises(FlowlitError, match=message):
        convert(path, into=tmp_path / "r.safetensors")
    assert not (tmp_path / "r.safetensors").exists()


def test_a_yaml_of_fresh_weights_is_refused(tmp_path):
    network = {"class_path": "flowlit.networks.Router", "init_args": {"students": [spec(net(1))]}}
    network["init_args"]["classes"] = [[0, 1, 2]]
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"network": network, "solvers": {"a": SOLVER}}}}))
    with pytest.raises(FlowlitError, match="its network has fresh weights; expected parts that are read"):
        convert(path, into=tmp_path / "r.safetensors")


def test_it_costs_what_a_student_costs():
    assert count_macs(Router([net(1), net(2)], [[0], [1, 2]])) == count_macs(net(1))
    guided = [ClassifierFreeGuidance(net(k, label_dropout=0.1), 2.0) for k in (1, 2)]
    generator = Generator(Router(guided, [[0], [1, 2]]), Euler(3), Pixels())
    assert generator.solve(generator.noise([0, 1]), labels=[0, 1]).nfe.tolist() == [6, 6]


def coded(network, codec):
    network.codec = codec
    return network


TWO = [[0], [1, 2]]
WRONG = {
    "a class that is missing": (
        lambda: Router([net(1), net(2)], [[0], [2]]),
        "class 1 has no student, and class 2",
    ),
    "a class with two students": (
        lambda: Router([net(1), net(2)], [[0, 1], [1, 2]]),
        "class 1 is student 0's and student 1's; give it to one",
    ),
    "a class that is there twice": (
        lambda: Router([net(1)], [[0, 1, 2, 2]]),
        "class 2 is student 0's and student 0's",
    ),
    "a student without classes": (
        lambda: Router([net(1), net(2)], [[0, 1, 2], []]),
        "expected a list of classes",
    ),
    "a list too few": (lambda: Router([net(1), net(2)], [[0, 1, 2]]), "found 2 students and classes"),
    "no students": (lambda: Router([], []), "found 0 students"),
    "a class below 0": (lambda: Router([net(1)], [[-1, 0]]), "Router: classes is"),
    "students of other shapes": (
        lambda: Router([net(1), net(2, in_channels=3)], TWO),
        r"shape of student 1: \(3, 8, 8\), of student 0: \(1, 8, 8\); expected equal",
    ),
    "students of another number of classes": (
        lambda: Router([net(1), net(2, num_classes=2)], TWO),
        "student 1 knows 2 classes, but those of all students are 3; expected 3, or 0",
    ),
    "students with other conditions": (
        lambda: Router([net(1), net(2, second_time=True)], TWO),
        "conditions of student 1: r, of student 0: none",
    ),
    "students of another cost": (
        lambda: Router([net(1), ClassifierFreeGuidance(net(2, label_dropout=0.1), 2.0)], TWO),
        "evaluations of student 1: 2, of student 0: 1",
    ),
    "students of other codecs": (
        lambda: Router([coded(net(1), {"class_path": "a"}), coded(net(2), {"class_path": "b"})], TWO),
        "codec of student 1",
    ),
    "students of other names": (
        lambda: Router([named(net(1)), named(net(2), ("dog", "cat", "emu"))], TWO),
        r"class_names of student 1: \('dog', 'cat', 'emu'\), of student 0: \('cat'",
    ),
    "no labels": (
        lambda: Router([net(1), net(2)], TWO)(*inputs(0, 1)[:2]),
        "cond has no 'label', which chooses the student; give labels",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_together_is_one_clear_error(make, message):
    with pytest.raises(FlowlitError, match=message):
        make()


def test_a_student_that_says_nothing_fits_all():
    router = Router([coded(net(1), None), coded(named(net(2)), spec(Patches()))], TWO)
    assert router.codec == spec(Patches()) and router.class_names == NAMES


# prompts

PROMPTS = ["cat", "dog", "emu"]


def reader(seed):
    network = Reader(seed)
    network.text_encoder = {**Hashed().spec, "fingerprint": Hashed().fingerprint}
    return network


def of_prompts():
    return Router([reader(1), reader(2)], [[0, 2], [1]], PROMPTS)


def test_a_row_goes_to_the_student_of_the_nearest_prompt():
    router = of_prompts()
    assert (router.reads, router.num_classes) == ({"text"}, 0)
    x, t, _ = inputs(0, 1, 2, 1)
    text = Hashed()(["emu", "dog", "cat", "dog"])
    text = text + 0.1 * torch.randn(text.shape, generator=torch.Generator().manual_seed(1))
    velocities = router(x, t, {"text": text})
    for i, k in enumerate([0, 1, 0, 1]):
        alone = router.students[k](x[i : i + 1], t[i : i + 1], {"text": text[i : i + 1]})
        torch.testing.assert_close(velocities[i : i + 1], alone)
    with pytest.raises(FlowlitError, match="cond has no 'text', which chooses the student; give prompts"):
        router(x, t)


def test_students_of_prompts_become_one_file_that_needs_no_encoder_to_choose(tmp_path):
    generator = Generator(of_prompts(), Euler(1), Pixels())
    generator.save(tmp_path / "g.safetensors")
    loaded = flowlit.load(tmp_path / "g.safetensors")
    assert torch.equal(loaded.network.centres, Hashed()(PROMPTS))
    images = loaded.sample(6, seed=2, prompts=PROMPTS)
    assert torch.equal(images, generator.sample(6, seed=2, prompts=PROMPTS))
    alone = Generator(reader(2), Euler(1), Pixels()).sample(6, seed=2, prompts=PROMPTS)
    assert torch.equal(images[1::3], alone[1::3]) and not torch.equal(images[0::3], alone[0::3])


def other(fingerprint):
    network = reader(1)
    network.text_encoder["fingerprint"] = fingerprint
    return network


@pytest.mark.parametrize(
    ("students", "prompts", "message"),
    [
        (lambda: [reader(1), reader(2)], PROMPTS[:2], "2 prompts, and classes up to 2"),
        (lambda: [net(k, num_classes=0) for k in (1, 2)], PROMPTS, "student 0 has no null_text"),
        (
            lambda: [other("x"), other("x")],
            PROMPTS,
            "has other weights or another vocabulary than in training",
        ),
        (lambda: [other("x"), reader(2)], PROMPTS, "text encoder of student 1"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(students, prompts, message):
    with pytest.raises(FlowlitError, match=message):
        Router(students(), [[0, 2], [1]], prompts)


def test_fresh_students_have_no_embeddings_to_choose_by():
    router = Router([Reader(1), Reader(2)], [[0], [1]], ["cat", "dog"])
    x, t, _ = inputs(0)
    with pytest.raises(FlowlitError, match="its prompts have no embeddings"):
        router(x, t, {"text": Hashed()(["cat"])})
