import { assertEquals, assertThrows } from "@std/assert";
import {
  adamwAt,
  checkLora,
  checkOptimizer,
  DEFAULT_LORA,
  DEFAULT_OPTIMIZER,
  type LoraSettings,
  type Schedule,
} from "./settings.ts";

Deno.test("checkLora() puts targets in order and leaves the rest", () => {
  assertEquals(checkLora({ ...DEFAULT_LORA, targets: ["v", "q", "k"] }), {
    ...DEFAULT_LORA,
    targets: ["q", "k", "v"],
  });
  assertEquals(checkLora(DEFAULT_LORA), DEFAULT_LORA);
});

Deno.test("checkLora() refuses what is out of range", () => {
  const check = (change: Record<string, unknown>) => () =>
    checkLora({ ...DEFAULT_LORA, ...change } as LoraSettings);
  for (const mode of ["", "half", undefined]) assertThrows(check({ mode }), TypeError, "mode");
  for (const targets of [[], ["q", "q"], ["o"], ["q", "x"]]) {
    assertThrows(check({ targets }), TypeError, "targets");
  }
  for (const rank of [0, 1.5, 257, NaN]) assertThrows(check({ rank }), RangeError, "rank");
  for (const alpha of [0, -1, NaN, Infinity]) assertThrows(check({ alpha }), RangeError, "alpha");
  for (const dropout of [-0.1, 1, NaN]) assertThrows(check({ dropout }), RangeError, "dropout");
});

Deno.test("checkOptimizer() refuses what is out of range", () => {
  assertEquals(checkOptimizer(DEFAULT_OPTIMIZER), DEFAULT_OPTIMIZER);
  const wrong: [string, unknown[]][] = [
    ["learningRate", [0, -1, NaN, Infinity, "1"]],
    ["warmupSteps", [-1, 0.5, NaN]],
    ["beta1", [-0.1, 1, NaN]],
    ["beta2", [-0.1, 1, NaN]],
    ["epsilon", [0, NaN]],
    ["weightDecay", [-1, NaN]],
    ["schedule", ["steps", undefined]],
  ];
  for (const [name, values] of wrong) {
    for (const value of values) {
      assertThrows(() => checkOptimizer({ ...DEFAULT_OPTIMIZER, [name]: value } as never), RangeError, name);
    }
  }
});

Deno.test("adamwAt() warms up, then falls to zero or stays", () => {
  const settings = { ...DEFAULT_OPTIMIZER, learningRate: 1, warmupSteps: 4 };
  const rates = (schedule: Schedule) =>
    [0, 1, 3, 4, 6, 8, 9].map((step) => adamwAt({ ...settings, schedule }, step, 8).rate);
  assertEquals(rates("linear"), [0.25, 0.5, 1, 1, 0.5, 0, 0]);
  assertEquals(rates("constant"), [0.25, 0.5, 1, 1, 1, 1, 1]);
  const cosine = rates("cosine").map((rate) => Math.round(rate * 1e6) / 1e6);
  assertEquals(cosine, [0.25, 0.5, 1, 1, 0.5, 0, 0]);
  // A quarter of the way it has lost less than a straight line.
  assertEquals(adamwAt({ ...settings, schedule: "cosine" }, 5, 8).rate.toFixed(4), "0.8536");
  assertEquals(adamwAt({ ...settings, warmupSteps: 0 }, 0, 8).rate, 1);
  const { beta1, beta2, epsilon, decay } = adamwAt(settings, 0, 8);
  assertEquals([beta1, beta2, epsilon, decay], [0.9, 0.999, 1e-8, 0.01]);
});
