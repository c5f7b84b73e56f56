import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { loadCommand } from "../../cli/main.ts";
import { UsageError } from "../../cli/flags/flags.ts";
import { adapterOf, loadAdapter } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { ASSETS } from "../support/places.ts";
import { TinyGpt2, tinyHeads, tinySettings } from "../support/tiny_model.ts";
import { runSession } from "./_session.ts";

const COMMON = [
  ...["--batch", "2", "--length", "24", "--valid-batches", "1", "--schedule", "constant", "--warmup", "1"],
  ...["--valid", `${ASSETS}restaurant/valid.txt`, "--state-seconds", "0"],
];

/** Runs `edgetuner tune` here; gives its report. */
async function tune(root: string, name: string, ...args: string[]) {
  const { run } = await loadCommand("tune").load();
  const report = `${root}/${name}.json`;
  const folders = ["--save", `${root}/${name}`, "--report", report];
  assertEquals(await run({ args: [...COMMON, ...folders, ...args], form: "command" }), 0);
  return JSON.parse(await Deno.readTextFile(report)) as {
    readonly validations: readonly { readonly step: number; readonly loss: number }[];
    readonly settings: { readonly rate: number };
  };
}

async function withFolder(test: (root: string) => Promise<void>): Promise<void> {
  const root = await Deno.makeTempDir();
  try {
    await test(root);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

Deno.test("a finished run goes on with more steps, to the bits of a run that had them at once [slow]", () =>
  withFolder(async (root) => {
    await tune(root, "whole", "--steps", "5", "--state", `${root}/other`);
    await tune(root, "parts", "--steps", "2", "--state", `${root}/state`);
    const short = await loadAdapter(`${root}/parts`);
    await tune(root, "parts", "--steps", "5", "--resume", `${root}/state`);
    const whole = await loadAdapter(`${root}/whole`);
    assertEquals((await loadAdapter(`${root}/parts`)).arrays, whole.arrays);
    assert(JSON.stringify([...short.arrays]) !== JSON.stringify([...whole.arrays]), "the test can fail");
    // What is chosen for more steps, a longer warm-up too, is no other run.
    const chosen = ["--state", `${root}/longer`, "--schedule", "linear"];
    const warmup = (steps: string) => ["--steps", steps, "--warmup", steps];
    await tune(root, "chosen", ...chosen, ...warmup("2"));
    await tune(root, "chosen", ...chosen, ...warmup("4"), "--resume", `${root}/longer`);
    // A rate of its own is another run.
    await assertRejects(() =>
      tune(root, "parts", "--steps", "6", "--rate", "0.5", "--resume", `${root}/state`)
    );
  }));

Deno.test("a new run begins with the adapter of another one [slow]", () =>
  withFolder(async (root) => {
    const state = ["--state", ""];
    const first = await tune(root, "first", "--steps", "3", "--rank", "2", "--mode", "slice", ...state);
    const second = await tune(root, "second", "--steps", "1", "--adapter", `${root}/first`, ...state);
    // What was learnt is there before the first step: the same loss to the last digit.
    assertEquals(second.validations[0]!.loss, first.validations.at(-1)!.loss);
    const { lora } = await loadAdapter(`${root}/second`);
    assertEquals([lora.rank, lora.mode], [2, "slice"]);
    assertEquals(second.settings.rate, first.settings.rate, "the rate chosen fits the adapter's mode");
    await assertRejects(
      () => tune(root, "third", "--steps", "1", "--adapter", `${root}/first`, "--rank", "4", ...state),
      UsageError,
      "--rank must be 2, as in the adapter",
    );
  }));

Deno.test("devices of a split run begin with their parts of a whole adapter", async () => {
  using engine = await Engine.create();
  const model = new TinyGpt2(engine);
  const settings = tinySettings("full", 2);
  const modules = tinyHeads(engine, settings);
  const weights = await modules.weights();
  const drawn = (length: number, from: number) =>
    Float32Array.from({ length }, (_, i) => 0.5 * Math.sin(i + from));
  modules.load(
    weights.map((heads, l) =>
      heads.map((targets, h) =>
        targets.map(({ a, b }, k) => ({ a, b: drawn(b.length, 100 * l + 10 * h + k) }))
      )
    ),
  );
  const adapter = await adapterOf(modules, "tiny");
  modules[Symbol.dispose]();
  const shared = { settings, steps: 2 };
  const plain = await runSession(model, { ...shared, capacities: [1] });
  const alone = await runSession(model, { ...shared, capacities: [1], adapter });
  const split = await runSession(model, { ...shared, capacities: [2, 1], adapter, dataApart: true });
  assertAlmostEquals(split.losses[0]!, alone.losses[0]!, 1e-5);
  assert(Math.abs(plain.losses[0]! - alone.losses[0]!) > 1e-3, "the adapter makes a difference");
  // Of another rank it is refused, before the first step.
  const other = { ...settings, lora: { ...settings.lora, rank: settings.lora.rank + 1 } };
  await assertRejects(() => runSession(model, { ...shared, settings: other, capacities: [1], adapter }));
});

Deno.test("--patience ends a run whose validation loss does not fall [slow]", () =>
  withFolder(async (root) => {
    const every = ["--steps", "30", "--eval-every", "1", "--state", ""];
    const { validations } = await tune(root, "worse", ...every, "--rate", "10", "--patience", "2");
    const losses = validations.map(({ loss }) => loss);
    assert(losses.length < 30, `${losses}`);
    const best = losses.indexOf(Math.min(...losses));
    assertEquals(losses.length - 1 - best, 2);
    await assertRejects(
      () => tune(root, "none", "--steps", "2", "--patience", "2"),
      UsageError,
      "--eval-every",
    );
  }));
