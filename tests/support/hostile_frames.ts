/**
 * Frames for tests: a right one of every kind, and seeded hostile ones: right ones with bytes changed, and valid
 * CBOR that is made to take time or memory.
 *
 * @module
 */

import {
  checkRunSettings,
  defaultRunSettings,
  encodeFrame,
  FRAME_KINDS,
  type FrameKind,
  MESSAGES,
  type MetaOf,
  PROTOCOL_VERSION,
  type RawFrame,
} from "@edgetuner/core";

type Bytes = Uint8Array<ArrayBuffer>;

/** Numbers below a bound that are the same in every run. */
export function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // The low bits of such a generator repeat soon.
    const mixed = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) >>> 0;
    return Math.floor(mixed / 2 ** 32 * below);
  };
}

/** A right `meta` of every kind. */
export const METAS: { readonly [K in FrameKind]: MetaOf<K> } = {
  hello: {
    name: "a device",
    capacity: 2.5,
    data: true,
    fingerprint: "f".repeat(64),
    sharesLoss: true,
    states: { run: "a run", steps: [10, 20] },
    task: "train",
    learnt: { range: { first: 1, count: 3 }, lora: defaultRunSettings(1).lora },
    system: "split",
    memory: 1e9,
  },
  welcome: {
    run: "a run",
    settings: checkRunSettings({ ...defaultRunSettings(10), clipNorm: 1 }),
    model: { layers: 3, heads: 4, hidden: 48 },
    range: { first: 1, count: 3 },
    statistics: ["gradientNorm", "loraNorm"],
    start: 0,
    columns: { first: 0, count: 96 },
    epsilon: 1e-5,
    turns: "parts",
  },
  refuse: { reason: "no place left" },
  paused: { others: true },
  turn: { mode: "train", position: 3, parts: 2 },
  examples: { count: 40 },
  save: {},
  challenge: { nonce: "n".repeat(43) },
  proof: { proof: "p".repeat(86) },
  leave: { reason: "power" },
  restart: {},
  repeat: { mode: "train" },
  end: { reason: "it is over", diverged: false, elsewhere: false, step: 7, best: true },
  embedding: { mode: "train", part: [1, 3], best: true, counted: 20 },
  decode: { parents: [0, 0] },
  hidden: { probe: true, save: true, counted: 40 },
  hiddenGradient: {},
  loss: { loss: 2.25 },
  finished: { best: true, loss: 2.5, counted: 40 },
  mask: { mode: "train", lowest: 1, rows: [13, 13], part: [0, 2, 0], best: true, save: true },
  input: {},
  delta: {},
  deltaGradient: {},
  inputGradient: {},
  squaredNorm: {},
  clip: {},
  statistics: {},
  shard: {},
  activation: { mode: "evaluate", batch: 2, length: 13 },
  partial: {},
  activationGradient: {},
  partialGradient: {},
};

/** A right frame of a kind, with small tensors. */
export function frameOf(kind: FrameKind, random: (below: number) => number): RawFrame {
  const { tensors } = MESSAGES[kind];
  const count = tensors === null ? 0 : tensors.count[0] + random(tensors.count[1] - tensors.count[0] + 1);
  return {
    kind,
    run: kind === "hello" ? "" : "a run",
    sequence: random(100),
    step: random(10),
    layer: random(3),
    microBatch: random(2),
    meta: METAS[kind],
    tensors: Array.from({ length: count }, () => {
      const shape = tensors!.shapes[random(tensors!.shapes.length)]!.map((l) =>
        l === "1" ? 1 : 1 + random(4)
      );
      const size = shape.reduce((a, b) => a * b, 1);
      return tensors!.as === "u8"
        ? { dtype: "u8", shape, data: Uint8Array.from({ length: size }, () => random(2)) }
        : { dtype: "f32", shape, data: Float32Array.from({ length: size }, () => random(1e6) / 997 - 300) };
    }),
  };
}

/** The head of a value: its major type, and a number in the size that is told or the least that holds it. */
export function head(major: number, n: number, size?: 1 | 2 | 4 | 8): number[] {
  const type = major << 5;
  const bytes = size ?? (n < 24 ? 0 : n < 256 ? 1 : n < 65_536 ? 2 : n < 2 ** 32 ? 4 : 8);
  if (bytes === 0) return [type | n];
  const all = [Math.floor(n / 2 ** 32), n % 2 ** 32].flatMap((x) =>
    [24, 16, 8, 0].map((by) => (x >>> by) & 255)
  );
  return [type | { 1: 24, 2: 25, 4: 26, 8: 27 }[bytes], ...all.slice(8 - bytes)];
}

