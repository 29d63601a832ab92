// A generator in a page: an ONNX file that flowlit exported, run by onnxruntime-web.

import { noise } from "./noise.js";

// A module of one function that adds vectors, which only browsers with SIMD accept.
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];

export function missing() {
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly, which runs the generator.";
  if (!WebAssembly.validate(new Uint8Array(SIMD))) {
    return "This browser's WebAssembly has no SIMD, which the generator needs. Chrome and Edge have it from version 91, Firefox from 89, Safari from 16.4.";
  }
  return "";
}

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} cannot be fetched (${answer.status} ${answer.statusText})`);
  return answer;
}

// What a promise gives within some seconds; a graphics processor may never answer.
function within(seconds, promise) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`no answer in ${seconds} seconds`)), 1000 * seconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// What can run the generator here, the best first: the graphics processor where pages may use it, then the processor.
// One that is only imitated is slower than the processor.
export async function backends(seconds = 5) {
  let adapter = null;
  try {
    adapter = navigator.gpu ? await within(seconds, navigator.gpu.requestAdapter()) : null;
  } catch {
    // a browser that has WebGPU, and has it switched off
  }
  return adapter && !adapter.info?.isFallbackAdapter ? ["webgpu", "wasm"] : ["wasm"];
}

const FAR = 2; // levels of 255 in the mean; rounding is far below

// Mean difference of bytes from those that the checkpoint made of seed 0 (base64); 0 where these are not given.
function distance(bytes, first) {
  if (!first) return 0;
  const expected = Uint8Array.from(atob(first), (letter) => letter.charCodeAt(0));
  return expected.reduce((sum, value, i) => sum + Math.abs(value - bytes[i]), 0) / expected.length;
}

// The first of several backends that makes the right image here, and in words why those before it did not.
export async function first(choices, make = load, seconds = 60) {
  const failed = [];
  for (const [at, backend] of choices.entries()) {
    const limit = at < choices.length - 1 ? seconds : 1e6;
    try {
      const generator = await within(limit, make(backend));
      const { images } = await within(limit, generator.run([generator.noise(0)], [0]));
      const away = distance(images, generator.card?.first);
      if (away > FAR) throw new Error(`it makes other images, ${away.toPrecision(2)} levels away`);
      return { generator, backend, failed: failed.join("; ") };
    } catch (error) {
      failed.push(`${backend}: ${error.message ?? error}`);
    }
  }
  throw new Error(failed.join("; "));
}

export async function load(backend = "wasm", Kind = Generator) {
  const card = await (await fetched("card.json")).json();
  const base = new URL(card.runtime, document.baseURI).href;
  const ort = await import(new URL(`ort.${backend}.min.mjs`, base).href);
  ort.env.wasm.wasmPaths = base;
  ort.env.wasm.numThreads = 1; // several need headers that plain hosts do not send
  const graph = await (await fetched(card.file)).arrayBuffer();
  const session = await ort.InferenceSession.create(graph, { executionProviders: [backend] });
  return new Kind(card, ort, session);
}

export class Generator {
  constructor(card, ort, session) {
    this.card = card;
    this.ort = ort;
    this.session = session;
    this.shape = card.facts.inputs.noise.shape.slice(1);
    this.size = this.shape.reduce((a, b) => a * b, 1);
    this.classes = card.facts.num_classes;
    this.imageShape = card.facts.outputs.images.shape.slice(1);
  }

  // The noise of one seed, the same as flowlit's in Python.
  noise(seed) {
    return noise(seed, this.size);
  }

  // Images of several noises, as bytes (C, H, W) one after the other, and milliseconds an image.
  async run(noises, labels) {
    const rows = noises.length;
    const all = new Float32Array(rows * this.size);
    noises.forEach((each, row) => all.set(each, row * this.size));
    const inputs = { noise: new this.ort.Tensor("float32", all, [rows, ...this.shape]) };
    if (this.classes) {
      inputs.label = new this.ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [rows]);
    }
    const start = performance.now();
    const { images } = await this.session.run(inputs, ["images"]);
    return { images: images.data, milliseconds: (performance.now() - start) / rows };
  }
}

// Draw one image of bytes (C, H, W) on a canvas.
export function draw(canvas, bytes, [channels, height, width]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const pixels = height * width;
  for (let i = 0; i < pixels; i++) {
    for (let k = 0; k < 3; k++) picture.data[4 * i + k] = bytes[(channels === 3 ? k : 0) * pixels + i];
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}
