// Runs alone: a browser with a GPU on the CPU beside the engine takes all cores.
import { assert, assertEquals, assertLess } from "@std/assert";
import { Engine } from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import type { EdgeServerEvent, Pruner } from "@edgetuner/core";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";
import { TabRun, type TabRunOptions } from "./_run.ts";
import { moreSteps, takePart as joins } from "./_tabs.ts";

const path = await findChromium();
if (path === null) {
  console.log("Tests with a browser are left out: there is no Chromium (apt-get install chromium)");
}
const ignore = path === null;
const engine = ignore ? null : await Engine.create();
const model = engine === null ? null : new TinyGpt2(engine);
/** All tests share a browser; each has an origin of its own, and so a storage. */
let started: Promise<Chromium> | null = null;
const browser = () => started ??= Chromium.start(path!);
addEventListener("unload", () => void started?.then((browser) => browser.kill()));

/** Largest relative difference of losses. */
function difference(a: readonly number[], b: readonly number[]): number {
  assertEquals(a.length, b.length);
  return Math.max(...a.map((loss, i) => Math.abs(loss / b[i]! - 1)));
}

/** The same run with devices in Deno alone. */
async function inDeno(options: TabRunOptions): Promise<TabRun> {
  await using run = await TabRun.start(model!, options);
  const devices = Array.from(
    { length: options.devices },
    (_, i) => run.join({ name: `deno ${i}`, capacity: 1 }),
  );
  await run.end();
  await Promise.all(devices);
  return run;
}

/** Opens the page of a run and takes part. */
async function takePart(run: TabRun, name = "phone", query = ""): Promise<Tab> {
  return await joins(await browser(), run, { name, query });
}

const eventsOf = (run: TabRun, type: EdgeServerEvent["type"]) => run.events.filter((e) => e.type === type);

Deno.test({ name: "a tab with heads gives the losses of a device in Deno [slow]", ignore }, async () => {
  const options = { settings: tinySettings("slice", 10), devices: 1 };
  await using run = await TabRun.start(model!, options);
  await using tab = await takePart(run);
  await run.end();
  await tab.shows("The run is over");
  const largest = difference(run.losses, (await inDeno(options)).losses);
  assertLess(largest, 1e-5);
  assertEquals(tab.lines, []);
});

Deno.test({
  name: "kernels for GPUs, default limits and compatibility mode give the losses of a device in Deno [slow]",
  ignore,
}, async () => {
  const options = { settings: tinySettings("slice", 10), devices: 1 };
  const alone = await inDeno(options);
  for (
    const query of [
      "?adapterClass=hardware&limits=default",
      "?featureLevel=compatibility&limits=default&adapterClass=hardware",
    ]
  ) {
    await using run = await TabRun.start(model!, options);
    await using _tab = await takePart(run, "weak", query);
    await run.end();
    assertLess(difference(run.losses, alone.losses), 1e-5, query);
  }
});

Deno.test(
  { name: "two tabs and a device in Deno: the losses of three devices in Deno [slow]", ignore },
  async () => {
    const options = { settings: tinySettings("full", 10), devices: 3 };
    await using run = await TabRun.start(model!, options);
    await using _one = await takePart(run, "one");
    await using _two = await takePart(run, "two");
    const device = run.join({ name: "deno", capacity: 1 });
    await run.end();
    assertEquals((await device).error, null);
    assertLess(difference(run.losses, (await inDeno(options)).losses), 1e-5);
    assertEquals(run.server.devices.map((d) => d.name).sort(), ["data", "deno", "one", "two"]);
  },
);

Deno.test(
  { name: "over 120 steps with the greedy pruner a tab leads to the same masks [slow]", ignore },
  async () => {
    const settings = tinySettings("slice", 120, 0);
    const options = {
      settings: { ...settings, optimizer: { ...settings.optimizer, learningRate: 1e-3 } },
      devices: 2,
      server: { pruner: greedyPruner() as Pruner },
    };
    await using run = await TabRun.start(model!, options);
    await using _tab = await takePart(run);
    void run.join({ name: "deno", capacity: 1 });
    await run.end();
    const alone = await inDeno(options);
    assertEquals(run.records.map((r) => r.mask), alone.records.map((r) => r.mask));
    assert(run.records.some(({ mask }) => mask.includes(1)));
    assertLess(difference(run.losses, alone.losses), 1e-4);
  },
);

