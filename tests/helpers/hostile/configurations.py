"""Hostile YAMLs, recipes, class paths and words of a command line."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from commandline import REPOSITORY

from flowlit.commands._line.items import with_items
from flowlit.commands._line.limits import check_seed
from flowlit.commands._line.words import as_folder, check_vars, check_words, configs
from flowlit.commands._yaml import load_yaml, network_in, read_yaml
from flowlit.commands._yaml.trust import check_class_paths, without_trust
from flowlit.commands.pipeline.recipe import Recipe

from .row import Row, command


def _laughs(first: str, more: str) -> str:
    """Ten times ten times ten …: a few lines that describe 10^9 values."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} {more.format(before)}")
    return "\n".join(lines)


LISTS = _laughs("[x, x, x, x, x, x, x, x, x, x]", "[" + ", ".join(["*{0}"] * 10) + "]")
MAPPINGS = _laughs("{p: x, q: x}", "{{" + ", ".join(f"k{i}: *{{0}}" for i in range(10)) + "}}")
CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "aliases of lists that grow exponentially": (LISTS, "more than 100,000 values"),
    "aliases of mappings that grow exponentially": (MAPPINGS, "more than 100,000 values"),
    "a list that contains itself": ("a: &a [*a]", "&a contains itself"),
    "a mapping that contains itself": ("a: &a {b: *a}", "&a contains itself"),
    "a value that contains its own grandparent": ("a: &a {b: {c: [*a]}}", "&a contains itself"),
    "a key twice": ("root: x\nstages: {}\nroot: y", "line 3: 'root' is given twice"),
    "an inner key twice": ("a: {b: 1, c: {d: 1, d: 2}}", "'d' is given twice"),
    "a key twice, once in quotes": ("a: 1\n'a': 2", "line 2: 'a' is given twice"),
    "a tag of Python": ("a: !!python/object/apply:os.system [ls]", "a tag"),
    "a tag of a Python name": ("a: !!python/name:os.system ''", "a tag"),
    "a tag of a set": ("a: !!set {x}", "a tag"),
    "a tag of one's own": ("a: !mine x", "a tag, !mine"),
    "an unknown alias": ("a: *nothing", "line 1"),
    "tabs": ("a:\n\t- b", "line 2, column 1"),
    "an open bracket": ("a: [1, 2", "line 2"),
    "an open quote": ("a: 'b", "line 1"),
    "two colons": ("a: b: c", "line 1, column 5"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "lists a hundred thousand deep": ("a: " + "[" * 100_000, "nest"),
    "mappings a hundred deep": ("".join(" " * i + "a:\n" for i in range(100)), "nested deeper than 64"),
    "a number of ten thousand digits": ("a: " + "9" * 10_000, "integer"),
    "a zero byte": (b"a: \0", "is not valid YAML"),
    "Latin-1": ("a: größe".encode("latin-1"), "is not UTF-8"),
    "UTF-16": ("a: b".encode("utf-16"), "is not UTF-8"),
    "random bytes": (bytes(range(128, 256)), "is not UTF-8"),
    "a PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not UTF-8"),
    "an octal number": ("trainer: {max_steps: 010}", "010 is read as the number 8"),
    "a negative octal number in a list": ("a: [1, -010]", "-010 is read as the number -8"),
    "minutes and seconds": ("a:\n  b: 1:30", "line 2: 1:30 is read as the number 90"),
    "hours with a fraction": ("a: 01:30.5", "01:30.5 is read as the number 90.5"),
    "an octal number as a key": ("010: a", "010 is read as the number 8"),
    "a list as a key": ("? [a]\n: b", "unhashable"),
}


def _growing(first: str, item: str, more: str) -> str:
    """Ten references to ten references to ten …; ``more`` is a value that has ten items."""
    lines = [f"a: {first}"]
    for before, name in pairwise("abcdefghi"):
        lines.append(f"{name}: {more.format((item % before) * 10)}")
    return "\n".join(lines)


REFERENCES = {
    "a text that grows exponentially by references": (
        _growing("x", "${%s}", '"{}"'),
        "more than 1,000,000 characters",
    ),
    "a list that grows exponentially by references": (
        _growing("[x]", "'${%s}', ", "[{}]"),
        "more than 1,000,000 characters",
    ),
    "a text that grows by references with spaces": (
        _growing("x", "${ %s }", '"{}"'),
        "more than 1,000,000 characters",
    ),
    "a text that grows by a number": (
        _growing("0x" + "f" * 40_000, "${%s}", '"{}"'),
        "more than 1,000,000 characters",
    ),
    **{
        f"references written as {form}": (_growing("x", form, '"{}"'), "references are ${dotted.name}")
        for form in ("${oc.select:%s}", "${${%s}}", "${oc.decode:%s}", "${'%s'}", "${%s")
    },
    "references in a circle": ("vars: {a: '${vars.b}', b: '${vars.a}'}", "lead back to themselves"),
    "a reference to itself": ("vars: {a: '${vars.a}'}", "lead back to themselves"),
    "relative references in a circle": ("vars: {a: '${.b}', b: 'x${.a}'}", "lead back to themselves"),
    "a reference to what it stands in": ("model: {a: {b: '${model}'}}", "lead back to themselves"),
    "references in a long chain": (
        "vars:\n" + "\n".join(f"  a{i}: '${{vars.a{i + 1}}}'" for i in range(2000)),
        "more than 32 deep",
    ),
}

