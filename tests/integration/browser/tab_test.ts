// Runs alone: a browser with a GPU on the CPU beside the engine takes all cores.
import { assert, assertEquals } from "@std/assert";
import { Engine } from "@edgetuner/kernels";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { TabRun, type TabRunOptions } from "./_run.ts";

const path = await findChromium();
if (path === null) {
  console.log("Tests with a browser are left out: there is no Chromium (apt-get install chromium)");
}
const ignore = path === null;
const engine = ignore ? null : await Engine.create();
const model = engine === null ? null : new TinyGpt2(engine);

/** Largest relative difference of losses. */
function difference(a: readonly number[], b: readonly number[]): number {
  assertEquals(a.length, b.length);
  return Math.max(...a.map((loss, i) => Math.abs(loss / b[i]! - 1)));
}

/** The same run with a device in Deno in the place of the tab. */
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

async function takePart(browser: Chromium, run: TabRun, name = "phone"): Promise<Tab> {
  const tab = await browser.open(run.page);
  await tab.shows("What leaves this device");
  await tab.evaluate(
    `(() => { const i = document.querySelector("input[name=name]"); i.value = ${
      JSON.stringify(name)
    }; i.dispatchEvent(new Event("input", { bubbles: true })); })()`,
  );
  await tab.click("Take part");
  return tab;
}

Deno.test({ name: "a tab with heads gives the losses of a device in Deno [slow]", ignore }, async () => {
  await using browser = await Chromium.start(path!);
  const options = { settings: tinySettings("slice", 10), devices: 1 };
  await using run = await TabRun.start(model!, options);
  await using tab = await takePart(browser, run);
  await Promise.race([run.end(), tab.shows("cannot", 30_000)]);
  await tab.shows("The run is over");
  const alone = await inDeno(options);
  const largest = difference(run.losses, alone.losses);
  assert(largest < 1e-5, `losses differ by ${largest}`);
  assertEquals(tab.lines, []);
  assertEquals(run.server.devices.map((d) => d.name), ["data", "phone"]);
});
