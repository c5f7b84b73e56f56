import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { PluginError } from "./errors.ts";
import { type PrunerContext, type PrunerDecision, validateDecision } from "./pruner.ts";

const CONTEXT: PrunerContext = { layers: 2, heads: 3, headsPerDevice: [2, 1], capacities: [2, 1], seed: 0 };
const check = (decision: unknown) => validateDecision({ name: "mine" }, decision as PrunerDecision, CONTEXT);

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