FORMS: dict[str, tuple[str, str]] = {
    "nothing": ("", "empty"),
    "only a comment": ("# later\n", "empty"),
    "only null": ("null\n", "empty"),
    "a list": ("- a\n- b\n", "list"),
    "a text": ("hello\n", "str"),
    "a number": ("42\n", "int"),
    "true": ("true\n", "bool"),
}


def _nothing(folder: Path) -> Path:
    return folder / "missing.yaml"


def _folder(folder: Path) -> Path:
    (folder / "a.yaml").mkdir()
    return folder / "a.yaml"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.yaml")
    return folder / "a.yaml"


def _giant(folder: Path) -> Path:
    with open(folder / "a.yaml", "wb") as file:
        file.truncate(1 << 30)
    return folder / "a.yaml"


def _loop(folder: Path) -> Path:
    (folder / "a.yaml").symlink_to(folder / "a.yaml")
    return folder / "a.yaml"


def _long(folder: Path) -> Path:
    return folder / ("a" * 300 + ".yaml")


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a missing file": (_nothing, "missing.yaml"),
    "a folder": (_folder, "is a folder"),
    "a pipe": (_pipe, "is a pipe or a device"),
    "a device without an end": (lambda folder: Path("/dev/zero"), "is a pipe or a device"),
    "a gigabyte": (_giant, "1,073,741,824 bytes"),
    "a link to itself": (_loop, "cannot be read"),
    "a name that is too long": (_long, "cannot be read"),
}

Reader = Callable[[Path], Any]
READERS: dict[str, Reader] = {
    "a YAML": load_yaml,
    "a configuration": read_yaml,
    "a configuration given with -c": lambda path: configs(["fit", "-c", str(path)]),
    "a network": network_in,
    "a recipe": lambda path: Recipe.read(str(path)),
    "a layer on the command line": lambda path: _layer(str(path)),
}


def _layer(name: str) -> Any:
    check_words(["fit", "--model.network", name])
    return load_yaml(name)


def _reading(reader: Reader, content: str | bytes) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "a.yaml").write_bytes(data)
        return reader(folder / "a.yaml")

    return attempt


def _opening(reader: Reader, make: Callable[[Path], Path]) -> Callable[[Path], Any]:
    return lambda folder: reader(make(folder))


def _recipe(content: dict[str, Any]) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        (folder / "a.yaml").write_text("a: 1\n")
        (folder / "r.yaml").write_text(yaml.safe_dump(content).replace("{}/", f"{folder}/"))
        recipe = Recipe.read(str(folder / "r.yaml"))
        plans = recipe.plans()
        recipe.check(plans)
        return plans

    return attempt


def _stage(text: str) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        (folder / "a.yaml").write_text(text)
        (folder / "r.yaml").write_text(yaml.safe_dump(_stages(config=f"{folder}/a.yaml")))
        return Recipe.read(str(folder / "r.yaml")).plans()

    return attempt


STAGE = {"command": "fit", "config": "{}/a.yaml", "writes": "a/b"}


