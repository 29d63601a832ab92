"""Images are what a viewer shows, all are found, and what is broken is found before the first step."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tiny
from commandline import REPOSITORY, in_process
from pictures import encoded, giant, into_folder, into_zip, noise, turned
from PIL import Image, ImageOps
from tools import classifier_checkpoint

from flowlit.data import ImageFolder, ImageZip
from flowlit.data.listing import Paths
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures
from flowlit.metrics.protocol import read_otherwise
from flowlit.metrics.reference import make_reference

CONTAINERS = pytest.mark.parametrize("container", ["folder", "zip"])


def opened(container, tmp_path, files, **options):
    if container == "folder":
        return ImageFolder(into_folder(tmp_path / "set", files), **options)
    return ImageZip(into_zip(tmp_path / "set.zip", files), **options)


def run(command, tmp_path, root, *words, **options):
    """Run a command on a configuration whose images are a folder."""
    images = {"class_path": "flowlit.data.ImageFolder", "init_args": {"root": str(root), "channels": 1}}
    images["init_args"] |= options
    coupling = {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}
    path = tiny.write(tmp_path / "x.yaml", tiny.fit(tmp_path / "run", coupling=coupling))
    return in_process(command, "-c", path, *words)


@CONTAINERS
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_grey_keeps_its_greys(channels, container, tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    x = opened(container, tmp_path, {"a.png": encoded(ramp)}, channels=channels)[0]["x1"]
    assert all(np.array_equal(channel, ramp >> 8) for channel in x.numpy())


def test_linked_class_folders_are_found(tmp_path):
    into_folder(tmp_path / "store/cat", {f"{i}.png": encoded(Image.new("L", (8, 8))) for i in range(9)})
    root = into_folder(tmp_path / "set", {"dog/0.png": encoded(Image.new("L", (8, 8)))})
    os.symlink(tmp_path / "store/cat", tmp_path / "set/cat")
    images = ImageFolder(root, labels=True)
    assert len(images) == 10 and images.classes == ("cat", "dog")
    assert [int(images[i]["cond"]["label"]) for i in range(10)] == [0] * 9 + [1]


def test_a_truncated_image_is_found_before_the_first_step(tmp_path):
    files = {f"{i:02}.jpg": encoded(noise(8, 8), "JPEG") for i in range(20)}
    root = into_folder(tmp_path / "set", {**files, "13.jpg": files["13.jpg"][:-40]})
    words = "13.jpg is not a readable image"
    assert words in run("fit", tmp_path, root, "--data.num_workers", 2).error
    assert not list(tmp_path.rglob("*.ckpt"))
    report = run("doctor", tmp_path, root).out.splitlines()
    assert any(line.startswith("problem") and words in line for line in report)


@CONTAINERS
def test_transparent_pixels_show_what_a_viewer_shows(container, tmp_path):
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[..., 0] = 255
    picture[2:6, 2:6] = (0, 200, 0, 255)  # invisible red around a green square
    images = opened(container, tmp_path, {"a.png": encoded(picture)})
    assert images[0]["x1"][:, 0, 0].tolist() == [255, 255, 255]
    assert images[0]["x1"][:, 3, 3].tolist() == [0, 200, 0]
    assert "1 transparent over white" in images.summary()


@CONTAINERS
def test_photos_stand_upright(container, tmp_path):
    left_red = np.zeros((8, 8, 3), np.uint8)
    left_red[:, :4, 0] = 255
    file = turned(left_red, 6)
    images = opened(container, tmp_path, {"b.jpg": file})
    (tmp_path / "b.jpg").write_bytes(file)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "b.jpg")))
    np.testing.assert_array_equal(images[0]["x1"].permute(1, 2, 0), seen)
    assert "1 turned upright (EXIF)" in images.summary()


def test_one_image_of_another_size_is_named(tmp_path):
    files = {f"{i:03}.png": encoded(Image.new("L", (8, 8 if i != 41 else 10), i)) for i in range(50)}
    root = into_folder(tmp_path / "set", files)
    fitted = run("fit", tmp_path, root).error
    checkpoint = classifier_checkpoint(tmp_path / "features.ckpt")
    features = [
        "--features",
        "ClassifierFeatures",
        "--features.checkpoint",
        checkpoint,
        "--features.name",
        "x",
    ]
    images = ["--images", "ImageFolder", "--images.root", root, "--images.channels", 1]
    measured = in_process("reference", *images, *features, "--into", tmp_path / "r.npz").error
    for error in (fitted, measured):
        assert "041.png is 8×10 pixels, " in error and "000.png 8×8; resize the images first" in error
        assert f"flowlit images {root} --resolution 8 --into" in error


@CONTAINERS
def test_a_giant_is_refused_by_its_header(container, tmp_path):
    with pytest.raises(FlowlitError, match=r"g.png is not a readable image \(it is too large: .*400000000"):
        len(opened(container, tmp_path, {"g.png": giant()}))


def test_what_was_left_out_is_counted(tmp_path):
    files = {f"{i}.png": encoded(noise(8, 8)) for i in range(20)}
    root = into_folder(tmp_path / "set", {**files, "a.gif": b"", "b.gif": b"", ".c.png": b""})
    note = f"{root}: 20 images; left out: 2 .gif, 1 hidden"
    assert f"flowlit: {note}" in run("fit", tmp_path, root).err
    shown = run("doctor", tmp_path, root).out
    assert "20 PNG, 20 L; left out: 2 .gif, 1 hidden" in shown


def private_bytes():
    """Return the memory of this process that no other shares."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) << 10


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux")
def test_workers_do_not_copy_the_list_of_files(tmp_path):
    """A list of 100,000 paths would be 33 MB more in each worker once it was read."""
    files = Paths(tmp_path, (f"class/{i:08}.png" for i in range(100_000)))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = private_bytes()
        length = sum(len(files.name(i)) for i in range(len(files)))
        os.write(writing, f"{private_bytes() - before} {length}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    grown, length = map(int, os.read(reading, 100).split())
    assert length == 100_000 * len("class/00000000.png")
    assert grown < 3 << 20


def test_a_reference_has_how_its_images_were_read(tmp_path):
    checkpoint = classifier_checkpoint(tmp_path / "features.ckpt")
    features = ClassifierFeatures(checkpoint, "tiny")
    made = {}
    for suffix in ("png", "jpeg"):
        files = {f"{i}.{suffix}": encoded(noise(8, 8) // (i + 1), suffix) for i in range(4)}
        images = ImageFolder(into_folder(tmp_path / suffix, files), channels=1)
        made[suffix] = images, make_reference(images, features, str(tmp_path / f"{suffix}.npz"))
    images, reference = made["jpeg"]
    assert reference.protocol["read"] == {"formats": {"JPEG": 4}, "modes": {"L": 4}, "changes": {}}
    assert read_otherwise(reference, images.facts()) == ""
    assert read_otherwise(reference, made["png"][0].facts()) == "JPEG files 100% there, 0% here"
    del reference.protocol["read"]  # one of before
    assert read_otherwise(reference, made["png"][0].facts()) == ""


@pytest.mark.parametrize("channels", [2, 4])
def test_two_or_four_channels(channels, tmp_path):
    with pytest.raises(FlowlitError, match=f"channels is {channels}; expected 1 or 3"):
        ImageFolder(str(tmp_path), channels=channels)


READER = """
import os, sys
from flowlit.data import ImageZip

def private_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Private_"))

images = ImageZip(sys.argv[1], channels=1)
assert len(images) == 5000 and images[0]["x1"].shape == (1, 1, 1)
if os.fork() == 0:
    first = sum(int(images[i]["x1"]) for i in range(100))
    before = private_bytes()
    others = sum(int(images[i]["x1"]) for i in range(100, 5000))
    print(private_bytes() - before, first + others, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux")
def test_workers_do_not_copy_the_directory_of_a_zip(tmp_path):
    """A directory of 5,000 files of its own would be 3 MB in each worker.

    In a process of its own: pages of other tests would be copied, too.
    """
    file = encoded(Image.new("L", (1, 1)))
    path = into_zip(tmp_path / "set.zip", {f"{i:06}.png": file for i in range(5000)})
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", READER, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    grown, total = map(int, done.stdout.split())
    assert total == 0 and grown < 1 << 20


def test_a_zip_that_became_a_pipe_does_not_block(tmp_path):
    """It was checked, and opened again for its pixels: that waited for ever."""
    path = into_zip(tmp_path / "set.zip", {f"{i}.png": encoded(noise(8, 8)) for i in range(3)})
    images = ImageZip(path)
    assert len(images) == 3
    images = pickle.loads(pickle.dumps(images))  # as a worker has it
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(FlowlitError, match=r"pipe or device|no plain file"):
        images[0]
