"""The page of a generator: its files, its noise, and its pixels in headless Chromium against PyTorch's."""

import json
import subprocess
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import NODE, PAGE, RUNTIME, SWIFTSHADER, answers, browsed, in_a_browser
from tools import randomise, tiny_unet

from flowlit.commands import demo
from flowlit.couplings.noise import seeded_normals
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export import export, web
from flowlit.generators.export import write as writing
from flowlit.solvers import Euler

REPORT = {
    "facts": {"inputs": {}},
    "parity": {},
    "sha256": "a" * 64,
    "onnx": {"opset": 18},
    "bytes": {"checkpoint": None, "export": 9},
}


def test_a_page_is_whole_and_fetches_the_runtime_from_where_it_is(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    web.write_page(site, REPORT, None)
    assert json.loads((site / "card.json").read_text())["runtime"].startswith("https://")
    assert {path.name for path in site.iterdir()} == {*web.PAGE, "card.json"}
    for name in web.PAGE:
        assert "http://" not in (site / name).read_text()
    runtime = tmp_path / "package" / "dist"
    runtime.mkdir(parents=True)
    with pytest.raises(FlowlitError, match=r"lacks ort\.wasm\.min\.mjs; expected .*npm pack onnxruntime-web"):
        web.runtime_in(tmp_path)
    for name in web.RUNTIME:
        (runtime / name).write_text(name)
    other = tmp_path / "other"
    other.mkdir()
    web.write_page(other, REPORT, web.runtime_in(tmp_path))
    assert json.loads((other / "card.json").read_text())["runtime"] == "./runtime/"
    assert {path.name for path in (other / "runtime").iterdir()} == set(web.RUNTIME)


def test_what_make_fetches_is_what_a_page_needs():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    words = makefile.replace("\\\n", " ").partition("\nFILES := ")[2].partition("\n")[0].split()
    assert tuple(words) == web.RUNTIME
    assert makefile.partition("\nWEB := ")[2].partition("\n")[0] in web.CDN


def test_a_runtime_without_its_files_a_site_that_exists_and_colours_that_none_can_see(tmp_path):
    generator = Generator(tiny_unet(in_channels=2), Euler(1), Pixels())
    with pytest.raises(FlowlitError, match="2 channels; a page shows 1"):
        export(generator, "web", tmp_path / "site")
    with pytest.raises(FlowlitError, match=r"lacks ort\.wasm"):
        export(generator, "web", tmp_path / "site", runtime=tmp_path)
    (tmp_path / "site").mkdir()
    with pytest.raises(FlowlitError, match="site exists"):
        export(generator, "web", tmp_path / "site")
    assert not any((tmp_path / "site").iterdir())


def test_a_disk_that_is_full_in_the_middle_of_a_page_leaves_nothing(tmp_path, monkeypatch):
    generator = Generator(randomise(tiny_unet(), 1), Euler(1), Pixels())

    def full(folder, report, runtime, first):
        (folder / "index.html").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writing.WRITERS, "web", lambda generator, facts, file: {"x": file.write_bytes(b"1")})
    monkeypatch.setitem(writing.RUNNERS, "web", lambda file: writing.original(generator))
    monkeypatch.setattr(writing, "write_page", full)
    with pytest.raises(FlowlitError, match="No space left on device"):
        export(generator, "web", tmp_path / "site", num=1)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_runtime_is_for_pages(cli, tmp_path):
    words = ("export", "x.safetensors", "--to", "onnx", "--into", tmp_path / "a.onnx", "--runtime", tmp_path)
    assert "--runtime is for --to web" in cli(*words).error