def _stages(**changes: Any) -> dict[str, Any]:
    return {"root": "{}/root", "stages": {"s": {**STAGE, **changes}}}


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "no root": ({"stages": {}}, "expected root and stages"),
    "no stages": ({"root": "r"}, "expected root and stages"),
    "an unknown key": ({"root": "r", "stages": {}, "tabel": []}, "tabel"),
    "a root that is a number": ({"root": 20251105, "stages": {}}, "root is 20251105"),
    "a root that is nothing": ({"root": None, "stages": {}}, "root is None"),
    "a root that is empty": ({"root": "", "stages": {}}, "root is ''"),
    "stages in a list": ({"root": "r", "stages": [STAGE]}, "expected a mapping"),
    "a stage that is a text": ({"root": "r", "stages": {"s": "fit"}}, "stage s"),
    "a stage that is a list": ({"root": "r", "stages": {"s": ["fit"]}}, "stage s"),
    "a stage that is nothing": ({"root": "r", "stages": {"s": None}}, "stage s"),
    "a stage whose name is a number": ({"root": "r", "stages": {1: STAGE}}, "stage 1"),
    "a stage without a command": (
        {"root": "r", "stages": {"s": {"config": "a", "writes": "a/b"}}},
        "command",
    ),
    "an unknown command": (_stages(command="rm"), "'rm'"),
    "a pipeline in a pipeline": (_stages(command="pipeline"), "'pipeline'"),
    "an option as a command": (_stages(command="--help"), "'--help'"),
    "a command that is a number": (_stages(command=1), "command"),
    "an unknown field": (_stages(confg="x"), "confg"),
    "needs that are a text": (_stages(needs="t"), "needs"),
    "needs of a later stage": (_stages(needs=["t"]), "needs ['t']"),
    "options in a list": (_stages(options=["a"]), "options"),
    "options that are a text": (_stages(options="a"), "options"),
    "a config that is a number": (_stages(config=1), "config"),
    "a config that does not exist": (_stages(config="{}/no.yaml"), "no.yaml does not exist"),
    "a result above the root": (_stages(writes="../a/b"), "below the root"),
    "a result elsewhere": (_stages(writes="/etc/a"), "below the root"),
    "a result without a folder": (_stages(writes="b"), "a folder of the stage"),
    "an empty result": (_stages(writes=""), "a folder of the stage"),
    "two stages in one folder": ({"root": "r", "stages": {"s": STAGE, "t": STAGE}}, "the same folder"),
    "a table of texts": (_stages() | {"table": ["a"]}, "table"),
    "a table that is a text": (_stages() | {"table": "a"}, "table"),
    "no stage": ({"root": "r", "stages": {}}, "stages is empty"),
    "a row of an unknown stage": (
        _stages(command="test") | {"table": [{"model": "m", "stage": "nope", "solver": "x"}]},
        "'nope'; expected one whose command is validate or test: one of s",
    ),
    "a row of a stage that trains": (
        _stages() | {"table": [{"model": "m", "stage": "s", "solver": "x"}]},
        "'s'; expected one whose command is validate or test",
    ),
    "a row without a solver": (_stages() | {"table": [{"model": "m", "stage": "s"}]}, "solver"),
    "images that are missing": (_stages(options={"data.images.root": "{}/photos"}), "photos"),
    "a checkpoint that is missing": (_stages(options={"ckpt_path": "{}/a.ckpt"}), "a.ckpt"),
    "couplings that are missing": (_stages(options={"data.store": "{}/elsewhere"}), "elsewhere"),
    "a reference that is missing": (_stages(options={"trainer.reference": "{}/r.npz"}), "r.npz"),
}

CLASS_PATHS = [
    *("os.system", "posix.system", "subprocess.run", "subprocess.Popen", "builtins.eval", "builtins.exec"),
    *("builtins.open", "builtins.__import__", "importlib.import_module", "pickle.load", "pickle.loads"),
    *("shutil.rmtree", "pathlib.Path.unlink", "socket.socket", "urllib.request.urlopen", "runpy.run_path"),
    *("ctypes.CDLL", "multiprocessing.Process", "webbrowser.open", "numpy.load", "yaml.unsafe_load"),
    *("torch.hub.load", "torch.load", "torch.save", "torch.jit.load", "torch.serialization.load"),
    *("torch.package.PackageImporter", "torch.multiprocessing.spawn", "torch.utils.cpp_extension.load"),
    *(
        "torch.ops.load_library",
        "timm.create_model",
        "timm.models.load_checkpoint",
        "torch.utils.collect_env.run",
        "torch.classes.load_library",
        "torchvision.datasets.utils.download_url",
        "lightning.fabric.utilities.cloud_io._load",
        "lightning.pytorch.LightningModule.load_from_checkpoint",
        "torch.nnx.Linear",
        "flowlit._support.files.move",
        "flowlit.commands.main",
        "lightning.pytorch.cli.LightningCLI",
    ),
    *("mine.Net", "torchevil.Net", "flowlitx.Net", "safetensors.torch.load_file", "PIL.Image.open"),
    *("${vars.a}.Net", "Torch.nn.Linear", "..os.system", " os.system"),
]

WORDS: dict[str, tuple[list[str], str]] = {
    "aliases in a word": (["fit", "--a", LISTS], "more than 100,000 values"),
    "a word that contains itself": (["fit", "--a", "&a [*a]"], "contains itself"),
    "a key twice in a word": (["fit", "--a", "{b: 1, b: 2}"], "twice"),
    "a key twice after an equals sign": (["fit", "--a={b: 1, b: 2}"], "twice"),
    "a word of brackets": (["fit", "--a", "[" * 70 + "]" * 70], "nested deeper"),
    "an octal number in a word": (["fit", "--a", "{b: 010}"], "010 is read as the number 8"),
    "a tag in a word": (["fit", "--a", "[!!python/name:os.system '']"], "a tag"),
}

