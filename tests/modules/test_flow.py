"""Modules introduce networks to objectives and solvers, and their checkpoints say what is in them."""

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from tools import tiny_unet, write_checkpoint

import flowlit
from flowlit.callbacks import EMA, Progress
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Classifier, FlowDataModule, FlowModule, OneStepStudent, ReflowStudent, Teacher
from flowlit.modules.overrides import override
from flowlit.modules.trial import check_conditions
from flowlit.networks import EmpiricalFlow, SmallClassifier, UNet, pretrained
from flowlit.networks.checkpoints.spec import build
from flowlit.objectives import AnnealedReflow, Combined, Distillation, FlowGuided, RectifiedFlow
from flowlit.solvers import Euler, Heun
from flowlit.types import Noise, Pair


def network(**arguments):
    return UNet(**tiny.unet(**arguments)["init_args"])


def data(labels=False, num=8, **arguments):
    noise = SeededNoise(tiny.SHAPE, num, num_classes=10 if labels else 0)
    return FlowDataModule(Independent(Digits(labels=labels)), 16, noise, **arguments)


def trained(tmp_path, module, labels=False, steps=4, callbacks=None):
    """Fit, save, and return the checkpoint."""
    trainer = tiny.trainer(
        tmp_path, steps, [EMA(0.9)] if callbacks is None else callbacks, limit_val_batches=0
    )
    trainer.fit(module, data(labels))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def loss(module, objective):
    """The objective on fixed data and draws."""
    torch.manual_seed(0)
    x1 = Digits().data[0][:256].float() / 127.5 - 1
    with torch.no_grad():
        return float(objective(module.network, Pair(torch.randn_like(x1), x1))["loss"])


def test_the_loss_goes_down(tmp_path):
    torch.manual_seed(0)
    module = Teacher(tiny.Affine(), optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    before = loss(module, RectifiedFlow())
    tiny.trainer(tmp_path, 150, limit_val_batches=0).fit(module, data())
    assert loss(module, RectifiedFlow()) < 0.6 * before


def test_each_stage_has_its_objective():
    assert type(Teacher(tiny.Affine()).objective) is RectifiedFlow
    assert type(ReflowStudent(tiny.Affine()).objective) is AnnealedReflow
    assert type(OneStepStudent(tiny.Affine()).objective) is Distillation
    assert list(OneStepStudent(tiny.Affine()).solvers) == ["euler1"]


def test_the_optimizer_gets_the_network_and_nothing_else(tmp_path):
    module = Teacher(tiny.Affine())
    (player,) = module.configure_optimizers()
    optimizer = player["optimizer"]
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in ours} == {id(p) for p in module.network.parameters()}


def test_the_average_never_trains():
    module = Teacher(network(dropout=0.5))
    module.train()
    assert module.network.training and not module.ema.training
    assert not any(p.requires_grad for p in module.ema.parameters())


def test_generation_uses_the_average_once_there_is_one():
    module = Teacher(tiny.Affine())
    assert module.velocity() is module.network
    module.averages.record("ema", {"updates": 1})
    assert module.velocity() is module.ema


def test_validation_is_generation():
    solvers = {"heun": Heun(2), "euler": Euler(1)}
    module = FlowModule(tiny.Affine(), RectifiedFlow(), solvers=solvers)
    noise = Noise(torch.arange(3), torch.randn(3, *tiny.SHAPE))
    with torch.no_grad():
        generated = module.validation_step(noise, 0)["solutions"]
        for name, solver in solvers.items():
            assert torch.equal(generated[name].x1, solver(module.network, noise.x0).x1)
    assert [int(generated[name].nfe[0]) for name in solvers] == [4, 1]


def test_a_checkpoint_needs_no_code_and_tells_its_network(tmp_path):
    path = trained(tmp_path, Teacher(network()))
    content = torch.load(path, weights_only=True)
    assert content["flowlit"]["network"] == network().spec
    assert content["flowlit"]["ema_updates"] == 4
    again = pretrained(str(path), "raw")
    assert tiny.same(
        again.state_dict(),
        {k.removeprefix("network."): v for k, v in tiny.weights(path).items() if k.startswith("network.")},
    )