/** A text. */
export function text(value: string): number[] {
  const bytes = new TextEncoder().encode(value);
  return [...head(3, bytes.length), ...bytes];
}

/** A map of raw values. */
export function map(entries: readonly (readonly [string, readonly number[]])[]): number[] {
  return [...head(5, entries.length), ...entries.flatMap(([key, value]) => [...text(key), ...value])];
}

/** A frame with the raw value of a field changed, or a field more. */
export function envelope(field: string, value: readonly number[], kind: FrameKind = "finished"): Bytes {
  const fields: [string, readonly number[]][] = [
    ["v", head(0, PROTOCOL_VERSION)],
    ["kind", text(kind)],
    ["run", text("")],
    ["seq", [0]],
    ["step", [0]],
    ["layer", [0]],
    ["meta", map([])],
    ["tensors", head(4, 0)],
  ];
  const at = fields.findIndex(([name]) => name === field);
  if (at < 0) fields.push([field, value]);
  else fields[at] = [field, value];
  return Uint8Array.from(map(fields));
}

function repeat(bytes: readonly number[], times: number): number[] {
  const all = new Array<number>(bytes.length * times);
  for (let i = 0; i < all.length; i++) all[i] = bytes[i % bytes.length]!;
  return all;
}

type Maker = (random: (below: number) => number, size: number) => number[];

/** Valid CBOR that is no part of a frame, each a different kind of burden. */
const BURDENS: readonly Maker[] = [
  // Packed tables: a list of values that the content refers to, again and again.
  (random, size) => {
    const table = [...head(4, 2), ...text("x".repeat(16)), ...head(4, 8), ...repeat([0xe0], 8)];
    const content = [...head(4, size), ...repeat(random(2) ? [0xe1] : [0xc6, 0x00], size)];
    return [...head(6, [51, 225, 113][random(3)]!), ...head(4, 2), ...table, ...content];
  },
  // Bignums of many digits.
  (random, size) => [...head(6, 2 + random(2)), ...head(2, size), ...repeat([0xff], size)],
  // Any other tag: dates, sets, typed arrays, records, shared values, errors, functions.
  (random) => [
    ...head(6, [0, 1, 4, 5, 25, 27, 28, 29, 64, 85, 256, 258, 259, 57_344, 105, 0x7fff_ffff][random(16)]!),
    ...[[0x80], [0x00], text("eval"), [0x44, 1, 2, 3, 4], [0xa0]][random(5)]!,
  ],
  // Deep nesting of lists, maps and tags.
  (random, size) => repeat([[0x81], [0xa1, 0x61, 0x61], [0xc1], [0xd8, 0x1c]][random(4)]!, size).concat(0),
  // Many keys, and the same key many times.
  (random, size) => {
    const same = random(2) === 0;
    return [
      ...head(5, size),
      ...Array.from({ length: size }, (_, i) => [...text(same ? "k" : i.toString(36)), 0]).flat(),
    ];
  },
  // Keys that are no texts, and names of what objects have.
  (
    random,
  ) => [0xa1, ...[[0x00], [0x80], [0x41, 0x61], text("__proto__"), text("constructor")][random(5)]!, 0xa0],
  // Indefinite lengths.
  (random, size) =>
    [
      [0x5f, ...repeat([0x41, 0x00], size), 0xff],
      [0x7f, ...repeat([0x61, 0x61], size), 0xff],
      [0x9f, ...repeat([0x00], size), 0xff],
      [0xbf, ...repeat([0x61, 0x61, 0x00], size), 0xff],
      [0x9f],
      [0x5f, 0x5f],
    ][random(6)]!,
  // Lengths that are declared and not there, around the places where numbers turn over.
  (random) => {
    const near = [2 ** 31, 2 ** 32, 2 ** 53, 2 ** 24, 2 ** 16, 2 ** 63][random(6)]!;
    const n = Math.max(0, near - 8 + random(16));
    const fits = n < 2 ** 32 ? [4, 8] as const : [8, 8] as const;
    return [...head(2 + random(4), n, fits[random(2)]!), ...repeat([random(256)], random(8))];
  },
  // Long lists, texts and byte strings.
  (random, size) =>
    [
      [...head(4, size), ...repeat([random(24)], size)],
      [...head(3, size), ...repeat([0x61], size)],
      [...head(2, size), ...repeat([0x00], size)],
      [...head(3, size), ...repeat([0xff], size)],
      [...head(4, size), ...repeat([0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], size)],
    ][random(5)]!,
  // Simple values and floats that are none of ours.
  (random) =>
    [[0xf7], [0xf8, random(256)], [0xe0 + random(20)], [0xf9, 0x7e, 0], [0xfa, 0x7f, 0x80, 0, 0], [0xff]][
      random(6)
    ]!,
];

