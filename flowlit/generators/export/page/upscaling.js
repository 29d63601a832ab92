// The page of a network of super-resolution: an image, before and after, t, and the model's card.

import { list } from "./card.js";
import { $, enable, say, seedOf } from "./controls.js";
import { Enlarger } from "./enlarge.js";
import { backends, draw, first, load, missing } from "./generator.js";

const MOST = 2048; // pixels of a side of a result
let enlarger = null;
let image = null; // as the network takes it, with its name
let turn = 0; // of the last request; an older one stops
let work = Promise.resolve(); // one after the other

async function start(choices) {
  enable(false);
  const why = missing();
  if (why) return say(why, true);
  try {
    say("The network is being fetched …");
    const found = await first(choices, (backend) => load(backend, Enlarger));
    enlarger = found.generator;
    $("backend").value = found.backend;
    if (!$("card").children.length) fill(enlarger.card);
    enable(true);
    say(found.failed ? `Ready, on the processor, since graphics failed (${found.failed}).` : "Ready.");
    await (image ? show() : example());
  } catch (error) {
    const other = choices[0] === "webgpu" ? " Choose the processor instead." : "";
    say(`The network cannot run here (${error.message ?? error}).${other}`, true);
    $("backend").disabled = false;
  }
}

function fill(card) {
  const { scale, t } = card.facts.super_resolution;
  $("title").textContent = `${scale}× larger images in your browser`;
  $("example").replaceChildren(...card.examples.map(({ name, file }) => new Option(name, file)));
  $("credit").textContent = card.credit;
  $("knob").hidden = t === null;
  $("t").value = $("shown").value = t ?? 1;
  list($("card"), card);
}

// Take a file, and enlarge it; what is none is said, and the image before it stays.
async function take(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return say(`${name} is no image that this browser can read; choose a PNG, JPEG or WebP.`, true);
  }
  const { width, height } = bitmap;
  const most = Math.floor(MOST / enlarger.task.scale);
  if (Math.max(width, height) > most) {
    return say(`${name} has ${width} × ${height} pixels, and this page takes ${most} a side at most; make it smaller, or use flowlit upscale.`, true);
  }
  const canvas = $("before");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // under what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const channels = enlarger.shape[0];
  image = { data: planes(context.getImageData(0, 0, width, height).data, channels), channels, height, width, name };
  $("after").hidden = true;
  say("Ready.");
  await show();
}

// Values in [0, 1], (C, H, W), of bytes RGBA; grey is the brightness.
function planes(bytes, channels) {
  const pixels = bytes.length / 4;
  const grey = (i) => (0.299 * bytes[4 * i] + 0.587 * bytes[4 * i + 1] + 0.114 * bytes[4 * i + 2]) / 255;
  return Float32Array.from({ length: channels * pixels }, (_, at) => {
    const i = at % pixels;
    return channels === 1 ? grey(i) : bytes[4 * i + Math.floor(at / pixels)] / 255;
  });
}

async function example() {
  const { value } = $("example");
  if (!value) return say("Ready: choose an image.");
  const answer = await fetch(value);
  if (!answer.ok) return say(`${value} cannot be fetched (${answer.status}).`, true);
  await take(await answer.blob(), $("example").selectedOptions[0].textContent);
}

// Enlarge the image by what the controls say, once what runs has stopped.
function show() {
  const mine = ++turn;
  work = work.then(() => enlarged(mine)).catch((error) => say(`It failed (${error.message ?? error}).`, true));
  return work;
}

async function enlarged(mine) {
  if (mine !== turn || !image) return;
  const seed = seedOf("seed");
  const before = performance.now();
  let number = 0;
  const step = async (done, tiles) => {
    number = tiles;
    $("speed").textContent = `${done} of ${tiles} tiles …`;
    await new Promise((go) => setTimeout(go)); // controls stay awake
    return mine === turn;
  };
  const result = await enlarger.enlarge(image, seed, Number($("t").value), step);
  if (!result || mine !== turn) return;
  draw($("after"), result.data, result.shape);
  $("after").hidden = false;
  const [, height, width] = result.shape;
  const milliseconds = performance.now() - before;
  $("speed").textContent = `${image.name}: ${image.width} × ${image.height} → ${width} × ${height}, ${milliseconds.toFixed(0)} milliseconds for ${number} tile${number === 1 ? "" : "s"}, on the ${$("backend").selectedOptions[0].textContent}`;
  const png = await new Promise((go) => $("after").toBlob(go));
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(png);
  $("save").hidden = false;
  document.body.dataset.done = String(mine);
}

function divide() {
  $("compare").style.setProperty("--at", `${$("divider").value}%`);
}

$("controls").addEventListener("submit", (event) => event.preventDefault());
$("example").addEventListener("change", () => {
  $("file").value = "";
  example();
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (!file) return;
  $("example").selectedIndex = -1; // so that each of them can be chosen again
  take(file, file.name);
});
$("seed").addEventListener("change", show);
$("t").addEventListener("input", () => {
  $("shown").value = $("t").value;
  show();
});
$("divider").addEventListener("input", divide);
$("backend").addEventListener("change", () => start([$("backend").value]));
divide();
backends().then((choices) => {
  $("backends").hidden = choices.length === 1;
  start(choices);
});
