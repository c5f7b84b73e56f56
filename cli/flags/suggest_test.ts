import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { loadCommand } from "../main.ts";
import { columnMap } from "../shared/training_data.ts";
import { codecChoice, codecsFor } from "./codecs.ts";
import { UsageError } from "./flags.ts";
import { prunerChoice } from "./pruners.ts";
import { computeOf, linkOf } from "./simulation_flags.ts";
import { alike } from "./suggest.ts";
import { loraTargets } from "./tuning_flags.ts";

Deno.test("alike() finds typing errors, beginnings and names with something behind them, and no strangers", () => {
  const names = ["greedy", "random", "iheadpruner", "iheadpruner-online"];
  const cases = [
    ["greed", "greedy"],
    ["GREEDY", "greedy"],
    ["rand", "random"],
    ["random-heads", "random"],
    ["iheadpruner-on", "iheadpruner-online"],
    ["zebra", null],
    ["", null],
  ] as const;
  for (const [given, found] of cases) assertEquals(alike(given, names), found, given);
  assertEquals(alike("w", ["q", "k", "v"]), null);
  assertEquals(alike("q_proj", ["q", "k", "v"]), "q");
});

Deno.test("each name that is not known comes with the one that is most like it", async () => {
  const call = (command: string, ...args: string[]) => async () => {
    const { run } = await loadCommand(command).load();
    await run({ args, form: "command" });
  };
  const cases: [() => Promise<unknown>, given: string, meant: string][] = [
    [() => linkOf("wifi5"), "wifi5", "wifi-5"],
    [() => computeOf("Typical"), "Typical", "typical"],
    [() => codecChoice("f-16"), "f-16", "f16"],
    [() => codecsFor("int8-feed", 1000), "int8-feed", "int8-feedback"],
    [() => codecChoice("f16,delta=int-4"), "int-4", "int4"],
    [() => codecChoice("f16,data=int4"), "data", "delta"],
    [() => Promise.resolve().then(() => prunerChoice("greed", {})), "greed", "greedy"],
    [() => Promise.resolve().then(() => loraTargets("q_proj,v")), "q_proj", "q"],
    [() => Promise.resolve().then(() => columnMap("prompts=question")), "prompts", "prompt"],
    [call("plan", "--models", "gpt2-med"), "gpt2-med", "gpt2-medium"],
    [call("plan", "--link", "lan1g"), "lan1g", "lan-1g"],
    [call("compare", "--systems", "DLora"), "DLora", "DLoRA"],
    [call("tune", "--schedule", "cos"), "cos", "cosine"],
    [call("tune", "--base-weights", "int-8"), "int-8", "int8"],
    [call("pull", "--dataset", "e2"), "e2", "e2e"],
  ];
  for (const [ask, given, meant] of cases) {
    await assertRejects(ask, UsageError, `current value is "${given}"; did you mean ${meant}?`);
  }
});

Deno.test("a module that is there, or that is an address, is no name that is not known", async () => {
  const own = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    assertEquals(prunerChoice(own, {}).name.startsWith("file:"), true);
    assertEquals(prunerChoice("jsr:@you/pruner", {}).name, "jsr:@you/pruner");
  } finally {
    await Deno.remove(own);
  }
  assertThrows(
    () => prunerChoice(own, {}),
    UsageError,
    `or a module that is there: current value is "${own}"`,
  );
});
