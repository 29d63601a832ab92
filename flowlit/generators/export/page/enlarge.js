// Images of any size by a network of super-resolution: tiles of one size, blended, as flowlit upscale makes them.

import { Generator } from "./generator.js";
import { noise } from "./noise.js";

const BLOCK = 32; // pixels of a side of the squares in which noise is drawn
const AT_ONCE = 4; // tiles

// Halves become even, as in Python.
function rounded(x) {
  const below = Math.floor(x);
  return x - below > 0.5 || (x - below === 0.5 && below % 2) ? below + 1 : below;
}

// First pixels of the tiles along a side.
export function starts(length, tile, overlap) {
  const more = Math.max(0, length - tile);
  const steps = Math.ceil(more / (tile - overlap));
  return steps ? Array.from({ length: steps + 1 }, (_, step) => rounded((step * more) / steps)) : [0];
}

// Weights of the tiles along a side, which sum to 1 at each pixel: 0 in the margin, then rising as sin².
export function weights(length, tile, overlap) {
  const margin = Math.floor(overlap / 4);
  const ramp = overlap - 2 * margin;
  const rise = Float64Array.from({ length: tile }, (_, i) => {
    const place = i + 0.5 - margin;
    if (!ramp) return place > 0 ? 1 : 0;
    return Math.sin((Math.PI / 2) * Math.min(Math.max(place / ramp, 0), 1)) ** 2;
  });
  const places = starts(length, tile, overlap);
  const last = places.length - 1;
  const rows = places.map((_, k) => rise.map((up, i) => (k > 0 ? up : 1) * (k < last ? rise[tile - 1 - i] : 1)));
  const total = new Float64Array(Math.max(length, tile));
  rows.forEach((row, k) => row.forEach((weight, i) => (total[places[k] + i] += weight)));
  return rows.map((row, k) => row.map((weight, i) => weight / total[places[k] + i]));
}

// The noise of pixels, which are the same wherever tiles overlap.
export class NoiseField {
  constructor(seed, channels) {
    this.seed = seed;
    this.channels = channels;
    this.blocks = new Map();
  }

  block(y, x) {
    const number = y * 2 ** 24 + x;
    if (!this.blocks.has(number)) this.blocks.set(number, noise(this.seed, this.channels * BLOCK * BLOCK, number));
    return this.blocks.get(number);
  }

  // Of a square (channels, side, side).
  at(top, left, side) {
    return cut(this.channels, side, (k, row, column) => {
      const block = this.block(Math.floor((top + row) / BLOCK), Math.floor((left + column) / BLOCK));
      return block[(k * BLOCK + ((top + row) % BLOCK)) * BLOCK + ((left + column) % BLOCK)];
    });
  }
}

function cut(channels, side, value) {
  const part = new Float32Array(channels * side * side);
  let i = 0;
  for (let k = 0; k < channels; k++) {
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) part[i++] = value(k, row, column);
    }
  }
  return part;
}

// An image {data (C, H, W), channels, height, width} whose sides have some pixels at least, mirrored at its edges.
export function mirrored({ data, channels, height, width }, least) {
  const [high, wide] = [Math.max(height, least), Math.max(width, least)];
  const inside = (i, side) => Math.min(i % (2 * side), 2 * side - 1 - (i % (2 * side)));
  const result = new Float32Array(channels * high * wide);
  for (let k = 0, i = 0; k < channels; k++) {
    for (let y = 0; y < high; y++) {
      const row = (k * height + inside(y, height)) * width;
      for (let x = 0; x < wide; x++) result[i++] = data[row + inside(x, width)];
    }
  }
  return { data: result, channels, height: high, width: wide };
}

// What each pixel of an enlarged line is made of, [place, weight]: the matrix has it for a line of a few pixels.
function taps(length, matrix, scale) {
  const few = matrix[0].length;
  const half = Math.floor(few / 2);
  return Array.from({ length: length * scale }, (_, out) => {
    const at = Math.floor(out / scale);
    const shift = Math.min(Math.max(at - half, 0), length - few);
    return matrix[out - shift * scale].map((weight, i) => [i + shift, weight]).filter(([, weight]) => weight);
  });
}

