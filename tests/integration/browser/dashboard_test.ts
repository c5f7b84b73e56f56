// Runs alone: a browser beside the engine on the CPU takes all cores.
import { assert, assertEquals } from "@std/assert";
import axe from "axe-core";
import { Engine } from "@edgetuner/kernels";
import { askToJoin, inviteOf } from "@edgetuner/transport/control";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { TinyGpt2 } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";
import { WatchedRuns } from "./_watched.ts";

const path = await findChromium();
const ignore = path === null;

/** Rules of accessibility that the page breaks, in light and dark. */
async function violations(tab: Tab): Promise<string[]> {
  const found: string[] = [];
  for (const scheme of ["light", "dark"] as const) {
    for (const width of [360, 1440]) {
      await tab.screenshot(width, scheme);
      await tab.evaluate(`globalThis.axe === undefined ? (0, eval)(${JSON.stringify(axe.source)}) && 0 : 0`)
        .catch(() => tab.evaluate(`${axe.source}; 0`));
      found.push(
        ...await tab.evaluate<string[]>(
          `axe.run().then(({ violations }) => violations.map(({ id, nodes }) =>
             id + ": " + nodes.map(({ html, any }) => html.slice(0, 150) + " " + (any[0]?.message ?? "")).join("; ")))`,
        ),
      );
    }
  }
  return found;
}

