/**
 * Conformance suite for pruners: what every implementation of `Pruner` has to hold, whatever it
 * prunes. Call {@linkcode testPruner} at the top level of a test file.
 *
 * L = layers, H = heads per layer, M = user devices.
 *
 * @module
 */

import {
  decodePlainData,
  encodePlainData,
  type LinkStatistics,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
  type StatisticName,
  validateDecision,
} from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";

/** What {@linkcode testPruner} tests. */
export interface PrunerSuiteOptions {
  /** Name in the tests' names, such as `"greedy, defaults"`. */
  readonly name: string;
  /** Makes a new pruner; the same one each time. */
  readonly create: () => Pruner;
  /** Puts `[slow]` behind the tests' names. @default {false} */
  readonly slow?: boolean;
}

/** Contexts of many shapes: one head, odd numbers, allocations by capacity and not. */
const CONTEXTS: readonly PrunerContext[] = [
  { layers: 1, heads: 1, headsPerDevice: [1], capacities: [1], seed: 0 },
  { layers: 5, heads: 1, headsPerDevice: [1], capacities: [0.5], seed: 1 },
  { layers: 1, heads: 12, headsPerDevice: [6, 6], capacities: [1, 1], seed: 2 },
  { layers: 2, heads: 4, headsPerDevice: [2, 1, 1], capacities: [2, 1, 1], seed: 3 },
  { layers: 3, heads: 7, headsPerDevice: [4, 2, 1], capacities: [3.9, 2.2, 0.9], seed: 4 },
  { layers: 3, heads: 7, headsPerDevice: [1, 1, 1, 4], capacities: [5, 1, 1e-3, 7e5], seed: 5 },
  { layers: 6, heads: 5, headsPerDevice: [5, 0], capacities: [1, 9], seed: 6 },
  { layers: 24, heads: 16, headsPerDevice: [8, 5, 3], capacities: [8, 5, 3], seed: 2 ** 31 },
];

const STATISTICS: readonly StatisticName[] = [
  "gradientNorm",
  "loraNorm",
  "baseNorm",
  "embeddingMean",
  "weightChange",
  "trueGradientNorm",
  "links",
];

/** Size of the embedding mean, d, per head. */
const HEAD_SIZE = 4;

/** Kinds of statistics: the value of entry i in a step. Never negative, always finite. */
const KINDS: Readonly<Record<string, (random: () => number, i: number) => number>> = {
  uniform: (random) => random(),
  skewed: (random) => random() ** 8,
  flat: () => 0.25,
  zero: () => 0,
  spike: (_, i) => i === 0 ? 1 : 0,
  huge: (random) => 3.4e38 * random(),
  tiny: (random) => 1e-38 * random(),
  subnormal: (random) => 1e-44 * random(),
  "tiny and huge": (random) => random() < 0.5 ? 1e-38 : 3.4e38,
};

