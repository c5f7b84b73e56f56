/**
 * Pictures of the device's page at 390 and 1440 pixels, light and dark, for people to look at.
 *
 * Usage: `deno run -A tests/integration/browser/page_shots.ts FOLDER`
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { Engine } from "@edgetuner/kernels";
import { TabRun } from "./_run.ts";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";

const [folder] = Deno.args;
const path = await findChromium();
if (folder === undefined || path === null) {
  console.error("Cannot take pictures as there must be a folder to write to, and Chromium");
  Deno.exit(2);
}
await Deno.mkdir(folder, { recursive: true });
using engine = await Engine.create();
using model = new TinyGpt2(engine);
await using browser = await Chromium.start(path);
await using run = await TabRun.start(model, { settings: tinySettings("slice", 100_000), devices: 2 });
void run.join({ name: "laptop", capacity: 1 }).catch(() => {});

await using invited = await browser.open(await run.invite());
await invited.shows("You are invited");
await take(invited, "invited");
await invited.fill("name", "kitchen phone");
await invited.click("Ask the host");
await invited.shows("Waiting for the host");
await take(invited, "asked");
run.invitations.answer("1", "approved");
await invited.shows("What this device would do");
await take(invited, "offer");
await invited.click("Take part");
await until(() => (run.server.latest?.step ?? 0) > 5, "some steps");
run.server.pause();
await invited.shows("The host has paused the run");
await take(invited, "taking_part");
await invited.click("Leave");
await invited.shows("Kept in this browser");
await take(invited, "left");
await using own = await TabRun.start(model, {
  settings: tinySettings("slice", 100),
  devices: 1,
  dataInTab: true,
});
await using withData = await browser.open(own.page);
await withData.shows("Do you have the texts?");
await withData.choose(
  "file",
  fileURLToPath(new URL("../../../cli/assets/restaurant/train.txt", import.meta.url)),
);
await withData.shows("Embeddings can be turned back into tokens");
await take(withData, "offer_with_data");
await using insecure = await browser.open(run.page.replace("127.0.0.1", "edge.test"));
await insecure.shows("no secure connection");
await take(insecure, "cannot");

async function take(tab: Tab, name: string): Promise<void> {
  for (const width of [390, 1440]) {
    for (const scheme of ["light", "dark"] as const) {
      await Deno.writeFile(`${folder}/${name}_${width}_${scheme}.png`, await tab.screenshot(width, scheme));
    }
  }
}
