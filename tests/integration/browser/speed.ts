/**
 * How long a step takes with a tab, beside a device of Deno on the same driver: two runs of the same work that take
 * turns, so that both feel what else the machine does.
 *
 *     deno run -A tests/integration/browser/speed.ts --minutes 1 --hidden-minutes 6
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { Engine } from "@edgetuner/kernels";
import { integer, number, readFlags, runProgram } from "../../../cli/flags/flags.ts";
import { Chromium, findChromium } from "../../support/chromium.ts";
import { batchOf, TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { TabRun } from "./_run.ts";
import { moreSteps, takePart } from "./_tabs.ts";

/** The driver of the tests' browser, for Deno. */
const DRIVER = "/usr/lib/chromium/vk_swiftshader_icd.json";
/** Steps of a turn. The first of them is not counted: the run has just been resumed. */
const TURN = 8;
const SEQUENCES = 24;
const WAIT_MS = 60_000;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Does some steps of a run that is paused. */
async function turn(run: TabRun): Promise<number[]> {
  const before = run.records.length;
  run.server.resume();
  await moreSteps(run, TURN, WAIT_MS);
  run.server.pause();
  return run.records.slice(before + 1).map(({ times }) => times.total);
}

/** Median milliseconds of a step of both, over some minutes of turns. */
async function measure(tab: TabRun, deno: TabRun, minutes: number): Promise<{ tab: number; deno: number }> {
  const [ofTab, ofDeno]: [number[], number[]] = [[], []];
  for (const end = performance.now() + 60_000 * minutes; performance.now() < end || ofTab.length === 0;) {
    ofTab.push(...await turn(tab));
    ofDeno.push(...await turn(deno));
  }
  return { tab: median(ofTab), deno: median(ofDeno) };
}

function line(what: string, { tab, deno }: { readonly tab: number; readonly deno: number }): string {
  return `${what.padEnd(18)} tab ${tab.toFixed(1)} ms   Deno ${deno.toFixed(1)} ms   ratio ${
    (tab / deno).toFixed(3)
  }`;
}

const FLAGS = {
  minutes: number("N", 1, "minutes that are measured while the tab is seen", { min: 0 }),
  "hidden-minutes": integer("N", 6, "minutes that are measured while it is hidden, a line each", { min: 0 }),
};

const PROGRAM = {
  name: "tests/integration/browser/speed.ts",
  about: "Compares the step of a tab with that of a device of Deno.",
  examples: ["deno run -A tests/integration/browser/speed.ts --hidden-minutes 0"],
};

async function main(): Promise<number> {
  const flags = readFlags(PROGRAM, FLAGS);
  const path = await findChromium();
  if (path === null) throw new Error("Cannot measure as there must be a Chromium: there is none");
  using engine = await Engine.create();
  using model = new TinyGpt2(engine);
  const options = {
    settings: tinySettings("slice", 1_000_000),
    devices: 1,
    batch: batchOf(SEQUENCES),
    server: { timeoutMs: WAIT_MS, joinTimeoutMs: 10 * WAIT_MS },
  };
  await using ofTab = await TabRun.start(model, options);
  await using ofDeno = await TabRun.start(model, options);
  await using browser = await Chromium.start(path);
  await using page = await takePart(browser, ofTab);
  await moreSteps(ofTab, TURN, WAIT_MS);
  ofTab.server.pause();
  const folder = await Deno.makeTempDir();
  const device = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", fileURLToPath(new URL("../../../cli/main.ts", import.meta.url)), "join"],
      ...[...ofDeno.joinFlags, "--name", "deno", "--state", "", "--save", `${folder}/heads`],
    ],
    env: { VK_DRIVER_FILES: DRIVER, VK_ICD_FILENAMES: DRIVER },
    ...{ stdin: "null", stdout: "null", stderr: "inherit" },
  }).spawn();
  try {
    await moreSteps(ofDeno, TURN, WAIT_MS);
    ofDeno.server.pause();
    const seen = await measure(ofTab, ofDeno, flags.minutes);
    console.log(line("seen", seen));
    if (flags["hidden-minutes"] === 0) return 0;
    await using other = await browser.open("about:blank");
    await other.send("Page.bringToFront");
    const state = await page.evaluate<string>("document.visibilityState");
    if (state !== "hidden") throw new Error(`Cannot measure as the tab must be hidden: it is ${state}`);
    for (let minute = 1; minute <= flags["hidden-minutes"]; minute++) {
      const hidden = await measure(ofTab, ofDeno, 1);
      const slower = hidden.tab / hidden.deno / (seen.tab / seen.deno);
      console.log(`${line(`hidden, minute ${minute}`, hidden)}   ${slower.toFixed(3)} of seen`);
    }
    return 0;
  } finally {
    try {
      device.kill();
    } catch {
      // it has ended by itself
    }
    await device.status;
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await runProgram(main);