/** Errors of scripts, and what the policy of the page refused. */
function errors(tab: Tab): string[] {
  // Whoever is not signed in gets 401, which the browser tells too.
  return tab.lines.filter((line) => !/40[149] \(|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|ERR_EMPTY/.test(line));
}

Deno.test({
  name: "the dashboard shows a run, steers it, and breaks no rule of accessibility [slow]",
  ignore,
}, async () => {
  using engine = await Engine.create();
  using model = new TinyGpt2(engine);
  await using runs = new WatchedRuns(model);
  await runs.listen();
  const before = await runs.finish(12);
  const { server } = runs.begin();
  await using browser = await Chromium.start(path!);
  await using tab = await browser.open(runs.origin);
  await tab.shows("Watch runs");
  assertEquals(await violations(tab), []);
  // What the API is like is everyone's to read.
  await tab.click("API");
  await tab.shows("/api/runs/{run}/pause");
  assertEquals(await violations(tab), []);
  await tab.click("Runs");
  await tab.shows("Watch runs");

  // A link signs in once, and its secret leaves the address at once.
  const link = await runs.link();
  await tab.goto(link);
  await tab.shows("What happened");
  assertEquals(await tab.evaluate("location.href"), `${runs.origin}/#run=${server.run}`);
  await using stranger = await browser.open("about:blank");
  await stranger.send("Network.clearBrowserCookies");
  await stranger.goto(link);
  await stranger.shows("it was used before");
  await tab.goto(await runs.link());

  // A run that is under way is followed.
  // The list says "of 5,000 steps", the run itself without that word.
  const stepOf = async () =>
    Number(/(\d[\d,]*) of 5,000(?! steps)/.exec(await tab.text())?.[1]?.replace(",", "") ?? 0);
  await until(async () => await stepOf() > 5, "steps are shown");
  const seen = await stepOf();
  await until(async () => await stepOf() > seen, "more steps are shown");
  await tab.click("Pause");
  await until(() => server.status === "paused", "the run is paused");
  await tab.shows("The run is paused");
  const done = server.latest!.step + 1;
  await until(async () => await stepOf() === done, "the last step is shown");
  assertEquals(await violations(tab), []);

  // Numbers of the page are those of the run.
  const shown = await tab.evaluate<string>(`document.querySelector(".legend b").textContent`);
  assertEquals(shown, server.latest!.loss!.toPrecision(4));
  const mask = await tab.evaluate<string>(
    `[...document.querySelectorAll("[data-head]")].sort((a, b) => a.dataset.head - b.dataset.head)
       .map((cell) => cell.className === "kept" ? 0 : 1).join("")`,
  );
  assertEquals(mask, server.latest!.mask.join(""));
  await tab.send("Page.bringToFront");
  await tab.evaluate(`document.querySelector("[data-head='5']").focus()`);
  await tab.shows(`Layer 1, head 1: ${server.latest!.mask[5] === 0 ? "kept" : "pruned"}, score `);

  // A run of before is laid over it.
  await tab.evaluate(`document.querySelector('[aria-label="Compare with ${before}"]').click()`);
  await tab.shows(`${before} training`);
  assertEquals(await violations(tab), []);

  // Records can be downloaded.
  const csv = await tab.evaluate<string>(
    `fetch([...document.querySelectorAll("a")].find((a) => a.textContent === "Download CSV").href).then((r) => r.text())`,
  );
  const rows = csv.trimEnd().split("\r\n").map((row) => row.split(","));
  assertEquals(rows.filter(([, mode]) => mode === "train").length, done);
  const losses = rows.filter(([, mode]) => mode === "train").map((row) => Number(row[4]));
  assertEquals(losses.at(-1), server.latest!.loss);

  // It goes on, and ends.
  await tab.click("Resume");
  await until(() => server.status === "running", "the run goes on");
  // By the keyboard alone: a question takes the focus, Escape takes it back.
  await tab.send("Page.bringToFront");
  await tab.evaluate(`document.querySelector('[aria-label="Stop the run"]').focus()`);
  await tab.key("Enter");
  await tab.shows("Devices keep what they learnt");
  const focused = () => tab.evaluate<string>("document.activeElement.textContent");
  await until(async () => await focused() === "End it", "the question has the focus");
  await tab.key("Escape");
  await until(async () => await focused() === "Stop", "the button has it back");
  await tab.key("Enter");
  await until(async () => await focused() === "End it", "the question has the focus again");
  await tab.key("Enter");
  await until(() => server.status === "ended", "the run is over");
  await tab.shows("The run is ended");
  assertEquals(errors(tab), []);
});

Deno.test(
  { name: "the dashboard approves and removes devices, and goes on after a break [slow]", ignore },
  async () => {
    using engine = await Engine.create();
    using model = new TinyGpt2(engine);
    await using runs = new WatchedRuns(model);
    await runs.listen();
    const { server } = runs.begin();
    await using browser = await Chromium.start(path!);
    await using tab = await browser.open(await runs.link());
    await tab.shows("old laptop");

    await tab.click("Invite a device");
    const address = await until(
      () => tab.evaluate<string | null>(`document.querySelector(".invite input")?.value ?? null`),
      "an invite",
    );
    const device = { name: "Tom's tablet", id: "a".repeat(32), key: "k".repeat(43) };
    let code = "";
    const joinKey = askToJoin({
      ...{ url: runs.origin, invite: inviteOf(address)!, device },
      onAsked: (request) => code = request.code,
    });
    await tab.shows("Tom's tablet asks to join");
    await tab.shows(code);
    assertEquals(await tab.evaluate(`document.querySelectorAll("svg.code path").length`), 1);
    assertEquals(await violations(tab), []);
    await tab.click("Approve");
    assert((await joinKey).length > 0);
    await until(async () => !(await tab.text()).includes("asks to join"), "the request is answered");

    // Another server takes the place of this one; steps go on meanwhile.
    const { port } = runs;
    await runs.deafen();
    await tab.shows("The connection to the server is lost");
    const missed = server.latest!.step;
    await until(() => server.latest!.step > missed + 3, "steps that the page misses");
    await runs.listen(port);
    await until(
      async () => !(await tab.text()).includes("The connection to the server is lost"),
      "it is back",
    );
    server.pause();
    await tab.shows("The run is paused");
    const done = server.latest!.step + 1;
    await until(async () => (await tab.text()).includes(`${done} of 5,000`), "all steps are shown");
    const rows = await tab.evaluate<number>(`document.querySelectorAll(".chart tbody tr").length`);
    assert(rows > 0);

    await tab.evaluate(`document.querySelector('[aria-label="Remove old laptop"]').click()`);
    await tab.click("For good");
    await until(
      () => server.devices.find(({ name }) => name === "old laptop")?.connected === false,
      "it is gone",
    );
    await tab.shows("away");
    assertEquals(errors(tab), []);
  },
);