def test_a_demo_is_served_to_this_machine_alone(tmp_path):
    (tmp_path / "a.mjs").write_text("1")
    with demo.served(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert demo.Handler.extensions_map[".mjs"] == "text/javascript"
        with pytest.raises(FlowlitError, match=f"--port {server.server_address[1]} cannot be served"):
            demo.served(tmp_path, server.server_address[1])
    with pytest.raises(FlowlitError, match="--port 99999 cannot be served"):
        demo.served(tmp_path, 99999)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_noise_of_a_page_is_that_of_python(seed):
    """All but the last bit of a few numbers beyond 3.65, where logarithms are rounded differently."""
    size = 20_000
    code = (
        f"import {{ noise }} from {json.dumps(str(PAGE / 'noise.js'))};"
        f"process.stdout.write(new Uint8Array(noise({seed}n, {size}).buffer));"
    )
    done = subprocess.run([NODE, "--input-type=module", "-e", code], capture_output=True, check=True)
    found = np.frombuffer(done.stdout, np.float32)
    expected = seeded_normals([seed], [0], (size,))[0].numpy()
    assert (found != expected).mean() < 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_a_page_takes_the_graphics_processor_where_it_can_and_says_what_a_browser_lacks():
    code = """
    const gpu = (requestAdapter) => {
      const value = requestAdapter ? { gpu: { requestAdapter } } : {};
      Object.defineProperty(globalThis, "navigator", { value, configurable: true });
    };
    const make = (bad) => async (backend) => {
      const run = async () => { if (bad.includes(backend)) throw new Error(`no ${backend}`); return {}; };
      return { noise: (seed) => [seed], run };
    };
    const pick = async (...bad) => {
      const { backend, failed } = await first(["webgpu", "wasm"], make(bad));
      return [backend, failed];
    };
    const found = {};
    gpu(); found.none = await backends();
    gpu(async () => null); found.noAdapter = await backends();
    gpu(async () => { throw new Error("off"); }); found.off = await backends();
    gpu(() => new Promise(() => {})); found.silent = await backends(0.05);
    gpu(async () => ({ info: { isFallbackAdapter: true } })); found.imitated = await backends();
    gpu(async () => ({})); found.adapter = await backends();
    found.best = await pick();
    found.second = await pick("webgpu");
    found.neither = await pick("webgpu", "wasm").catch((error) => error.message);
    const stuck = async (backend) => {
      const run = () => new Promise((go) => { if (backend === "wasm") go({}); });
      return { noise: (seed) => [seed], run };
    };
    const { backend, failed } = await first(["webgpu", "wasm"], stuck, 0.05);
    found.stuck = [backend, failed];
    const right = (levels) => async (backend) => ({
      noise: (seed) => [seed],
      run: async () => ({ images: new Uint8Array([7, 9 + (backend === "webgpu" ? levels : 0)]) }),
      card: { first: btoa(String.fromCharCode(7, 9)) },
    });
    const chosen = async (levels) => {
      const { backend, failed } = await first(["webgpu", "wasm"], right(levels));
      return [backend, failed];
    };
    found.rounded = await chosen(1);
    found.wrong = await chosen(9);
    found.here = missing();
    globalThis.WebAssembly = { validate: () => false }; found.noSIMD = missing();
    globalThis.WebAssembly = undefined; found.noWASM = missing();
    console.log(JSON.stringify(found));
    """
    found = answers(code)
    for without in ("none", "noAdapter", "off", "silent", "imitated"):
        assert found[without] == ["wasm"], without
    assert found["rounded"] == ["webgpu", ""]
    assert found["wrong"] == ["wasm", "webgpu: it makes other images, 4.5 levels away"]
    assert found["stuck"] == ["wasm", "webgpu: no answer in 0.05 seconds"]
    assert found["adapter"] == ["webgpu", "wasm"] and found["best"] == ["webgpu", ""]
    assert found["second"] == ["wasm", "webgpu: no webgpu"]
    assert found["neither"] == "webgpu: no webgpu; wasm: no wasm"
    assert found["here"] == ""
    assert found["noWASM"] == "This browser has no WebAssembly, which runs the generator."
    assert (
        "has no SIMD, which the generator needs. Chrome and Edge have it from version 91" in found["noSIMD"]
    )


PROBE = """<!doctype html><script type="module">
import { draw, load, missing } from "./generator.js";
import { between } from "./noise.js";
const send = (body) => fetch("/result", { method: "POST", body: JSON.stringify(body) });
try {
  const generator = await load("wasm");
  const seeds = [0, 1, 7, 4294967303];
  const noises = seeds.map((seed) => generator.noise(seed));
  const { images } = await generator.run(noises, [0, 1, 2, 0]);
  const frame = document.createElement("iframe");
  frame.style.width = "900px";
  frame.src = "index.html";
  document.body.append(frame);
  const inside = () => frame.contentDocument;
  const pause = () => new Promise((go) => setTimeout(go, 100));
  for (let i = 0; i < 600 && !inside()?.body?.dataset.done; i++) await pause();
  const canvases = [...inside().querySelectorAll("#grid canvas")];
  const pixels = canvases.map((each) => [...each.getContext("2d").getImageData(0, 0, 8, 8).data]);
  const card = inside().querySelector("#card");
  card.append(...Array.from({ length: 2 }, () => card.querySelector("dd").cloneNode(true)));
  const lefts = [...card.querySelectorAll("dd")].map((each) => each.getBoundingClientRect().left);
  await send({
    columns: new Set(lefts).size,
    missing: missing(), images: [...images], pixels,
    names: canvases.map((each) => each.getAttribute("aria-label")),
    status: inside().querySelector("#status").textContent,
    card: inside().querySelector("#card").textContent,
    options: [...inside().querySelectorAll("#label option")].map((each) => each.textContent),
  });
} catch (error) { await send({ error: String(error) }); }
</script><body></body>"""


@in_a_browser
def test_pixels_in_a_browser_are_those_of_pytorch(tmp_path):
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    network = randomise(tiny_unet(multipliers=(1,), attention_resolutions=(), num_classes=3), 1)
    generator = Generator(network, Euler(1), Pixels(), class_names=("cat", "dog", "emu"))
    site = tmp_path / "site"
    export(generator, "web", site, num=4, runtime=Path(RUNTIME), licence="Apache-2.0")
    answer = browsed(site, PROBE, tmp_path, "--disable-gpu")
    assert answer["missing"] == "" and answer["status"] == "Ready."
    expected = generator.sample(seeds=[0, 1, 7, 2**32 + 7], labels=[0, 1, 2, 0])
    first = b64decode(json.loads((site / "card.json").read_text())["first"])
    assert first == expected[0].numpy().tobytes()
    found = torch.tensor(answer["images"]).reshape(expected.shape)
    assert (found - expected.int()).abs().max() <= 1
    assert (found != expected.int()).float().mean() < 0.01
    shown = torch.tensor(answer["pixels"]).reshape(16, 64, 4)[:, :, 0].reshape(16, 1, 8, 8)
    assert (shown - generator.sample(seeds=list(range(16))).int()).abs().max() <= 1
    assert answer["names"][4] == "Image of seed 4, dog"
    assert answer["columns"] == 1
    assert answer["options"] == ["each in turn", "cat", "dog", "emu"]
    assert "Apache-2.0" in answer["card"]


GRAPHICS = """<!doctype html><script type="module">
import { backends, load } from "./generator.js";
const send = (body) => fetch("/result", { method: "POST", body: JSON.stringify(body) });
try {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) await send({ none: true });
  else {
    const generator = await load("webgpu");
    const { images } = await generator.run([0, 5].map((seed) => generator.noise(seed)), []);
    await send({ images: [...images], chosen: await backends() });
  }
} catch (error) { await send({ error: String(error) }); }
</script>"""


class Waves(torch.nn.Module):
    """Convolutions and norms of few shapes, each of which a graphics processor compiles anew."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.last = torch.nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x, t, cond={}):
        return self.last(torch.nn.functional.silu(self.norm(self.first(x))))


@in_a_browser
def test_pixels_of_webgpu_are_those_of_pytorch(tmp_path):
    """By SwiftShader, which imitates a graphics processor slowly, so that no page takes it by itself."""
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    generator = Generator(randomise(Waves(), 1), Euler(1), Pixels())
    site = tmp_path / "site"
    export(generator, "web", site, num=2, runtime=Path(RUNTIME))
    answer = browsed(site, GRAPHICS, tmp_path, *SWIFTSHADER)
    if "none" in answer:
        pytest.skip("this Chromium has no WebGPU adapter")
    expected = generator.sample(seeds=[0, 5]).int()
    found = torch.tensor(answer["images"]).reshape(expected.shape)
    assert (found - expected).abs().max() <= 1 and expected.unique().numel() > 20
    assert answer["chosen"] == ["wasm"]