def test_load_gives_the_generator_that_was_trained(tmp_path):
    module = OneStepStudent(network())
    generator = flowlit.load(str(trained(tmp_path, module)))
    images = generator.sample(5, seed=3)
    assert images.dtype == torch.uint8 and images.shape == (5, *tiny.SHAPE)
    assert generator.solver == Euler(1)
    x0 = torch.stack([SeededNoise(tiny.SHAPE, 5, 3)[i].x0 for i in range(5)])
    with torch.no_grad():
        jump = x0 + module.ema(x0, torch.zeros(5))
    assert torch.equal(images, module.codec.decode(jump))
    assert torch.equal(images, generator.sample(5, seed=3, batch_size=2))


def test_a_checkpoint_without_average_is_not_silently_raw(tmp_path):
    path = str(trained(tmp_path, Teacher(network()), callbacks=[]))
    with pytest.raises(FlowlitError, match=r"holds no average.*weights: raw"):
        flowlit.load(path)
    assert flowlit.load(path, weights="raw").sample(2).shape == (2, *tiny.SHAPE)


def test_a_users_own_network_is_saved_without_being_pickled(tmp_path):
    path = str(trained(tmp_path, Teacher(tiny.Affine())))
    assert torch.load(path, weights_only=True)["flowlit"]["network"] is None
    with pytest.raises(FlowlitError, match="does not tell how its network is built"):
        pretrained(path)
    own = tiny.Affine()
    assert pretrained(path, network=own) is own
    assert torch.equal(own.drift, tiny.weights(path)["ema.drift"])


def test_guide_and_teacher_are_absent_from_the_checkpoint(tmp_path):
    guide = network(width=12)
    before = {k: v.clone() for k, v in guide.state_dict().items()}
    objective = Combined({"distillation": Distillation(), "two_step": FlowGuided(guide)})
    module = OneStepStudent(network(), objective, optimizer=lambda p: torch.optim.Adam(p, lr=0.1))
    path = trained(tmp_path, module)
    state = tiny.weights(path)
    assert {key.split(".")[0] for key in state} == {"network", "ema"}
    assert len(state) == 2 * len(module.network.state_dict())
    assert tiny.same(before, guide.state_dict()), "the guide was trained"
    assert not guide.training


def test_resuming_another_architecture_tells_keys_and_shapes(tmp_path):
    path = trained(tmp_path, Teacher(network()))
    with pytest.raises(
        FlowlitError,
        match=r"another architecture.*network\.stem\.weight|time\.layers.*\(32, 8\) there, \(48, 12\)",
    ):
        tiny.trainer(tmp_path).fit(Teacher(network(width=12)), data(), ckpt_path=path)


def test_pretrained_tells_missing_and_unknown_keys(tmp_path):
    path = str(trained(tmp_path, Teacher(network())))
    with pytest.raises(
        FlowlitError, match=r"another architecture than Affine.*missing there: .*drift.*unknown here"
    ):
        pretrained(path, network=tiny.Affine())


