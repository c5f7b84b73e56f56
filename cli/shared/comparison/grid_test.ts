import { assertEquals, assertThrows } from "@std/assert";
import { OWN_CALL } from "../../process/invocation.ts";
import { readFlags, UsageError } from "../../flags/flags.ts";
import { TUNING_FLAGS } from "../../flags/tuning_flags.ts";
import { entryOptions, modesOf } from "./grid.ts";

const MODEL = { heads: 8, hidden: 128 };
const PROGRAM = { name: "compare.ts", about: "Compares.", examples: [] };
const FLAGS = {
  ...{ systems: "vEdgeTuner", codecs: "f32", pruners: "", tau: 0.7, eta: 0.4, predictor: "" },
  ...readFlags(PROGRAM, TUNING_FLAGS, { ...OWN_CALL, args: ["--steps", "40", "--mode", "full"] }),
};

function modes(set: string) {
  return modesOf({ ...FLAGS, modes: "full,core", set }, entryOptions(set), MODEL);
}

Deno.test("--set gives a mode steps, a rank and a rate of its own, and leaves the others as they are", () => {
  const own = modes("core.steps=100,core.rank=4,core.rate=0.05");
  assertEquals([own.get("full")!.steps, own.get("core")!.steps], [40, 100]);
  assertEquals([own.get("full")!.lora.rank, own.get("core")!.lora.rank], [FLAGS.rank, 4]);
  assertEquals(own.get("core")!.optimizer.learningRate, 0.05);
});

Deno.test("--set refuses steps that are no whole number from 2, and keys that modes do not have", () => {
  for (const steps of ["1", "2.5", "-3"]) {
    assertThrows(
      () => modes(`core.steps=${steps}`),
      UsageError,
      `core.steps must be a whole number from 2: current value is ${steps}`,
    );
  }
  assertThrows(() => modes("core.size=3"), UsageError, "rank, rate, alpha, dropout, steps");
});
