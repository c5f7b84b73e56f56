/**
 * Pictures of every view of the dashboard, for people to look at: light and dark, on a phone and on a screen. The runs
 * are made up, so that no GPU is needed.
 *
 *     deno run -A tests/integration/browser/pictures.ts .pictures
 *     deno run -A tests/integration/browser/pictures.ts .pictures run,heads 390,1440
 *
 * The second names views and widths.
 *
 * @module
 */

import type { RunHandle } from "@edgetuner/core";
import { PAGE_FILES } from "@edgetuner/page";
import { askToJoin, inviteOf } from "@edgetuner/transport/control";
import { createControlApp, Invitations, RunStore, serve, Sessions } from "@edgetuner/transport/server";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { ShownRun } from "./_made_up.ts";

const [folder = ".pictures", views = "", widths = "360,390,1440,3840"] = Deno.args;
const wanted = views === "" ? null : new Set(views.split(","));
await Deno.mkdir(folder, { recursive: true });
const path = await findChromium();
if (path === null) throw new Error("Cannot take pictures as there must be a Chromium: there is none");

const HOUR = 3_600_000;
let time = Date.now() - 9 * HOUR;
const runs = new Map<string, RunHandle>();
const [sessions, invitations] = [new Sessions(), new Invitations()];
using store = RunStore.open(":memory:", { now: () => time });
const app = createControlApp({
  ...{ joinToken: "join-token-of-pictures", adminToken: "admin-token-of-pictures" },
  ...{ runs, sessions, invitations, store, pages: PAGE_FILES },
});
let serving = await serve(app, { port: 0 });
const { port } = serving;
const origin = `http://127.0.0.1:${port}`;
const link = async () => origin + await sessions.link();

/** Makes a run up, and so many steps of it. */
function shown(options: ConstructorParameters<typeof ShownRun>[0], steps: number): ShownRun {
  const run = new ShownRun(options);
  store.record(run, "greedy");
  run.begin();
  for (let i = 0; i < steps; i++) {
    time += 260;
    run.step();
  }
  return run;
}

const tiny = { layers: 3, heads: 4, devices: ["kitchen phone", "old laptop"], steps: 240 };
for (const [i, run] of ["a1c04f2e", "77b0c3d9", "0f52ee81"].entries()) {
  const last = 2.1 + 0.15 * i;
  shown({ ...tiny, run, seed: i + 1, losses: [4.6, last] }, 240).stop("all steps are done");
  time += HOUR;
}
shown({ ...tiny, run: "f00dcafe", seed: 9 }, 60).emit({
  ...{ type: "status", status: "failed" },
  reason: "the loss of step 60 was not finite",
});
time += HOUR;

await using browser = await Chromium.start(path);
await using tab = await browser.open(origin);

async function takeAll(name: string, of: Tab = tab): Promise<void> {
  if (wanted !== null && !wanted.has(name)) return;
  await of.send("Page.bringToFront");
  for (const width of widths.split(",").map(Number)) {
    for (const scheme of ["light", "dark"] as const) {
      // Twice: what has a new width draws itself anew first.
      await of.screenshot(width, scheme);
      await of.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
      await Deno.writeFile(`${folder}/${name}_${width}_${scheme}.png`, await of.screenshot(width, scheme));
    }
  }
  console.log(name);
}

const press = (selector: string) =>
  tab.evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`);
const see = async (run: string) => {
  await tab.evaluate(`[...document.querySelectorAll("button.run")].find((b) =>
    b.textContent.includes(${JSON.stringify(run)})).click()`);
  await tab.shows("What happened");
};

await tab.shows("Watch runs");
await takeAll("sign_in");
const used = await link();
await sessions.signIn(used.split("=").at(-1)!);
await tab.goto(used);
await tab.shows("used before");
await takeAll("sign_in_refused");

// A server without runs.
const empty = await serve(
  createControlApp({
    ...{ joinToken: "join-token-of-pictures", adminToken: "admin-token-of-pictures", sessions },
    ...{ runs: new Map(), pages: PAGE_FILES },
  }),
  { port: 0 },
);
await using none = await browser.open(`http://127.0.0.1:${empty.port}${await sessions.link()}`);
await none.shows("no runs");
await takeAll("no_runs", none);
await empty.shutdown(0);

const live = shown({ ...tiny, run: "551ab57d", seed: 5, steps: 240 }, 83);
runs.set(live.run, live);
await tab.goto(await link());
await tab.shows("What happened");
await takeAll("run");
await tab.evaluate(`document.querySelector("[data-head='5']").dispatchEvent(new MouseEvent("mouseover",
  { bubbles: true }))`);
await takeAll("heads");
await tab.click("Pause");
await tab.click("Resume");
await tab.click("Stop");
await takeAll("stop");
await tab.click("Go on");
await tab.click("Invite a device");
await tab.shows("For one device");
const address = await tab.evaluate<string>(`document.querySelector(".invite input").value`);
await takeAll("invite");
const stop = new AbortController();
const device = { name: "Blue tablet", id: "a".repeat(32), key: "k".repeat(43) };
askToJoin({ url: origin, invite: inviteOf(address)!, device, signal: stop.signal }).catch(() => {});
await tab.shows("asks to join");
await takeAll("approve");
await tab.click("Refuse");
await press('[aria-label="Remove old laptop"]');
await takeAll("remove");
await tab.click("Keep");
live.lose("old laptop");
for (let i = 0; i < 9; i++) live.step();
await tab.shows("is away from step");
await takeAll("lost_device");
live.pause();
await tab.shows("The run is paused");
await takeAll("paused");

await press('[aria-label="Compare with a1c04f2e"]');
await tab.shows("a1c04f2e training");
await takeAll("compare_2");
for (const other of ["77b0c3d9", "0f52ee81"]) await press(`[aria-label="Compare with ${other}"]`);
await tab.shows("0f52ee81 training");
await takeAll("compare_4");
await see("a1c04f2e");
await takeAll("ended");
await see("f00dcafe");
await takeAll("failed");

const places = ["attic", "barn", "cellar", "den", "entrance", "forge", "garden", "hall", "island", "jetty"];
const many = shown({
  ...{ run: "c0ffee12", layers: 12, heads: 12, devices: [...places, "kitchen phone", "loft"], steps: 2000 },
  ...{ owners: ["mill", "nook"], seed: 3 },
}, 1200);
runs.set(many.run, many);
await tab.goto(`${origin}/`);
await tab.shows("c0ffee12");
await see("c0ffee12");
await tab.shows("loft");
await takeAll("many_devices");
await tab.goto(`${origin}/#api`);
await tab.shows("Shapes");
await takeAll("api");
await tab.goto(`${origin}/#`);
await tab.shows("loft");

many.pause = () => {
  throw new Error("the steps of this run cannot be held");
};
await tab.click("Pause");
await tab.shows("cannot be held");
await takeAll("error");
await serving.shutdown(0);
await tab.shows("The connection to the server is lost");
await takeAll("lost_connection");
serving = await serve(app, { port });
stop.abort();
await serving.shutdown(0);
console.log(tab.lines.filter((line) => !/401|ERR_CONNECTION|ERR_INCOMPLETE|500/.test(line)).join("\n"));
