import { assertEquals } from "@std/assert";
import { keptIn, stepText } from "./step_text.ts";

const STEP = {
  loss: 1.23456,
  seconds: 0.5,
  traffic: { bytes: 2_345_678, unit: "/step" },
  kept: 20,
  heads: 32,
} as const;

Deno.test("stepText() has loss, validation, s/step, MB and kept heads, as far as they are known", () => {
  assertEquals(stepText(STEP), "loss 1.235  0.50 s/step  2.3 MB/step  kept 20/32");
  assertEquals(
    stepText({ ...STEP, validation: 1.5, traffic: { bytes: 45_000_000, unit: " held" } }),
    "loss 1.235  validation 1.500  0.50 s/step  45 MB held  kept 20/32",
  );
  assertEquals(stepText({ ...STEP, loss: null, heads: 0 }), "0.50 s/step  2.3 MB/step");
  // A loss of zero is a loss.
  assertEquals(
    stepText({ ...STEP, loss: 0, validation: 0 }).startsWith("loss 0.000  validation 0.000"),
    true,
  );
});

Deno.test("keptIn() counts what is not pruned", () => {
  assertEquals([keptIn(Uint8Array.of(0, 1, 0, 0)), keptIn(new Uint8Array(0))], [3, 0]);
});
