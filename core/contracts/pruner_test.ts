import { assertEquals, assertStrictEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { PluginError } from "./errors.ts";
import {
  checkPruner,
  type PrunerContext,
  type PrunerDecision,
  STATISTICS,
  validateDecision,
} from "./pruner.ts";

const CONTEXT: PrunerContext = { layers: 2, heads: 3, headsPerDevice: [2, 1], capacities: [2, 1], seed: 0 };
const check = (decision: unknown) => validateDecision({ name: "mine" }, decision as PrunerDecision, CONTEXT);

const PRUNER = {
  name: "mine",
  needs: [],
  init: () => null,
  decide: () => [{ mask: new Uint8Array(6) }, null],
};

Deno.test("checkPruner() takes objects and instances with all that a run calls", () => {
  checkPruner(PRUNER);
  for (const need of STATISTICS) checkPruner({ ...PRUNER, needs: [need] });
  class Mine {
    readonly name = "mine";
    readonly needs = STATISTICS;
    init(): null {
      return null;
    }
    decide() {
      return PRUNER.decide();
    }
  }
  checkPruner(new Mine());
});

Deno.test("checkPruner() refuses everything else and says what there is", () => {
  const { init: _, ...noInit } = PRUNER;
  const { decide: __, ...noDecide } = PRUNER;
  for (
    const [value, message] of [
      [undefined, "must be an object: it is undefined"],
      [null, "must be an object: it is null"],
      [() => PRUNER, "must be an object: it is function"],
      [{ ...PRUNER, name: 7 }, "name must be a text that is not empty: it is number"],
      [{ ...PRUNER, name: "" }, 'name must be a text that is not empty: it is ""'],
      [
        { ...PRUNER, needs: undefined },
        "needs must be a list of gradientNorm, loraNorm, weightChange, baseNorm",
      ],
      [{ ...PRUNER, needs: "gradientNorm" }, "it is string"],
      [
        { ...PRUNER, needs: ["loraNorm", "gradNorm"] },
        'embeddingMean, trueGradientNorm, links: entry 1 is "gradNorm"',
      ],
      [{ ...PRUNER, needs: [undefined] }, "entry 0 is undefined"],
      [{ ...PRUNER, deployable: "no" }, "deployable must be true or false: it is string"],
      [noInit, 'pruner "mine" as init must be a function: it is undefined'],
      [noDecide, 'pruner "mine" as decide must be a function: it is undefined'],
    ] as [unknown, string][]
  ) {
    const error = assertThrows(() => checkPruner(value), PluginError) as Error;
    assertStringIncludes(error.message, message);
  }
});

Deno.test("validateDecision() gives back a decision that keeps the contract", () => {
  for (
    const decision of [
      { mask: new Uint8Array(6) },
      { mask: new Uint8Array(6).fill(1) },
      { mask: Uint8Array.of(0, 1, 0, 1, 0, 1), scores: Float32Array.of(-1, 0, 1, 1e30, 2, 3) },
    ]
  ) {
    assertStrictEquals(check(decision), decision);
  }
});

Deno.test("validateDecision() refuses everything else and names the pruner", () => {
  const mask = new Uint8Array(6);
  const wrong: [unknown, string][] = [
    [undefined, "mask"],
    [null, "mask"],
    [{}, "mask"],
    [{ mask: [0, 0, 0, 0, 0, 0] }, "mask"],
    [{ mask: new Float32Array(6) }, "mask"],
    [{ mask: new Uint8Array(5) }, "length 5"],
    [{ mask: new Uint8Array(7) }, "length 7"],
    [{ mask: Uint8Array.of(0, 0, 0, 2, 0, 0) }, "entry 3 is 2"],
    [{ mask, scores: [1, 2, 3, 4, 5, 6] }, "scores"],
    [{ mask, scores: new Float32Array(5) }, "length is 5"],
    [{ mask, scores: null }, "scores"],
    [{ mask, scores: new Float32Array(6).fill(NaN) }, "entry 0 is NaN"],
    [{ mask, scores: Float32Array.of(0, 0, Infinity, 0, 0, 0) }, "entry 2 is Infinity"],
  ];
  for (const [decision, message] of wrong) {
    const error = assertThrows(() => check(decision), PluginError, message) as Error;
    assertEquals(error.message.includes(`pruner "mine"`), true);
  }
});
