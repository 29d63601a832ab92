"""The page of a network of super-resolution against ``flowlit upscale``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import NODE, RUNTIME, SWIFTSHADER, answers, browsed, in_a_browser
from PIL import Image
from sharper import photo, sharper

from flowlit.data import AveragePool, Bicubic, GaussianNoise
from flowlit.generators.export import enlarging, export, web
from flowlit.generators.tiles import NoiseField, Tiler, mirrored_to
from flowlit.generators.upscaling import upscaler_of

TILES = """
const found = { starts: [], weights: [] };
for (const [length, tile, overlap] of given.lines) {
  found.starts.push(starts(length, tile, overlap));
  found.weights.push(weights(length, tile, overlap).map((row) => [...row]));
}
const image = { data: Float32Array.from(given.image), channels: 2, height: 9, width: 13 };
found.mirrored = [...mirrored(image, 20).data];
found.resized = given.matrices.map(([matrix, scale]) => [...resized(image, matrix, scale).data]);
found.noise = [...new NoiseField(7, 2).at(20, 50, 24)];
console.log(JSON.stringify(found));
"""


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_tiles_noise_and_enlarged_images_of_a_page_are_those_of_python():
    lines = [(16, 16, 4), (40, 16, 4), (101, 32, 8), (33, 8, 3), (50, 8, 0)]
    image = photo(2, 9, 13)
    degradations = (AveragePool(4), Bicubic(2), Bicubic(3, "renormalise"), GaussianNoise(0.1))
    given = {
        "lines": lines,
        "image": image.flatten().tolist(),
        "matrices": [(enlarging.line_of(each), each.scale) for each in degradations],
    }
    names = "NoiseField, mirrored, resized, starts, weights"
    of_page = answers(f"const given = {json.dumps(given)};{TILES}", names, "enlarge.js")
    for (length, tile, overlap), places, rows in zip(
        lines, of_page["starts"], of_page["weights"], strict=True
    ):
        tiler = Tiler(tile, overlap)
        assert places == tiler.starts(length)
        np.testing.assert_allclose(rows, tiler.weights(length), atol=1e-6)
    assert of_page["mirrored"] == mirrored_to(image, 20).flatten().tolist()
    for degradation, values in zip(degradations, of_page["resized"], strict=True):
        np.testing.assert_allclose(values, degradation.enlarge(image[None]).flatten(), atol=1e-5)
    noise = NoiseField(7, 2)(slice(20, 44), slice(50, 74))
    np.testing.assert_allclose(of_page["noise"], noise.flatten(), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_that_enlarges_has_its_files_and_examples(tmp_path, channels):
    facts = {
        "super_resolution": enlarging.task_facts(sharper(channels=channels)),
        "outputs": {"images": {"shape": ["batch", channels, 16, 16]}},
    }
    report = {"facts": facts, "parity": {}, "sha256": "a", "onnx": {}, "bytes": {"export": 9}}
    web.write_page(tmp_path, report, None)
    card = json.loads((tmp_path / "card.json").read_text())
    examples = [each["file"] for each in card["examples"]]
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html",
        *web.UPSCALING[1:],
        "card.json",
        *examples,
    }
    assert "upscaling.js" in (tmp_path / "index.html").read_text() and "CC BY" in card["credit"]
    for name in examples:
        with Image.open(tmp_path / name) as image:
            assert image.size == (40, 40) and image.mode == ("RGB" if channels == 3 else "L")
    assert np.shape(card["facts"]["super_resolution"]["line"]) == (16, 8)


PROBE = """<!doctype html><body></body><script type="module">
import { Enlarger } from "./enlarge.js";
import { load } from "./generator.js";
const send = (body) => fetch("/result", { method: "POST", body: JSON.stringify(body) });
try {
  const frame = document.createElement("iframe");
  frame.style.width = "360px";
  frame.src = "index.html";
  document.body.append(frame);
  const inside = () => frame.contentDocument;
  const $ = (id) => inside().getElementById(id);
  const until = async (ready) => {
    for (let i = 0; i < 600 && !ready(); i++) await new Promise((go) => setTimeout(go, 100));
  };
  await until(() => inside()?.body?.dataset.done);
  const change = async (id, value, event) => {
    const last = inside().body.dataset.done;
    $(id).value = value;
    $(id).dispatchEvent(new Event(event));
    await until(() => inside().body.dataset.done !== last);
    const { width, height } = $("after");
    return [...$("after").getContext("2d").getImageData(0, 0, width, height).data];
  };
  const found = { begin: $("t").value };
  found.faithful = await change("t", "0", "input");
  found.seeded = await change("seed", "5", "change");
  found.realistic = await change("t", "1", "input");
  found.speed = $("speed").textContent;
  const shape = ["scrollWidth", "clientWidth"].map((name) => inside().documentElement[name]);
  found.widths = shape;
  found.card = $("card").textContent;
  found.save = $("save").href;
  const give = async (content, name) => {
    const given = new frame.contentWindow.DataTransfer();
    given.items.add(new frame.contentWindow.File([content], name));
    $("file").files = given.files;
    $("file").dispatchEvent(new Event("change"));
    await until(() => $("status").textContent.startsWith(name));
    return $("status").textContent;
  };
  found.torn = await give("no image", "notes.txt");
  const large = Object.assign(document.createElement("canvas"), { width: 1100, height: 2 });
  found.wide = await give(await new Promise((go) => large.toBlob(go)), "wide.png");
  const enlarger = await load("wasm", Enlarger);
  const image = { data: Float32Array.from(GIVEN), channels: 3, height: 9, width: 23 };
  found.odd = [...(await enlarger.enlarge(image, 11, 0.3)).data];
  found.stopped = await enlarger.enlarge(image, 11, 0.3, async () => false);
  await send(found);
} catch (error) { await send({ error: String(error.stack) }); }
</script>"""


def levels(large):
    return (large * 255).round().int()


@in_a_browser
def test_images_enlarged_in_a_browser_are_those_of_upscale(tmp_path):
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    generator = sharper()
    site = tmp_path / "site"
    export(generator, "web", site, num=4, runtime=Path(RUNTIME))
    odd = photo(3, 9, 23)
    page = PROBE.replace("GIVEN", json.dumps(odd.flatten().tolist()))
    answer = browsed(site, page, tmp_path, "--disable-gpu")
    with Image.open(site / "flower.png") as flower:
        small = torch.from_numpy(np.array(flower)).permute(2, 0, 1) / 255
    for name, t, seed in (("faithful", 0.0, 0), ("seeded", 0.0, 5), ("realistic", 1.0, 5)):
        expected = levels(upscaler_of(generator, t, None, seed=seed)(small))
        shown = torch.tensor(answer[name]).reshape(80, 80, 4)[..., :3].permute(2, 0, 1)
        assert (shown - expected).abs().max() <= 1 and (shown != expected).float().mean() < 0.01, name
    expected = levels(upscaler_of(generator, 0.3, None, seed=11)(odd))
    large = torch.tensor(answer["odd"]).reshape(3, 18, 46)
    assert (large - expected).abs().max() <= 1 and expected.unique().numel() > 50
    assert answer["stopped"] is None and answer["begin"] == "0.5" and answer["save"].startswith("blob:")
    assert "Flower: 40 × 40 → 80 × 80" in answer["speed"] and "49 tiles" in answer["speed"]
    assert answer["widths"][0] <= answer["widths"][1]
    assert "2 times what Bicubic brought down" in answer["card"]
    assert answer["torn"].startswith("notes.txt is no image that this browser can read")
    assert answer["wide"].startswith("wide.png has 1100 × 2 pixels, and this page takes 1024 a side at most")


GRAPHICS = """<!doctype html><script type="module">
import { Enlarger } from "./enlarge.js";
import { load } from "./generator.js";
const send = (body) => fetch("/result", { method: "POST", body: JSON.stringify(body) });
try {
  if (!(await navigator.gpu?.requestAdapter())) await send({ none: true });
  else {
    const enlarger = await load("webgpu", Enlarger);
    const image = { data: Float32Array.from(GIVEN), channels: 3, height: 9, width: 23 };
    await send({ large: [...(await enlarger.enlarge(image, 11, 0.3)).data] });
  }
} catch (error) { await send({ error: String(error.stack) }); }
</script>"""


@in_a_browser
def test_images_enlarged_through_webgpu_are_those_of_upscale(tmp_path):
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    generator = sharper()
    export(generator, "web", tmp_path / "site", num=2, runtime=Path(RUNTIME))
    odd = photo(3, 9, 23)
    page = GRAPHICS.replace("GIVEN", json.dumps(odd.flatten().tolist()))
    answer = browsed(tmp_path / "site", page, tmp_path, *SWIFTSHADER)
    if "none" in answer:
        pytest.skip("this Chromium has no WebGPU adapter")
    expected = levels(upscaler_of(generator, 0.3, None, seed=11)(odd))
    assert (torch.tensor(answer["large"]).reshape(3, 18, 46) - expected).abs().max() <= 1
