/**
 * Pictures of every view of the dashboard, for people to look at: light and dark, on a phone and on a screen.
 *
 *     deno run -A tests/integration/browser/pictures.ts .pictures
 *
 * @module
 */

import { Engine } from "@edgetuner/kernels";
import { Chromium, findChromium } from "../../support/chromium.ts";
import { TinyGpt2 } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";
import { WatchedRuns } from "./_watched.ts";

const [folder = ".pictures"] = Deno.args;
await Deno.mkdir(folder, { recursive: true });
const path = await findChromium();
if (path === null) throw new Error("Cannot take pictures as there must be a Chromium: there is none");
using engine = await Engine.create();
using model = new TinyGpt2(engine);
await using runs = new WatchedRuns(model);
await runs.listen();
await using browser = await Chromium.start(path);
const before = await runs.finish(60);
const { server } = runs.begin();
await until(() => (server.latest?.step ?? 0) > 80, "80 steps");
server.pause();
await until(() => server.status === "paused", "the run is paused");
await using tab = await browser.open(runs.origin);

async function takeAll(name: string): Promise<void> {
  for (const width of [360, 390, 1440, 3840]) {
    for (const scheme of ["light", "dark"] as const) {
      // Twice: what has a new width draws itself anew first.
      await tab.screenshot(width, scheme);
      await new Promise((resolve) => setTimeout(resolve, 300));
      const file = `${folder}/${name}_${width}_${scheme}.png`;
      await Deno.writeFile(file, await tab.screenshot(width, scheme));
      console.log(file);
    }
  }
}

await tab.shows("Watch runs");
await takeAll("sign_in");
await tab.goto(await runs.link());
await tab.shows("What happened");
await takeAll("run");
await tab.evaluate(`document.querySelector('[aria-label="Compare with ${before}"]').click()`);
await tab.shows(`${before} training`);
await tab.click("Stop");
await tab.click("Invite a device");
await takeAll("compare");
console.log(tab.lines.join("\n"));
