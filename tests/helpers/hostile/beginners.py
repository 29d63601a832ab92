"""Mistakes of beginners, in YAML and on the command line: each is one line that says what was meant."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
from commandline import REPOSITORY, Outcome, in_process

from .row import Row, command

RECIPE = REPOSITORY / "experiments/recipes/slimflow_digits.yaml"
NETWORK = "model/init_args/network"
COUPLING = "data/init_args/coupling"
CALLBACKS = "trainer/callbacks"
LISTED = " (flowlit list"

IN_A_YAML: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "a misspelt option of the trainer": (
        "trainer/max_stepps",
        5,
        ("trainer.max_stepps: no such option; did you mean trainer.max_steps?",),
    ),
    "a misspelt key at the top": ("trianer", {"max_steps": 5}, ("did you mean trainer.max_steps?",)),
    "an unknown key of a network": (
        f"{NETWORK}/init_args/widht",
        8,
        ("model.network: 'widht' is not accepted by flowlit.networks.UNet; did you mean width?",),
    ),
    "a key that is like none": (
        f"{NETWORK}/init_args/xyzzy",
        8,
        ("'xyzzy' is not accepted by flowlit.networks.UNet; it has resolution, in_channels, ",),
    ),
    "a misspelt option of a callback": (
        CALLBACKS,
        [{"class_path": "flowlit.callbacks.EMA", "init_args": {"decy": 0.9}}],
        ("'decy' is not accepted by flowlit.callbacks.EMA; did you mean decay?",),
    ),
    "a text for a number": ("trainer/max_steps", "many", ("trainer.max_steps: found many, expected int\n",)),
    "a text for a width": (f"{NETWORK}/init_args/width", "wide", ("model.network.width: found 'wide'",)),
    "a text for a learning rate": (
        "model/init_args/optimizer",
        {"class_path": "torch.optim.Adam", "init_args": {"lr": "fast"}},
        ("model.optimizer.lr: found fast, expected float\n",),
    ),
    "a precision that there is not": (
        "trainer/precision",
        "fp16",
        ("trainer.precision: found fp16, expected one of 64, 32, 16, ", "bf16-mixed"),
    ),
    "a module of flowlit that there is not": (
        f"{NETWORK}/class_path",
        "flowlit.netwroks.UNet",
        ("no attribute 'netwroks'; did you mean flowlit.networks.UNet?",),
    ),
    "a module that does not exist": (
        f"{NETWORK}/class_path",
        "my_net.UNet",
        ("model.network: No module named 'my_net'; if my_net.py is in this folder, put PYTHONPATH=. before",),
    ),
    "a misspelt class": (
        f"{NETWORK}/class_path",
        "flowlit.networks.UNett",
        ("has no attribute 'UNett'; did you mean flowlit.networks.UNet?",),
    ),
    "a misspelt class without its module": (
        "model/init_args/objective",
        "RectifiedFlw",
        ("model.objective: no class RectifiedFlw; did you mean flowlit.objectives.RectifiedFlow?",),
    ),
    "a misspelt module of the model": (
        "model/class_path",
        "flowlit.modules.Techer",
        ("model: ", "did you mean flowlit.modules.Teacher?"),
    ),
    "a class in the wrong package": (
        "data/init_args/noise/class_path",
        "flowlit.data.SeededNoise",
        ("did you mean flowlit.couplings.SeededNoise?",),
    ),
    "a misspelt optimizer": (
        "model/init_args/optimizer",
        {"class_path": "torch.optim.Addam"},
        ("did you mean torch.optim.Adam?",),
    ),
    "an unknown option of an optimizer": (
        "model/init_args/optimizer",
        {"class_path": "torch.optim.Adam", "init_args": {"learning_rate": 1}},
        ("model.optimizer: 'learning_rate' is not accepted by torch.optim.Adam; it has params, lr, ",),
    ),
    "a number for two": (
        "model/init_args/optimizer",
        {"class_path": "torch.optim.Adam", "init_args": {"betas": 0.9}},
        ("model.optimizer.betas: found 0.9, expected a list\n",),
    ),
    "a text for a list": (f"{NETWORK}/init_args/multipliers", "1,2", ("found 1,2, expected a list\n",)),
    "init_arg": (
        NETWORK,
        {"class_path": "flowlit.networks.UNet", "init_arg": {"width": 8}},
        ("did you mean init_args.width?",),
    ),
    "nothing but a name for a class": (
        "model/init_args/lr_scheduler",
        {"foo": {}},
        ("model.lr_scheduler.foo: no such option\n",),
    ),
    "a misspelt reference": (
        "vars",
        {"root": "x", "steps": 3, "other": "${vars.stps}"},
        ("${vars.stps} leads nowhere; did you mean vars.steps?",),
    ),
    "a misspelt logger": (
        "trainer/logger",
        {"class_path": "TensorBordLogger"},
        ("did you mean lightning.pytorch.loggers.TensorBoardLogger?",),
    ),
    "a class of another kind": (
        "model/init_args/objective",
        "flowlit.solvers.Euler",
        ("flowlit.solvers.Euler is no Objective", f"{LISTED} objectives)"),
    ),
    "a network as model": ("model", {"class_path": "flowlit.networks.UNet"}, ("no LightningModule",)),
    "options beside class_path": (
        NETWORK,
        {"class_path": "flowlit.networks.UNet", "width": 8},
        ("model.network: width beside class_path; expected under init_args",),
    ),
    "options of the data beside class_path": (
        "data/batch_size",
        8,
        ("data: batch_size beside class_path; expected under init_args",),
    ),
    "a number for a network": (NETWORK, 3, ("model.network: found 3, expected", f"{LISTED} networks)")),
    "no network": (NETWORK, None, ("model: flowlit.modules.Teacher requires network",)),
    "a module without options": ("model", "Teacher", ("flowlit.modules.Teacher requires network",)),
    "no model": ("model", None, ("required: model, which no file given with -c has",)),
    "a mapping without class_path": (
        COUPLING,
        {"Cached": None, "store": "runs"},
        ("data.coupling: found {'Cached': None", "expected a class_path", f"{LISTED} couplings)"),
    ),
    "a mapping for a list": (
        CALLBACKS,
        {"EMA": {"decay": 0.9}},
        ("trainer.callbacks: found {'EMA': ", "expected a class_path", f"{LISTED} callbacks)"),
    ),
    "a list for a mapping": (
        "model/init_args/solvers",
        ["flowlit.solvers.Euler"],
        ("model.solvers: found ['flowlit.solvers.Euler'], expected names with values",),
    ),
    "a store that is an empty list": (
        COUPLING,
        {"class_path": "flowlit.couplings.Cached", "init_args": {"store": []}},
        ("Cached: store is []",),
    ),
    "unknown dict_kwargs": (
        f"{NETWORK}/dict_kwargs",
        {"widht": 9},
        ("UNet", "unexpected keyword argument 'widht'", "dict_kwargs"),
    ),
    "Lightning's example of a model": (
        "model",
        {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"},
        ("model: found BoringModel", "flowlit list modules"),
    ),
    "Lightning's example of data": (
        "data",
        {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"},
        ("data: found BoringDataModule", "flowlit list modules"),
    ),
    "a model without class_path": ("model", {"network": {}}, ("model: found no class_path",)),
}
"""Place in the YAML of a fit, what stands there, and the words of the error."""

WITHOUT_TRUST: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "an option beside a class": (
        "trainer/callbacks",
        [{"class_path": "flowlit.callbacks.EMA", "decay": 0.9}],
        ("trainer.callbacks: decay beside class_path; expected under init_args",),
    ),
    "a name for a class": (
        "model/init_args/lr_scheduler",
        {"foo": {}},
        ("model.lr_scheduler: found {'foo': {}}, expected a class_path and its init_args\n",),
    ),
    "a class of another package": (
        "trainer/callbacks",
        [{"class_path": "subprocess.Popen", "init_args": {"args": "ls"}}],
        ("trainer.callbacks: subprocess.Popen is refused; ", "--trust"),
    ),
}
"""Likewise, where ``--print_config`` looks at a file that is not trusted, and imports none of its classes."""

HOLLOW = {
    "trianer": "trianer: no such option; did you mean trainer?",
    "vras": "vras: no such option; did you mean vars?",
    "seed_evrything": "seed_evrything: no such option; did you mean seed_everything?",
    "xyzzy": "xyzzy: no such option",
    "trainer/callbakcs": "trainer.callbakcs: no such option; did you mean callbacks?",
    "trainer/loger": "trainer.loger: no such option; did you mean logger?",
    "model/netwrok": "model: netwrok beside class_path; expected under init_args",
    "model/init_args/netwrok": "model.netwrok: no such option; did you mean network?",
    f"{NETWORK}/init_args/widht": "model.network.widht: no such option; did you mean width?",
    f"{NETWORK}/widht": "model.network: widht beside class_path; expected under init_args",
    "data/init_args/nosie": "data.nosie: no such option; did you mean noise?",
    f"{COUPLING}/init_args/imagse": "data.coupling.imagse: no such option; did you mean images?",
    "data/init_args/noise/init_args/sahpe": "data.noise.sahpe: no such option; did you mean shape?",
}
"""Places in the YAML of a fit where ``{}`` stands under a name that nothing has."""

OPTIONS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "an abbreviated option": (
        ["--trainer.max_st", "5"],
        ("unrecognized arguments: --trainer.max_st 5; did you mean --trainer.max_steps?",),
    ),
    "an abbreviated option of the command": (["--resum", "auto"], ("--resum auto; did you mean --resume?",)),
    "an abbreviated option of a class": (["--model.network.widt", "8"], ("did you mean width?",)),
    "an abbreviated option of the model": (["--model.netw.width", "8"], ("did you mean network.width?",)),
    "a misspelt option": (["--trainr.max_steps", "8"], ("did you mean --trainer.max_steps?",)),
    "a misspelt option of a network": (["--model.network.widht", "8"], ("did you mean width?",)),
    "a misspelt option of the data": (["--data.batchsize", "8"], ("did you mean batch_size?",)),
    "an option without its beginning": (["--width", "8"], ("did you mean --model.network.width?",)),
    "an option with a dash inside": (["--trainer.max-steps", "8"], ("did you mean --trainer.max_steps?",)),
    "an option with one dash": (["-trainer.max_steps", "8"], ("did you mean --trainer.max_steps?",)),
    "an option without dashes": (["trainer.max_steps=8"], ("did you mean --trainer.max_steps=8?",)),
    "an option without a value": (["--trainer.max_steps"], ("--trainer.max_steps: expected one argument",)),
    "a misspelt class": (["--model.network", "UNett"], ("did you mean flowlit.networks.UNet?",)),
    "a class in small letters": (["--model.network", "flowlit.networks.unet"], ("did you mean",)),
    "help of a misspelt class": (["--model.help", "Techer"], ("did you mean flowlit.modules.Teacher?",)),
    "a choice of one": (["--resume", "true"], ("resume: found true, expected auto",)),
    "a file that does not exist": (["--model.network", "parts/no.yaml"], ("parts/no.yaml does not exist",)),
    "a text for the trainer": (["--trainer", "gpu"], ("trainer: found gpu, expected a YAML",)),
    "-c without a file": (["-c"], ("-c/--config: expected one argument",)),
}
"""Words after ``fit -c a.yaml``, and those of the error."""

COMMANDS: dict[str, tuple[list[object], tuple[str, ...]]] = {
    "a misspelt command": (["fti"], ("unknown command 'fti'; did you mean fit?",)),
    "a command in capitals": (["FIT"], ("did you mean fit?",)),
    "what a command does": (["train"], ("unknown command 'train'; did you mean fit?",)),
    "what two commands do": (["generate"], ("did you mean validate or sample or predict?",)),
    "a misspelt option of flowlit": (["--hlp"], ("did you mean --help?",)),
    "a misspelt part of a command": (["couplings", "inof"], ("expected one of info", "did you mean info?")),
    "a YAML without -c": (["fit", "a.yaml"], ("unrecognized arguments: a.yaml; did you mean -c a.yaml?",)),
    "help of a class below none": (["fit", "--model.network.help", "UNet"], ("no class is given above it",)),
    "images: a misspelt option": (["images", "x", "--resolutoin", "8"], ("did you mean --resolution?",)),
    "images: an abbreviated option": (["images", "x", "--res", "8"], ("did you mean --resolution?",)),
    "init: a misspelt option": (["init", "x", "--recipie", "y"], ("did you mean --recipe?",)),
    "init: a misspelt recipe": (
        ["init", "{}/x", "--recipe", "slimflow_digit"],
        ("did you mean slimflow_digits?",),
    ),
    "list: a misspelt kind": (["list", "netwroks"], ("no kind netwroks", "did you mean networks?")),
    "completion: a misspelt shell": (["completion", "bahs"], ("found bahs", "did you mean bash?")),
    "average: a misspelt option": (["average", "x", "--sdt", "3"], ("did you mean --std?",)),
    "couple: an abbreviated option": (["couple", "--shard", "8"], ("did you mean --shard_size?",)),
    "couple: a misspelt option": (["couple", "--nmu", "8"], ("did you mean --num?",)),
    "pipeline: a misspelt option": (["pipeline", "-c", RECIPE, "--dry-rnu"], ("did you mean --dry_run?",)),
    "pipeline: an abbreviated option": (["pipeline", "-c", RECIPE, "--dry"], ("did you mean --dry_run?",)),
    "pipeline: a misspelt stage": (
        ["pipeline", "-c", RECIPE, "--dry-run", "--teachr.model.network.width", "8"],
        ("unknown argument '--teachr.", "did you mean teacher?"),
    ),
    "pipeline: a misspelt recipe": (
        ["pipeline", "-c", RECIPE.with_name("slimflow_digit.yaml")],
        ("does not exist", "slimflow_digits.yaml?"),
    ),
    "fit: a misspelt file": (
        ["fit", "-c", RECIPE.parents[1] / "slimflow_digit.yaml"],
        ("does not exist", "experiments/slimflow_digits.yaml?"),
    ),
    **{
        f"{name}: weights for a YAML": ([*words, "{}/x.ckpt"], ("is a file of weights, expected a YAML",))
        for name, words in {
            "fit": ["fit", "-c"],
            "pipeline": ["pipeline", "-c"],
            "doctor": ["doctor", "-c"],
        }.items()
    },
}


def _at(place: str, value: Any, *words: str) -> Callable[[Path], Outcome]:
    """Return an attempt to fit with one value changed, or left out if it is None."""

    def attempt(folder: Path) -> Outcome:
        content = copy.deepcopy(tiny.fit(folder / "run"))
        *above, last = place.split("/")
        node = content
        for key in above:
            node = node[key]
        node[last] = value
        if value is None:
            del node[last]
        (folder / "x.ckpt").write_bytes(b"PK")
        return in_process("fit", "-c", tiny.write(folder / "a.yaml", content), *words)

    return attempt


def _beside_a_checkpoint(words: list[object]) -> Callable[[Path], Outcome]:
    def attempt(folder: Path) -> Outcome:
        (folder / "x.ckpt").write_bytes(b"PK")
        return command(*words)(folder)

    return attempt


ROWS = [
    *(
        Row(f"a YAML with {name}", _at(place, value), words)
        for name, (place, value, words) in IN_A_YAML.items()
    ),
    *(
        Row(f"a YAML without trust with {name}", _at(place, value, "--print_config"), words)
        for name, (place, value, words) in WITHOUT_TRUST.items()
    ),
    *(
        Row(f"a YAML with nothing in {place}{deeper}", _at(place, value), (words,))
        for place, words in HOLLOW.items()
        for deeper, value in (("", {}), (", twice", {"a": {}}))
        if not deeper or "/" not in place
    ),
    *(
        Row(f"fit: {name}", _at("seed_everything", 7, *words), expected)
        for name, (words, expected) in OPTIONS.items()
    ),
    *(Row(name, _beside_a_checkpoint(words), expected) for name, (words, expected) in COMMANDS.items()),
]