LISTED = [{"trainer": {"callbacks": [{"class_path": "a.B", "init_args": {"c": 1}}, "a.C"], "sizes": [1, 2]}}]
ITEMS: dict[str, tuple[list[str], str]] = {
    "an item that is not there": (["--trainer.callbacks.2.c", "1"], "list 2 there, numbered from 0"),
    "an item of a number": (["--trainer.sizes.0.c", "1"], "has no options, it is 1"),
    "an item of an option that is a number": (["--trainer.callbacks.0.c.d", "1"], "has no options, it is 1"),
    "an item of a list given anew": (
        ["--trainer.sizes", "[3]", "--trainer.sizes.0", "1"],
        "gives the whole list",
    ),
    "an item with a key twice": (["--trainer.callbacks.0", "{a: 1, a: 2}"], "twice"),
}

RECIPE = REPOSITORY / "experiments/recipes/slimflow_digits.yaml"
ROOTS = {"a colon": ("a: b", "YAML reads it as"), "an item": ("- a: b", "YAML reads it as")}


def _class_path(path: str) -> Callable[[Path], Any]:
    return lambda folder: check_class_paths({"model": [{"class_path": path}]}, "a.yaml")


def _trusting(*words: str) -> Callable[[Path], Any]:
    return lambda folder: without_trust(list(words), looks=False)


ROWS = [
    *(
        Row(f"{reader}: {name}", _reading(READERS[reader], content), ("a.yaml", words))
        for reader in READERS
        for name, (content, words) in CONTENTS.items()
    ),
    *(
        Row(f"{reader}: {name}", _reading(READERS[reader], content), ("a.yaml", words))
        for reader in ("a configuration given with -c", "a network")
        for name, (content, words) in REFERENCES.items()
    ),
    *(
        Row(f"{reader}: {name}", _reading(READERS[reader], content), ("a.yaml",))
        for reader in ("a configuration", "a configuration given with -c", "a network", "a recipe")
        for name, (content, _) in FORMS.items()
    ),
    *(
        Row(f"{reader}: {name}", _opening(READERS[reader], make), () if "missing" in name else (words,))
        for reader in READERS
        for name, (make, words) in FILES.items()
    ),
    *(Row(f"a recipe with {name}", _recipe(content), (words,)) for name, (content, words) in RECIPES.items()),
    *(
        Row(f"a stage with {name}", _stage(text), ("stage s", words))
        for name, (text, words) in REFERENCES.items()
    ),
    *(Row(f"untrusted: {path}", _class_path(path), (path, "--trust")) for path in CLASS_PATHS),
    *(
        Row(f"words: {name}", lambda folder, words=words: check_words(words), ("--a", text))
        for name, (words, text) in WORDS.items()
    ),
    *(
        Row(f"items: {name}", lambda folder, words=words: with_items(["-c", "a", *words], LISTED), (text,))
        for name, (words, text) in ITEMS.items()
    ),
    *(
        Row(f"a root with {name}", lambda folder, word=word: as_folder(word), (text,))
        for name, (word, text) in ROOTS.items()
    ),
    *(Row(f"{name} --trust", _trusting(name, "--trust"), ("--trust",)) for name in ("fit", "couple", "test")),
    Row("fit: a missing file", command("fit", "-c", "{}/missing.yaml"), ("missing.yaml", "does not exist")),
    Row("fit: a folder", command("fit", "-c", "{}"), ("is a folder",)),
    Row("fit: an unknown option", command("fit", "--nonsense", "1"), ("nonsense",)),
    Row("cost: a folder", command("cost", "{}"), ("is a folder",)),
    Row("pipeline: a missing recipe", command("pipeline", "-c", "{}/no.yaml"), ("no.yaml does not exist",)),
    Row("pipeline: no recipe", command("pipeline"), ("--config",)),
    Row("pipeline: an unknown stage", command("pipeline", "-c", RECIPE, "--x.y", "1"), ("--x.y",)),
    Row("an unknown command", command("fits"), ("'fits'",)),
]
ROWS += [
    Row("fit: nothing at all", command("fit"), ("give -c CONFIG",)),
    Row("fit: a recipe", command("fit", "-c", RECIPE), ("is a recipe: flowlit pipeline -c",)),
    Row("init: a zero byte", command("init", "{}/\0"), ("zero byte",)),
    Row("a seed of nothing", lambda folder: check_seed(None), ("seed_everything is None",)),
    Row(
        "a variable that no file has",
        lambda folder: check_vars(["fit", "--vars.x", "3"], [{}]),
        ("--vars.x",),
    ),
]
