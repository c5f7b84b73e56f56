/**
 * What every pruner must do. Run it on an own one:
 *
 * ```ts ignore
 * testPruner({ name: "mine", create: () => myPruner() });
 * ```
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import {
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
  randomStream,
  type StatisticName,
  validateDecision,
} from "@edgetuner/core";

/** A pruner to test. */
export interface PrunerCase {
  /** Name of the tests. */
  readonly name: string;
  /** Makes a fresh pruner. */
  create(): Pruner;
}

const SHAPES: readonly { layers: number; headsPerDevice: readonly number[] }[] = [
  { layers: 1, headsPerDevice: [1] },
  { layers: 3, headsPerDevice: [4, 3] },
  { layers: 2, headsPerDevice: [1, 1, 1, 1] },
  { layers: 4, headsPerDevice: [8, 5, 3] },
  { layers: 24, headsPerDevice: [16] },
];

type Fill = (i: number, step: number) => number;

function contextOf({ layers, headsPerDevice }: typeof SHAPES[number]): PrunerContext {
  const heads = headsPerDevice.reduce((a, b) => a + b, 0);
  return { layers, heads, headsPerDevice, capacities: headsPerDevice, seed: 3 };
}

function inputOf(
  pruner: Pruner,
  context: PrunerContext,
  step: number,
  lastMask: Uint8Array | null,
  fill: Fill | null,
): PrunerInput {
  const size = context.layers * context.heads;
  // Only what the pruner asked for is there, as in a real run.
  const map = (name: StatisticName, entries = size) =>
    fill === null || !pruner.needs.includes(name)
      ? null
      : Float32Array.from({ length: entries }, (_, i) =>
        lastMask?.[i] && name === "gradientNorm" ? 0 : fill(i, step));
  return {
    step,
    lastMask,
    gradientNorm: step === 0 ? null : map("gradientNorm"),
    loraNorm: step === 0 ? null : map("loraNorm"),
    baseNorm: map("baseNorm"),
    embeddingMean: map("embeddingMean", 8),
  };
}

/** A row of decisions; checks each. */
async function run(
  pruner: Pruner,
  context: PrunerContext,
  steps: number,
  fill: Fill | null,
): Promise<PrunerDecision[]> {
  let state = pruner.init(context);
  let last: Uint8Array | null = null;
  const decisions: PrunerDecision[] = [];
  for (let step = 0; step < steps; step++) {
    const [decision, next] = await pruner.decide(inputOf(pruner, context, step, last, fill), state, context);
    validateDecision(pruner, decision, context);
    decisions.push(decision);
    last = decision.mask;
    state = next;
  }
  return decisions;
}

const random: Fill = (i, step) => randomStream(7, step * 1000 + i).float();
const FILLS: Readonly<Record<string, Fill | null>> = {
  "no statistics": null,
  "random statistics": random,
  "flat statistics": () => 1,
  "zeros": () => 0,
  "huge and tiny statistics": (i) => i % 2 === 0 ? 1e30 : 1e-30,
};

/** Registers the tests of a pruner. */
export function testPruner({ name, create }: PrunerCase): void {
  for (const [kind, fill] of Object.entries(FILLS)) {
    Deno.test(`${name} decides validly with ${kind} at all shapes`, async () => {
      for (const shape of SHAPES) await run(create(), contextOf(shape), 30, fill);
    });
  }

  Deno.test(`${name} has a name and known needs`, () => {
    const pruner = create();
    assert(pruner.name.length > 0);
    for (const need of pruner.needs) {
      assert(["gradientNorm", "loraNorm", "baseNorm", "embeddingMean"].includes(need), need);
    }
  });

  Deno.test(`${name} decides the same for the same seed, in another instance too`, async () => {
    const context = contextOf(SHAPES[3]!);
    assertEquals(await run(create(), context, 25, random), await run(create(), context, 25, random));
  });

  Deno.test(`${name} is pure: arguments stay as they are and the same arguments give the same result`, async () => {
    const pruner = create();
    const context = contextOf(SHAPES[1]!);
    let state = pruner.init(context);
    let last: Uint8Array | null = null;
    for (let step = 0; step < 20; step++) {
      const input = inputOf(pruner, context, step, last, random);
      const before = structuredClone({ input, state, context });
      const first = await pruner.decide(input, state, context);
      assertEquals({ input, state, context }, before, "an argument was changed");
      const second = await pruner.decide(input, state, context);
      assertEquals(second, first, "a second call gave another result");
      [{ mask: last }, state] = first;
    }
  });

  Deno.test(`${name} goes on the same with a state that was saved and loaded`, async () => {
    const pruner = create();
    const context = contextOf(SHAPES[3]!);
    const decide = async (save: boolean) => {
      let state = pruner.init(context);
      let last: Uint8Array | null = null;
      const masks: Uint8Array[] = [];
      for (let step = 0; step < 15; step++) {
        const input = inputOf(pruner, context, step, last, random);
        const [decision, next]: [PrunerDecision, unknown] = await pruner.decide(input, state, context);
        state = save ? structuredClone(next) : next;
        masks.push(last = decision.mask);
      }
      return masks;
    };
    assertEquals(await decide(true), await decide(false));
  });
}