function randomNumbers(seed: number): () => number {
  let a = seed | 0;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let x = Math.imul(a ^ (a >>> 15), a | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Links that change from step to step, and devices that nothing is known of. */
function linksOf({ headsPerDevice, seed }: PrunerContext, step: number): LinkStatistics {
  const random = randomNumbers(step * 8 + seed);
  return {
    devices: headsPerDevice.map(() => {
      const [forward, backward] = [random() < 0.2 ? 0 : 1e-3 * random(), 1e-3 * random()];
      if (random() < 0.2) return null;
      const bytesPerSecond = { down: 1e6 * random(), up: 1e6 * random() };
      return { roundTripSeconds: 0.1 * random(), secondsPerHead: { forward, backward }, bytesPerSecond };
    }),
    bytesPerHead: { down: 3000, up: 3000 },
    bytesPerDevice: 432,
    lastStep: { seconds: 2 * random(), bytes: Math.round(1e6 * random()) },
  };
}

/** What an engine would pass in a step: the statistics in `names`, `null` for the others. */
function inputOf(
  context: PrunerContext,
  options: {
    step: number;
    lastMask: Uint8Array | null;
    names: readonly StatisticName[];
    kind: keyof typeof KINDS;
  },
): PrunerInput {
  const { step, lastMask, names, kind } = options;
  const size = context.layers * context.heads;
  const map = (name: StatisticName, length: number) => {
    if (!names.includes(name)) return null;
    const random = randomNumbers(step * 8 + STATISTICS.indexOf(name) + context.seed);
    return Float32Array.from({ length }, (_, i) => KINDS[kind]!(random, i));
  };
  // What a step leaves behind: nothing before the first one, and 0 for a head that was pruned.
  const ofLastStep = (name: StatisticName) =>
    step === 0 ? null : map(name, size)?.map((x, i) => lastMask?.[i] ? 0 : x) ?? null;
  return {
    step,
    lastMask: lastMask?.slice() ?? null,
    gradientNorm: ofLastStep("gradientNorm"),
    weightChange: ofLastStep("weightChange"),
    trueGradientNorm: map("trueGradientNorm", size),
    loraNorm: map("loraNorm", size),
    baseNorm: map("baseNorm", size),
    embeddingMean: map("embeddingMean", context.heads * HEAD_SIZE),
    links: step === 0 || !names.includes("links") ? null : linksOf(context, step),
  };
}

/** Freezes plain objects and arrays; typed arrays cannot be frozen, so tests compare them with a copy. */
function deepFreeze<T>(value: T): T {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  Object.values(value).forEach(deepFreeze);
  return Object.freeze(value);
}

interface RunOptions {
  /** Number of steps. */
  readonly steps: number;
  /** Kind of statistics. */
  readonly kind?: keyof typeof KINDS;
  /** Statistics to pass; those in `needs` if left out. */
  readonly names?: readonly StatisticName[];
  /** State and mask to go on from, and the number of the next step. */
  readonly from?: { readonly state: unknown; readonly lastMask: Uint8Array | null; readonly step: number };
}

/** Runs a pruner as an engine would, checks every decision and returns them with the last state. */
async function run(
  pruner: Pruner,
  context: PrunerContext,
  { steps, kind = "uniform", names = pruner.needs, from }: RunOptions,
): Promise<{ decisions: PrunerDecision[]; state: unknown; lastMask: Uint8Array | null; step: number }> {
  let { state, lastMask, step } = from ?? { state: pruner.init(context), lastMask: null, step: 0 };
  const decisions: PrunerDecision[] = [];
  for (const end = step + steps; step < end; step++) {
    const input = inputOf(context, { step, lastMask, names, kind });
    const [decision, next] = await pruner.decide(input, state, context);
    decisions.push(validateDecision(pruner, decision, context));
    state = next;
    lastMask = decision.mask.slice();
  }
  return { decisions, state, lastMask, step };
}

function shape({ layers, heads, headsPerDevice }: PrunerContext): string {
  return `${layers} x ${heads} on [${headsPerDevice}]`;
}

/**
 * Registers the tests of one pruner: decisions are valid on every shape and every kind of statistics,
 * `decide` is pure and deterministic, the state can be carried, `needs` is honest.
 *
 * @example
 * ```ts ignore
 * import { testPruner } from "../tests/conformance/pruner_suite.ts";
 *
 * testPruner({ name: "mine", create: () => myPruner() });
 * ```
 */
export function testPruner({ name, create, slow = false }: PrunerSuiteOptions): void {
  const test = (criterion: string, fn: () => void | Promise<void>) =>
    Deno.test(`pruner ${name}: ${criterion}${slow ? " [slow]" : ""}`, fn);

  test("has a name and asks for known statistics, each once", () => {
    const { name, needs } = create();
    assert(name.length > 0);
    for (const need of needs) assert(STATISTICS.includes(need), `Unknown statistic "${need}"`);
    assertEquals(new Set(needs).size, needs.length);
  });

  test("decides on every shape", async () => {
    for (const context of CONTEXTS) await run(create(), context, { steps: 30 });
  });

  test("decides on every kind of statistics", async () => {
    for (const kind of Object.keys(KINDS)) {
      for (const context of CONTEXTS.slice(3)) await run(create(), context, { steps: 30, kind });
    }
  });

  test("decides without statistics", async () => {
    for (const context of CONTEXTS) await run(create(), context, { steps: 30, names: [] });
  });

  test("decides when statistics come late or stop", async () => {
    for (const context of CONTEXTS) {
      const pruner = create();
      const without = await run(pruner, context, { steps: 3, names: [] });
      const taken = await run(pruner, context, { steps: 15, from: without });
      await run(pruner, context, { steps: 30, names: [], from: taken });
    }
  });

  test("decides after a step whose mask was not its own", async () => {
    for (const context of CONTEXTS) {
      const pruner = create();
      const start = await run(pruner, context, { steps: 12 });
      const lastMask = new Uint8Array(context.layers * context.heads).fill(1);
      await run(pruner, context, { steps: 12, from: { ...start, lastMask } });
    }
  });

  test("honours needs: other statistics change nothing", async () => {
    for (const context of CONTEXTS) {
      const asked = await run(create(), context, { steps: 20 });
      const all = await run(create(), context, { steps: 20, names: STATISTICS });
      assertEquals(all.decisions, asked.decisions, shape(context));
    }
  });

  test("is pure: the same arguments give the same result and stay as they are", async () => {
    for (const context of CONTEXTS) {
      const pruner = create();
      deepFreeze(pruner);
      const frozen = deepFreeze(structuredClone(context));
      for (const steps of [0, 1, 5, 25]) {
        const { state, lastMask, step } = await run(pruner, frozen, { steps });
        const input = inputOf(frozen, { step, lastMask, names: pruner.needs, kind: "uniform" });
        const copies = structuredClone({ state, input });
        deepFreeze(state);
        deepFreeze(input);

        const [decision, next] = await pruner.decide(input, state, frozen);
        assertEquals({ state, input }, copies, `arguments changed: ${shape(context)}, step ${step}`);
        const result = structuredClone({ decision, next });
        // what the engine does to a decision reaches neither state
        decision.mask.fill(1);
        decision.scores?.fill(-1);
        assertEquals({ state, input, next }, { ...copies, next: result.next }, "the decision is shared");

        const [decision2, next2] = await pruner.decide(input, state, frozen);
        assertEquals({ decision: decision2, next: next2 }, result, `${shape(context)}, step ${step}`);
      }
    }
  });

  test("is deterministic across instances with the same seed", async () => {
    for (const context of CONTEXTS) {
      const first = await run(create(), context, { steps: 30 });
      const second = await run(create(), structuredClone(context), { steps: 30 });
      assertEquals(second, first, shape(context));
    }
  });

  test("carries its state through structuredClone() and CBOR to another instance", async () => {
    for (const context of CONTEXTS) {
      for (const steps of [0, 1, 15]) {
        const pruner = create();
        const start = await run(pruner, context, { steps });
        const expected = await run(pruner, context, { steps: 15, from: start });
        for (
          const [way, state] of [
            ["structuredClone()", structuredClone(start.state)],
            ["CBOR", decodePlainData(encodePlainData(start.state))],
          ] as const
        ) {
          const actual = await run(create(), context, { steps: 15, from: { ...start, state } });
          assertEquals(actual.decisions, expected.decisions, `${way}: ${shape(context)}, step ${steps}`);
        }
      }
    }
  });

  test("decides 50 times on 24 x 16 heads within 5 seconds, with a state that stops growing", async () => {
    const context = CONTEXTS.at(-1)!;
    const pruner = create();
    const start = performance.now();
    const half = await run(pruner, context, { steps: 50 });
    const elapsed = performance.now() - start;
    assert(elapsed < 5000, `50 decisions took ${elapsed.toFixed(0)} ms`);
    const full = await run(pruner, context, { steps: 50, from: half });
    const [before, after] = [half, full].map(({ state }) => encodePlainData(state).length) as [
      number,
      number,
    ];
    assert(after <= before * 1.5 + 64, `the state grew from ${before} to ${after} bytes`);
  });
}