class Spy(torch.nn.Module):
    """Passes on to a network and notes the labels."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.labels = inner, []

    def forward(self, x, t, cond={}):
        self.labels.append(cond["label"])
        return self.inner(x, t, cond)


def test_class_conditional_training_reaches_every_label(tmp_path):
    torch.manual_seed(0)
    inner = network(num_classes=10, label_dropout=0.3)
    before = inner.label.table.weight.detach().clone()
    module = Teacher(Spy(inner))
    tiny.trainer(tmp_path, 12, limit_val_batches=0).fit(module, data(labels=True))
    assert {int(label) for batch in module.network.labels for label in batch} == set(range(10))
    moved = (inner.label.table.weight - before).abs().sum(1) > 0
    assert len(moved) == 11 and moved.all(), (
        "each class, and the vector for dropped labels, must have been trained"
    )


def test_without_label_dropout_labels_are_required():
    with pytest.raises(FlowlitError, match="conditional on 10 classes, but cond has no 'label'"):
        network(num_classes=10)(torch.randn(2, *tiny.SHAPE), torch.zeros(2))


def test_a_conditional_generator_balances_its_labels(tmp_path):
    generator = flowlit.load(str(trained(tmp_path, Teacher(network(num_classes=10)), labels=True)))
    spy = generator.network = Spy(generator.network)
    spy.inner.requires_grad_(False)
    assert generator.sample(20).shape == (20, *tiny.SHAPE)
    assert spy.labels[0].tolist()[:20] == [*range(10), *range(10)]


def test_an_oracle_needs_no_training():
    images = Digits(limit=20)
    module = FlowModule(EmpiricalFlow(images), RectifiedFlow(), solvers={"heun": Heun(100)})
    noise = Noise(torch.arange(4), torch.randn(4, *tiny.SHAPE))
    made = module.codec.decode(module.solve("heun", noise).x1)
    real = torch.stack([images[i]["x1"] for i in range(20)])
    nearest = (made[:, None].int() - real[None].int()).abs().flatten(2).max(2).values.min(1).values
    assert nearest.max() <= 12  # of 255


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (
            SeededNoise((1, 16, 16), 4),
            r"UNet takes images of shape \(1, 8, 8\), but the shape of data\.noise is \(1, 16, 16\)",
        ),
        (SeededNoise(tiny.SHAPE, 4, num_classes=3), r"knows 0 classes, but num_classes of data\.noise is 3"),
    ],
)
def test_noise_that_the_network_cannot_take_is_refused_before_training(tmp_path, noise, message):
    module = Teacher(network())
    module.training_step = lambda *_: pytest.fail("training began")
    with pytest.raises(FlowlitError, match=message):
        tiny.trainer(tmp_path).fit(module, FlowDataModule(Independent(Digits(labels=False)), 8, noise))


def test_the_classifier_learns_and_reports_its_accuracy(tmp_path):
    torch.manual_seed(0)
    module = Classifier(SmallClassifier(dim=16), optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    images = FlowDataModule(Independent(Digits("train")), 64, validation=Digits("test"))
    trainer = tiny.trainer(tmp_path, 60, check_val_every_n_epoch=None, val_check_interval=60)
    trainer.fit(module, images)
    assert trainer.callback_metrics["val/accuracy"] > 0.8
    module.eval()
    with torch.no_grad():
        x1, labels = Digits("test").data
        right = float((module.network(x1 / 127.5 - 1).argmax(1) == labels).float().mean())
    assert trainer.callback_metrics["val/accuracy"] == pytest.approx(right)


def test_a_classifier_without_labels_is_refused(tmp_path):
    images = FlowDataModule(Independent(Digits(labels=False)), 8)
    with pytest.raises(FlowlitError, match="labels: true"):
        tiny.trainer(tmp_path, limit_val_batches=0).fit(Classifier(SmallClassifier(dim=16)), images)


def test_another_optimizer_cannot_take_up_the_old_ones_state():
    """Its groups and moments were silently those of the checkpoint."""
    before = {"optimizer": {"class_path": "torch.optim.Adam"}}
    now = {"optimizer": {"class_path": "torch.optim.SGD"}}
    checkpoint = {"global_step": 1, "optimizer_states": [{}]}
    with pytest.raises(FlowlitError, match=r"optimizer is torch\.optim\.Adam, now torch\.optim\.SGD"):
        override(checkpoint, [None], [before], [now])


def test_new_arguments_of_a_scheduler_beat_the_checkpoint():
    """Schedulers keep their arguments in their state, which won silently."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    step = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 10, "gamma": 0.5}}
    module = Teacher(network(), lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 99, 0.5))
    checkpoint = {
        "global_step": 7,
        "optimizer_states": [{"param_groups": [{"lr": 1e-3, "params": [0]}]}],
        "lr_schedulers": [{"step_size": 10, "gamma": 0.5, "last_epoch": 7}],
    }
    changed = {**step, "init_args": {"step_size": 99, "gamma": 0.5}}
    before, now = ({"optimizer": adam, "lr_scheduler": scheduler} for scheduler in (step, changed))
    override(checkpoint, [module], [before], [now])
    (state,) = checkpoint["lr_schedulers"]
    assert {"step_size": 99, "gamma": 0.5, "last_epoch": 7}.items() <= state.items()