Deno.test({ name: "a tab that is invited asks, is let in, and takes part [slow]", ignore }, async () => {
  await using run = await TabRun.start(model!, { settings: tinySettings("slice", 5), devices: 1 });
  const invite = await run.invite();
  await using tab = await (await browser()).open(invite);
  await tab.shows("You are invited");
  assertEquals(await tab.evaluate("location.hash"), "");
  await tab.fill("name", "kitchen phone");
  await tab.click("Ask the host");
  await tab.shows("Waiting for the host");
  const [request] = run.invitations.requests(run.server.run);
  assertEquals([request!.name, request!.state], ["kitchen phone", "waiting"]);
  await tab.shows(request!.code);
  run.invitations.answer(request!.request, "approved");
  await tab.shows("What this device would do");
  await tab.click("Take part");
  await run.end();
  await tab.shows("The run is over");
  await using second = await (await browser()).open(invite);
  await second.shows("You are invited");
  await second.click("Ask the host");
  await second.shows("used before");
});

Deno.test({ name: "a device that cannot take part says why, and what helps [slow]", ignore }, async () => {
  await using run = await TabRun.start(model!, { settings: tinySettings("slice", 2), devices: 1 });
  await using tab = await (await browser()).open(run.page.replace("127.0.0.1", "edge.test"));
  await tab.shows("no secure connection");
  await tab.shows("--cert and --key");
  for (
    const [address, why, help] of [
      [run.pageOn("?featureLevel=none"), "no graphics processor", "Turn hardware acceleration on"],
      [
        run.page.replace(/token=.*/, "token=wrong-token"),
        "not valid any more",
        "Ask the host for a new link",
      ],
      [run.page.replace(/#.*/, "?again"), "names no run", "Scan the code"],
    ] as const
  ) {
    await using tab = await (await browser()).open(address);
    await tab.shows(why);
    await tab.shows(help);
  }
});

/** A run without an end, of a tab and a device in Deno. */
async function endless(): Promise<{ readonly run: TabRun; readonly tab: Tab }> {
  const settings = { ...tinySettings("slice", 1_000_000), saveEvery: 1 };
  const run = await TabRun.start(model!, { settings, devices: 2 });
  const tab = await takePart(run);
  void run.join({ name: "deno", capacity: 1 });
  await moreSteps(run, 2, 20_000);
  return { run, tab };
}

Deno.test(
  { name: "a tab that rests, and one that leaves, let the others go on [slow]", ignore },
  async () => {
    const { run, tab } = await endless();
    await using _run = run;
    await using _tab = tab;
    await tab.click("Rest");
    await until(() => eventsOf(run, "away").length === 1, "the tab is away", 5000);
    await moreSteps(run, 3);
    await tab.click("Go on");
    await until(() => eventsOf(run, "back").length === 1, "the tab is back", 15_000);
    await tab.shows("Taking part");
    await tab.click("Leave");
    await tab.shows("You have left the run");
    await tab.shows("Kept in this browser");
    await moreSteps(run, 3);
  },
);

Deno.test(
  { name: "the only tab with heads goes on from IndexedDB with the same bits [slow]", ignore },
  async () => {
    const options = { settings: { ...tinySettings("slice", 16), saveEvery: 1 }, devices: 1 };
    await using whole = await TabRun.start(model!, options);
    await using _one = await takePart(whole);
    await whole.end();
    await using run = await TabRun.start(model!, options);
    await using tab = await takePart(run);
    await moreSteps(run, 5, 20_000);

    run.server.stop("for a while");
    await run.end();
    await tab.shows("The run is over");
    await using later = await TabRun.start(model!, { ...options, after: run });
    await tab.send("Page.reload");
    await later.end();
    assertEquals([...run.losses, ...later.losses], whole.losses);
  },
);
