// flowlit's noise of a seed, the same as in Python: NumPy's Philox(key=seed), counter 0, standard_normal in
// float32. Philox4x64-10 (Salmon et al. 2011) gives 64 random bits at a time, of which the lower half comes
// first; the ziggurat (Marsaglia and Tsang 2000) turns 32 bits into a normal number, and rarely takes more.

const MASK = (1n << 64n) - 1n;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

// Philox of one counter, four numbers of 64 bits, under a key of two.
function philox(counter, key) {
  let [a, b, c, d] = counter;
  let [k, l] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const first = MULTIPLIERS[0] * a;
    const second = MULTIPLIERS[1] * c;
    [a, b, c, d] = [(second >> 64n) ^ b ^ k, second & MASK, (first >> 64n) ^ d ^ l, first & MASK];
    k = (k + WEYL[0]) & MASK;
    l = (l + WEYL[1]) & MASK;
  }
  return [a, b, c, d];
}

// The 32-bit numbers of a seed, one after the other.
class Bits {
  constructor(seed, index) {
    const key = BigInt(seed);
    this.key = [key & MASK, key >> 64n];
    this.count = 0n;
    this.index = BigInt(index);
    this.waiting = [];
  }

  next() {
    if (!this.waiting.length) {
      this.count += 1n; // the counter is raised before it is used
      for (const value of philox([this.count, this.index, 0n, 0n], this.key)) {
        this.waiting.push(Number(value & 0xffffffffn), Number(value >> 32n));
      }
      this.waiting.reverse();
    }
    return this.waiting.pop();
  }

  // Uniform in [0, 1), float32.
  uniform() {
    return (this.next() >>> 8) / 16777216;
  }
}

// 256 layers of equal area under exp(-x² / 2); R is where the tail begins.
const LAYERS = 256;
const R = 3.6541528853610088;
const R32 = Math.fround(R);
const INVERSE32 = Math.fround(1 / R);
const AREA = 0.00492867323399;
const SCALE = 2 ** 23;
const { edges, widths, heights } = tables();

function tables() {
  const density = (x) => Math.exp(-0.5 * x * x);
  const edges = new Uint32Array(LAYERS);
  const widths = new Float32Array(LAYERS);
  const heights = new Float32Array(LAYERS);
  const base = AREA / density(R);
  edges[0] = (R / base) * SCALE;
  widths[0] = base / SCALE;
  heights[0] = 1;
  widths[LAYERS - 1] = R / SCALE;
  heights[LAYERS - 1] = density(R);
  let x = R;
  for (let layer = LAYERS - 2; layer > 0; layer--) {
    const above = Math.sqrt(-2 * Math.log(AREA / x + density(x)));
    edges[layer + 1] = (above / x) * SCALE;
    x = above;
    widths[layer] = x / SCALE;
    heights[layer] = density(x);
  }
  edges[1] = 0;
  return { edges, widths, heights };
}

// A number from N(0, 1), float32.
function normal(bits) {
  for (;;) {
    const drawn = bits.next();
    const layer = drawn & 0xff;
    const negative = (drawn >>> 8) & 1;
    const place = (drawn >>> 9) & 0x7fffff;
    const x = Math.fround(place * widths[layer]) * (negative ? -1 : 1);
    if (place < edges[layer]) return x;
    if (layer === 0) {
      for (;;) {
        const out = Math.fround(-INVERSE32 * Math.fround(Math.log1p(-bits.uniform())));
        const up = Math.fround(-Math.log1p(-bits.uniform()));
        if (up + up > out * out) return ((place >>> 8) & 1 ? -1 : 1) * Math.fround(R32 + out);
      }
    }
    const between = Math.fround(Math.fround(heights[layer - 1] - heights[layer]) * bits.uniform());
    if (Math.fround(between + heights[layer]) < Math.exp(-0.5 * x * x)) return x;
  }
}

// The noise of a seed, `size` numbers of its row `index`.
export function noise(seed, size, index = 0) {
  const bits = new Bits(seed, index);
  return Float32Array.from({ length: size }, () => normal(bits));
}

// Between two noises, on a quarter of a circle: as likely noise as both.
export function between(a, b, share) {
  const angle = (share * Math.PI) / 2;
  return a.map((value, i) => Math.cos(angle) * value + Math.sin(angle) * b[i]);
}