def test_a_label_the_network_does_not_know_is_told():
    """It reached the embedding, which answers with an IndexError."""
    with pytest.raises(FlowlitError, match="labels run from 1 to 3, but the network knows 3 classes"):
        network(num_classes=3)(torch.zeros(2, 1, 8, 8), torch.zeros(2), {"label": torch.tensor([1, 3])})


@pytest.mark.parametrize("path", ["torchvision.models.resnet18", "torch.optim.Adam", "no.such.thing"])
def test_a_checkpoint_cannot_name_anything_but_a_network(path):
    """Functions that return a module were called."""
    with pytest.raises(FlowlitError, match="which a checkpoint names"):
        build({"class_path": path, "init_args": {}}, torch.nn.Module)


def test_a_pretrained_network_is_trained_with_its_dropout(tmp_path):
    """``pretrained`` gives networks in eval mode, and Lightning leaves modes as it finds them."""
    path = write_checkpoint(tmp_path / "student.ckpt", tiny_unet(dropout=0.5))
    modes = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.append((pl_module.network.training, pl_module.ema.training))

    network = pretrained(path, "raw")
    assert not network.training
    module = Teacher(network)
    tiny.trainer(tmp_path, 2, [Look()], limit_val_batches=0).fit(
        module, datamodule=FlowDataModule(Independent(Digits(labels=False)), batch_size=8)
    )
    assert modes == [(True, False)] * 2


def test_a_conditional_network_needs_labels_to_train_with(tmp_path):
    """With label_dropout it would train without them, and its labels would mean nothing."""
    module = Teacher(tiny_unet(num_classes=10, label_dropout=0.2))
    data = FlowDataModule(Independent(Digits(labels=False)), batch_size=8)
    with pytest.raises(FlowlitError, match="10 classes, but the training data brings no labels"):
        tiny.trainer(tmp_path, 2, limit_val_batches=0).fit(module, datamodule=data)


class Reader(tiny.Affine):
    """Declares the conditions that it reads."""

    reads = frozenset({"label", "lr", "r"})


def test_conditions_that_the_network_reads_and_the_data_lacks_are_named():
    """The second time is the objective's to draw; what else is there is the network's to refuse."""
    with pytest.raises(FlowlitError, match=r"Reader reads lr, but the conditions .* data are none"):
        check_conditions(Reader(), {})
    check_conditions(Reader(), {"lr": torch.zeros(2, 1, 8, 8), "text": torch.zeros(2, 3)})
    check_conditions(tiny.Affine(), {})


def test_conditions_are_compared_before_the_first_step(tmp_path):
    with pytest.raises(FlowlitError, match=r"Reader reads lr.*training data are label; use a coupling"):
        tiny.trainer(tmp_path, 2, limit_val_batches=0).fit(Teacher(Reader()), data(labels=True))


@pytest.mark.parametrize(("bar", "handed"), [(TQDMProgressBar(), True), (Progress(), False)])
def test_only_a_foreign_bar_is_handed_the_loss_of_every_step(tmp_path, bar, handed):
    module = Teacher(tiny.Affine())
    trainer = tiny.trainer(tmp_path, 2, [bar], limit_val_batches=0, enable_progress_bar=True)
    trainer.fit(module, data())
    assert ("train/loss" in trainer.progress_bar_metrics) == handed
    assert "train/loss" in trainer.callback_metrics