/**
 * Milliseconds that something takes on a machine that does other things too: what seems slow is done again.
 *
 * @param act What is timed; must do the same each time.
 */
export function leastMs(act: () => void): number {
  let least = Infinity;
  for (let i = 0; i < 4 && least > 10; i++) {
    const started = performance.now();
    act();
    least = Math.min(least, performance.now() - started);
  }
  return least;
}

/** How many kinds of burdens there are. */
export const BURDEN_COUNT: number = BURDENS.length;

/** A burden by number, about as large as told. */
export function burden(which: number, random: (below: number) => number, size: number): Bytes {
  return Uint8Array.from(BURDENS[which]!(random, size));
}

/** Large burdens are made once: to make one takes longer than to refuse it. */
const large = new Map<string, Bytes[]>();

function largeFrames(size: number): Bytes[] {
  let known = large.get(String(size));
  if (known !== undefined) return known;
  const random = randomNumbers(size);
  known = BURDENS.flatMap((make) => [0, 1, 2].map(() => envelope("meta", make(random, size))));
  large.set(String(size), known);
  return known;
}

function bomb(random: (below: number) => number): Bytes {
  if (random(400) === 0) {
    const frames = largeFrames(random(8) === 0 ? 200_000 : 20_000);
    return frames[random(frames.length)]!.slice();
  }
  const value = BURDENS[random(BURDENS.length)]!(random, 1 + random(random(8) === 0 ? 400 : 30));
  const kind = FRAME_KINDS[random(FRAME_KINDS.length)]!;
  switch (random(6)) {
    case 0:
      return Uint8Array.from(value);
    case 1:
      return envelope("meta", map([["reason", value]]), random(2) ? "end" : kind);
    case 2:
      return envelope("tensors", [
        ...head(4, 1),
        ...map([["dtype", text("f32")], ["shape", value], ["data", [
          0x44,
          0,
          0,
          0,
          0,
        ]]]),
      ], kind);
    case 3:
      return envelope("tensors", [
        0x81,
        ...map([["dtype", text("f32")], ["shape", [0x81, 1]], ["data", value]]),
      ], kind);
    default:
      return envelope(
        ["meta", "v", "kind", "run", "seq", "micro", "tensors", "another"][random(8)]!,
        value,
        kind,
      );
  }
}

/** Right frames to be changed, made once. */
let right: readonly Bytes[] | null = null;

function mutation(random: (below: number) => number): Bytes {
  if (right === null) {
    const pool = randomNumbers(0);
    right = Array.from(
      { length: 20 * FRAME_KINDS.length },
      (_, i) => encodeFrame(frameOf(FRAME_KINDS[i % FRAME_KINDS.length]!, pool)),
    );
  }
  const bytes = right[random(right.length)]!.slice();
  switch (random(5)) {
    case 0: // cut
      return bytes.slice(0, random(bytes.length));
    case 1: { // a piece moved
      const [from, to, length] = [random(bytes.length), random(bytes.length), random(40)];
      return bytes.copyWithin(to, from, from + length);
    }
    case 2: // something behind it
      return Uint8Array.of(...bytes, ...Array.from({ length: 1 + random(8) }, () => random(256)));
    case 3: { // one length or type changed
      bytes[random(bytes.length)] = [
        0x1b,
        0x3b,
        0x5a,
        0x5b,
        0x7b,
        0x9a,
        0xbb,
        0xc6,
        0xd8,
        0xf8,
        0xff,
      ][random(11)]!;
      return bytes;
    }
    default:
      for (let k = random(6); k >= 0; k--) bytes[random(bytes.length)] = random(256);
      return bytes;
  }
}

/** The next hostile frame: half are changed frames, half are burdens. */
export function hostileFrame(random: (below: number) => number): Bytes {
  return random(2) === 0 ? mutation(random) : bomb(random);
}
