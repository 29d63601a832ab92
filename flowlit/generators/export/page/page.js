// The page: its controls, the grid of seeds, the way between two of them, and the model's card.

import { list } from "./card.js";
import { $, enable, say, seedOf } from "./controls.js";
import { between } from "./noise.js";
import { backends, draw, first, missing } from "./generator.js";

let generator = null;
let turn = 0; // of the last request; an older one stops
let moving = false;

async function start(choices) {
  enable(false);
  const why = missing();
  if (why) return say(why, true);
  try {
    say("The generator is being fetched …");
    const found = await first(choices);
    generator = found.generator;
    $("backend").value = found.backend;
    show(generator.card);
    enable(true);
    say(found.failed ? `Ready, on the processor, since graphics failed (${found.failed}).` : "Ready.");
    await grid();
    await way();
  } catch (error) {
    const other = choices[0] === "webgpu" ? " Choose the processor instead." : "";
    say(`The generator cannot run here (${error.message ?? error}).${other}`, true);
    $("backend").disabled = false;
  }
}

function label(seed) {
  const chosen = $("label").value;
  return chosen === "" ? seed % generator.classes : Number(chosen);
}

function className(number) {
  return generator.card.facts.class_names?.[number] ?? `class ${number}`;
}

// Images of seeds, some at a time, so that the first are soon there.
async function grid() {
  const mine = ++turn;
  const first = seedOf("seed");
  const seeds = Array.from({ length: Number($("count").value) }, (_, i) => first + i);
  const cells = seeds.map(cell);
  $("grid").replaceChildren(...cells.map(({ item }) => item));
  const [channels, height, width] = generator.imageShape;
  const size = channels * height * width;
  let total = 0;
  for (let at = 0; at < seeds.length; at += 4) {
    const part = seeds.slice(at, at + 4);
    const { images, milliseconds } = await generator.run(part.map((seed) => generator.noise(seed)), part.map(label));
    if (mine !== turn) return;
    part.forEach((_, i) => draw(cells[at + i].canvas, images.subarray(i * size, (i + 1) * size), generator.imageShape));
    total += milliseconds * part.length;
    $("speed").textContent = `${(total / (at + part.length)).toPrecision(3)} milliseconds an image, in batches of 4, on the ${$("backend").selectedOptions[0].textContent}`;
  }
  document.body.dataset.done = String(mine);
}

function cell(seed) {
  const item = document.createElement("li");
  const canvas = document.createElement("canvas");
  const text = document.createElement("span");
  const name = generator.classes ? `, ${className(label(seed))}` : "";
  text.textContent = `${seed}${name}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Image of seed ${seed}${name}`);
  item.append(canvas, text);
  return { item, canvas };
}

// The image at the slider's place; while one is made, only the last place waits.
async function way() {
  if (moving) return void (moving = "again");
  moving = true;
  const [from, to] = [seedOf("from"), seedOf("to")];
  const place = Number($("place").value);
  const noises = [between(generator.noise(from), generator.noise(to), place)];
  const { images } = await generator.run(noises, [label(from)]);
  draw($("between"), images, generator.imageShape);
  $("place").setAttribute("aria-valuetext", `${Math.round(100 * place)} % of the way from seed ${from} to seed ${to}`);
  const again = moving === "again";
  moving = false;
  if (again) await way();
}

function show(card) {
  const chosen = $("label").value;
  const options = ["each in turn", ...Array.from({ length: generator.classes }, (_, i) => className(i))];
  $("label").replaceChildren(...options.map((text, i) => new Option(text, i ? String(i - 1) : "")));
  $("label").value = chosen;
  document.querySelector(".labelled").hidden = !generator.classes;
  $("title").textContent = `${card.facts.source?.file ?? "A generator"} in your browser`;
  list($("card"), card);
}

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  grid();
});
$("fresh").addEventListener("click", () => {
  $("seed").value = Math.floor(Math.random() * 1e9);
  grid();
});
for (const id of ["count", "label"]) $(id).addEventListener("change", () => grid());
$("label").addEventListener("change", () => way());
for (const id of ["from", "to", "place"]) $(id).addEventListener("input", () => way());
$("way").addEventListener("submit", (event) => event.preventDefault());
$("backend").addEventListener("change", () => start([$("backend").value]));
backends().then((choices) => {
  $("backends").hidden = choices.length === 1;
  start(choices);
});