// An image brought to size, as the degradation that the network inverts does it.
export function resized({ data, channels, height, width }, matrix, scale) {
  const [down, across] = [taps(height, matrix, scale), taps(width, matrix, scale)];
  const wide = Float64Array.from({ length: channels * height * across.length }, (_, i) => {
    const row = Math.floor(i / across.length) * width;
    return across[i % across.length].reduce((sum, [place, weight]) => sum + weight * data[row + place], 0);
  });
  const size = { channels, height: down.length, width: across.length };
  const result = new Float32Array(channels * size.height * size.width);
  for (let k = 0, i = 0; k < channels; k++) {
    for (const parts of down) {
      for (let x = 0; x < size.width; x++) {
        let sum = 0;
        for (const [place, weight] of parts) sum += weight * wide[(k * height + place) * size.width + x];
        result[i++] = sum;
      }
    }
  }
  return { data: result, ...size };
}

// A network of super-resolution in a page.
export class Enlarger extends Generator {
  constructor(card, ort, session) {
    super(card, ort, session);
    this.task = card.facts.super_resolution;
    this.field = null;
  }

  // Tiles (C, tile, tile) one after the other, before they are rounded or as bytes.
  async run(noises, _, images = noises.map((each) => new Float32Array(each.length)), t = 1, output = "images") {
    const rows = noises.length;
    const joined = (parts) => {
      const all = new Float32Array(rows * this.size);
      parts.forEach((part, row) => all.set(part, row * this.size));
      return new this.ort.Tensor("float32", all, [rows, ...this.shape]);
    };
    const inputs = { noise: joined(noises), image: joined(images) };
    if (this.task.t !== null) inputs.t = new this.ort.Tensor("float32", new Float32Array(rows).fill(t), [rows]);
    const results = await this.session.run(inputs, [output]);
    return { images: results[output].data };
  }

  // An image with values in [0, 1], enlarged: bytes (C, H, W), or null if it was not wanted to the end.
  async enlarge(image, seed, t, step = () => true) {
    const { scale, tile, overlap, line } = this.task;
    const least = Math.max(line[0].length, Math.ceil(tile / scale));
    const large = resized(mirrored(image, least), line, scale);
    const { channels, height, width } = large;
    if (this.field?.seed !== seed) this.field = new NoiseField(seed, channels);
    const [down, across] = [weights(height, tile, overlap), weights(width, tile, overlap)];
    const [tops, lefts] = [starts(height, tile, overlap), starts(width, tile, overlap)];
    const tiles = tops.flatMap((top, row) => lefts.map((left, column) => ({ top, left, row, column })));
    const total = new Float64Array(channels * height * width);
    for (let at = 0; at < tiles.length; at += AT_ONCE) {
      if (!(await step(at, tiles.length))) return null;
      const part = tiles.slice(at, at + AT_ONCE);
      const noises = part.map(({ top, left }) => this.field.at(top, left, tile));
      const images = part.map(({ top, left }) =>
        cut(channels, tile, (k, y, x) => large.data[(k * height + top + y) * width + left + x] * 2 - 1),
      );
      const { images: x1 } = await this.run(noises, [], images, t, "x1");
      part.forEach(({ top, left, row, column }, number) => {
        let i = number * this.size;
        for (let k = 0; k < channels; k++) {
          for (let y = 0; y < tile; y++) {
            const begin = (k * height + top + y) * width + left;
            for (let x = 0; x < tile; x++) total[begin + x] += down[row][y] * across[column][x] * x1[i++];
          }
        }
      });
    }
    return cropped(total, large, image.height * scale, image.width * scale);
  }
}

// The upper left of an image with values in [-1, 1], as bytes.
function cropped(data, { channels, height, width }, high, wide) {
  const bytes = new Uint8ClampedArray(channels * high * wide);
  for (let k = 0, i = 0; k < channels; k++) {
    for (let y = 0; y < high; y++) {
      for (let x = 0; x < wide; x++) bytes[i++] = 127.5 * (data[(k * height + y) * width + x] + 1);
    }
  }
  return { data: bytes, shape: [channels, high, wide] };
}
