// Runs alone: a browser with a GPU on the CPU beside the engine takes all cores.
import { assert, assertEquals, assertLess } from "@std/assert";
import { fileURLToPath } from "node:url";
import {
  encodePairs,
  loadEmbeddingAndHead,
  loadLayers,
  openModel,
  parsePairs,
  type RunSettings,
  TrainingPlan,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { servedModel } from "../../../cli/shared/served_model.ts";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { tinySettings } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";
import { TabRun, type TabRunOptions } from "./_run.ts";

const path = await findChromium();
const ignore = path === null;
const ASSETS = fileURLToPath(new URL("../../../cli/assets", import.meta.url));
const FILE = `${ASSETS}/restaurant/train.txt`;
const BATCH = 1;
const LENGTH = 16;

/** The small model with its tokenizer. */
async function open() {
  const engine = await Engine.create();
  const folder = `${ASSETS}/tiny_gpt2`;
  const { model, tokenizer } = await openModel(folder);
  const { fingerprint, digests = [] } = model;
  const base = { engine, layers: loadLayers(engine, model), ends: loadEmbeddingAndHead(engine, model) };
  return { base, tokenizer, fingerprint, served: servedModel({ path: folder, fingerprint, digests })! };
}
/** Both tests share a browser; each has an origin of its own, and so a storage. */
let started: Promise<Chromium> | null = null;
const opensBrowser = () => started ??= Chromium.start(path!);
addEventListener("unload", () => void started?.then((browser) => browser.kill()));
const opened = ignore ? null : await open();

function optionsOf(settings: RunSettings, devices: number): TabRunOptions {
  const { fingerprint, served } = opened!;
  return { settings, devices, dataInTab: true, served, server: { fingerprint } };
}

/** Losses of the same run with a data device in Deno. */
async function inDeno(settings: RunSettings): Promise<(number | null)[]> {
  const { base, tokenizer, fingerprint } = opened!;
  await using run = await TabRun.start(base, optionsOf(settings, 1));
  const pairs = parsePairs(await Deno.readTextFile(FILE));
  const set = encodePairs(pairs, tokenizer, { length: LENGTH });
  const plan = await TrainingPlan.create({ set, batch: BATCH, seed: 1, smoothing: 0 });
  const result = await run.join({
    name: "deno",
    capacity: 1,
    data: {
      ...{ ends: base.ends, fingerprint, loss: { labelSmoothing: 0 }, shareLoss: true },
      next: (step) => plan.next(step),
    },
    onWelcome: ({ settings }) => plan.begin(settings),
  });
  assertEquals(result.error, null);
  return run.records.map(({ loss }) => loss);
}

/** Opens the page, chooses the file, and takes part. */
async function takePart(browser: Chromium, run: TabRun, holdsHeads: boolean): Promise<Tab> {
  const tab = await browser.open(run.page);
  await tab.shows("Do you have the texts?");
  await tab.choose("file", FILE);
  await tab.shows("Embeddings can be turned back into tokens");
  await tab.fill("batch", String(BATCH));
  await tab.fill("length", String(LENGTH));
  if (!holdsHeads) await tab.check("Hold heads too");
  await tab.click("Take part");
  return tab;
}

Deno.test(
  { name: "a tab with data, and one with data and heads, give the losses of Deno [slow]", ignore },
  async () => {
    const settings = { ...tinySettings("slice", 10, 0), saveEvery: 1 };
    const expected = await inDeno(settings);
    const browser = await opensBrowser();
    for (const holdsHeads of [true, false]) {
      await using run = await TabRun.start(opened!.base, optionsOf(settings, 1));
      await using tab = await takePart(browser, run, holdsHeads);
      if (!holdsHeads) run.join({ name: "deno", capacity: 1 }).catch(() => {});
      await Promise.race([run.done, tab.fails()]);
      await tab.shows("The run is over");
      const losses = run.records.map(({ loss }) => loss);
      assertEquals(losses.length, expected.length);
      const largest = Math.max(...losses.map((loss, i) => Math.abs(loss! / expected[i]! - 1)));
      assertLess(largest, 1e-5, `heads: ${holdsHeads}`);
      assertEquals(run.server.devices.filter((d) => d.data).length, 1);
    }
  },
);

Deno.test(
  { name: "a tab with data that is reloaded goes on with the same texts [slow]", ignore },
  async () => {
    const settings = { ...tinySettings("slice", 12, 0), saveEvery: 1 };
    const browser = await opensBrowser();
    await using run = await TabRun.start(opened!.base, optionsOf(settings, 1));
    await using tab = await takePart(browser, run, false);
    run.join({ name: "deno", capacity: 1 }).catch(() => {});
    await Promise.race([until(() => run.records.length >= 3, "some steps"), tab.fails()]);
    await tab.send("Page.reload");
    await Promise.race([run.done, tab.fails()]);
    assert(run.events.some(({ type }) => type === "back"));
    const counted = new Map(run.records.map(({ step, loss }) => [step, loss]));
    assertEquals([...counted.keys()], Array.from({ length: 12 }, (_, i) => i));
  },
);
