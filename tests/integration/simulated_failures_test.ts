/**
 * Devices and an edge server that come and go on simulated links, in virtual time.
 */

import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { type EdgeServerEvent, type HeadModulesState, RunStateError } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { noPruner } from "@edgetuner/plugins";
import {
  type ComputeModel,
  type LinkFailure,
  type LinkProfile,
  readLinkProfile,
  simulate,
  type SplitSimulationOptions,
} from "@edgetuner/transport";
import { BATCH, LOSS, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { scriptedPruner } from "./_session.ts";

const engine = await Engine.create();
const tiny = new TinyGpt2(engine);

const LINK: LinkProfile = {
  name: "home",
  up: { bandwidthMbit: 5, latencyMs: 12, jitterMs: 6, loss: 0.01 },
  down: { bandwidthMbit: 20, latencyMs: 8, jitterMs: 3 },
};
const COMPUTE: ComputeModel = {
  edgeServer: { gflops: 20, overheadMs: 0.5 },
  device: { gflops: 1, overheadMs: 1 },
};
const STEPS = 8;

/** A run with failures, and what its heads have learnt. */
async function run(failures: readonly LinkFailure[], more: Partial<SplitSimulationOptions> = {}) {
  const states: HeadModulesState[] = [];
  const events: EdgeServerEvent[] = [];
  const result = await simulate({
    model: { engine, layers: tiny.layers, ends: tiny.ends },
    settings: tinySettings("slice", STEPS),
    batches: () => BATCH,
    loss: LOSS,
    devices: 3,
    pruner: noPruner(),
    link: { ...LINK, failures },
    compute: COMPUTE,
    onEvent: (event) => void events.push(event),
    async onTrained(modules) {
      states.push(...await Promise.all(modules.map((m) => m.state())));
    },
    ...more,
  });
  const came = events.flatMap((e) => e.type === "away" || e.type === "back" ? [[e.type, e.device.name]] : []);
  return { ...result, states, came };
}

const losses = ({ steps }: { readonly steps: readonly { readonly loss: number | null }[] }) =>
  steps.map(({ loss }) => loss);
const awayOf = ({ steps }: Awaited<ReturnType<typeof run>>) => steps.map(({ away }) => away?.join() ?? "");

/** The same run in which a pruner prunes what was away. */
async function assertAsPruned(failing: Awaited<ReturnType<typeof run>>) {
  assertEquals([failing.error, ...failing.devices.map((d) => d.error)], [null, null, null, null]);
  assertEquals(failing.steps.map(({ step }) => step), Array.from({ length: STEPS }, (_, i) => i));
  const pruned = await run([], { pruner: scriptedPruner(failing.steps.map(({ mask }) => mask)) });
  assertEquals(losses(failing), losses(pruned));
  assertEquals(failing.states, pruned.states);
}

Deno.test("a device that is gone and back: as if its heads were pruned meanwhile, bit for bit, at the same virtual times [slow]", async () => {
  const { tensors } = engine.stats;
  const undisturbed = await run([]);
  const third = undisturbed.totalMs / 3;
  const failures = [{ device: 1, goneMs: third, backMs: 2 * third }];
  const failing = await run(failures);
  assertEquals(failing.came, [["away", "device 002"], ["back", "device 002"]]);
  const away = awayOf(failing);
  assertEquals([away[0], away.at(-1)], ["", ""]);
  assert(away.includes(`${failing.devices[1]!.range!.first}`), away.join());
  await assertAsPruned(failing);
  const again = await run(failures);
  assertEquals({ ...again, edgeMemoryBytes: 0 }, { ...failing, edgeMemoryBytes: 0 });
  assertEquals(engine.stats.tensors, tensors, "nothing is left behind");
});

Deno.test("a device that is too slow for the deadline of a step is away until it is quick again [slow]", async () => {
  const third = (await run([])).totalMs / 3;
  const failures = [{ device: 2, slow: { factor: 1000, fromMs: third, toMs: 2 * third } }];
  const failing = await run(failures, { stepDeadlineMs: third });
  assertEquals(failing.came[0], ["away", "device 003"]);
  assertEquals(failing.came.at(-1), ["back", "device 003"]);
  await assertAsPruned(failing);
});

Deno.test("an edge server that is lost goes on from its state: what is learnt is as if nothing had happened, bit for bit [slow]", async () => {
  const settings = { ...tinySettings("slice", STEPS), saveEvery: 2 };
  const undisturbed = await run([], { settings });
  const { totalMs } = undisturbed;
  // In the middle of a step, and long enough that devices try more than once.
  const failures = [{ serverGoneMs: 0.7 * totalMs, serverBackMs: 2 * totalMs }];
  const failing = await run(failures, { settings });
  assertEquals([failing.error, ...failing.devices.map((d) => d.error)], [null, null, null, null]);
  assertEquals(losses(failing), losses(undisturbed));
  assertEquals(failing.states, undisturbed.states);
  assert(failing.totalMs > 2 * totalMs);
  const bytes = ({ ledger }: typeof failing) => ledger.reduce((sum, line) => sum + line.frameBytes, 0);
  assert(bytes(failing) > bytes(undisturbed), "steps were done twice");
});

Deno.test("the data device is waited for, and devices that stay away are away to the end [slow]", async () => {
  const third = (await run([])).totalMs / 3;
  const failing = await run([{ device: 0, goneMs: third, backMs: 2 * third }]);
  assertEquals(awayOf(failing), Array(STEPS).fill(""));
  await assertAsPruned(failing);
  const left = await run([{ device: 2, goneMs: third }]);
  assertEquals(left.error, null);
  assert(awayOf(left).at(-1) !== "");
  assertInstanceOf(left.devices[2]!.error, RunStateError);
  const late = await run([{ device: 0, goneMs: third }], { lossWaitMs: 5000 });
  assert(
    late.error !== null && late.totalMs > third + 4999 && late.totalMs < third + 6500,
    `${late.totalMs}`,
  );
});

Deno.test("an edge server that cannot go on is said so", async () => {
  const failures = [{ serverGoneMs: 400, serverBackMs: 800 }];
  await assertRejects(() => run(failures), TypeError, "saveEvery must be at least 1");
  const settings = { ...tinySettings("slice", STEPS), saveEvery: 100 };
  const early = await run(failures, { settings });
  assertInstanceOf(early.error, RunStateError);
  assertThrows(
    () => readLinkProfile({ ...LINK, failures: [{ serverBackMs: 3 }] }),
    TypeError,
    "together with serverGoneMs",
  );
  assertThrows(
    () => readLinkProfile({ ...LINK, failures: [{ device: 1, serverGoneMs: 3 }] }),
    TypeError,
    "of no certain device",
  );
});
