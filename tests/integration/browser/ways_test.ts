// Runs alone: a browser with a GPU on the CPU beside the engine takes all cores.
import { assert, assertEquals } from "@std/assert";
import { createHash, X509Certificate } from "node:crypto";
import { Engine } from "@edgetuner/kernels";
import { PAGE_FILES } from "@edgetuner/page";
import { certificateOf } from "../../../cli/shared/tls.ts";
import { Chromium, findChromium } from "../../support/chromium.ts";
import { TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";
import { TabRun } from "./_run.ts";
import { moreSteps, takePart } from "./_tabs.ts";

const path = await findChromium();
const ignore = path === null;
const engine = ignore ? null : await Engine.create();
const model = engine === null ? null : new TinyGpt2(engine);

/** Files of the pages on a server of its own that knows of no run. */
function staticCopy(): { readonly origin: string; readonly server: Deno.HttpServer } {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const file = PAGE_FILES.get(new URL(request.url).pathname);
    return file === undefined
      ? new Response(null, { status: 404 })
      : new Response(file.body, { headers: { "content-type": file.type } });
  });
  return { origin: `http://localhost:${(server.addr as Deno.NetAddr).port}`, server };
}

/** A certificate that was made here, and what tells a browser to trust it alone. */
async function ownCertificate() {
  const folder = await Deno.makeTempDir();
  try {
    const flags = { cert: "", key: "", tls: "self-signed", host: "127.0.0.1" };
    const made = (await certificateOf(flags, `${folder}/kept.pem`))!;
    const key = new X509Certificate(made.cert).publicKey.export({ type: "spki", format: "der" });
    const pin = createHash("sha256").update(key).digest("base64");
    return { tls: { cert: made.cert, key: made.key }, flag: `--ignore-certificate-errors-spki-list=${pin}` };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Notes how often the screen was asked to stay on, and let go. */
const COUNT_LOCKS = `if (navigator.wakeLock) {
  const { wakeLock } = navigator, ask = wakeLock.request.bind(wakeLock);
  window.locks = { held: 0, asked: 0 };
  wakeLock.request = async (kind) => {
    const lock = await ask(kind);
    window.locks.asked++, window.locks.held++;
    lock.addEventListener("release", () => window.locks.held--);
    return lock;
  };
}`;

Deno.test({
  name: "over TLS with its own certificate, and from a copy of the page elsewhere, a tab takes part [slow]",
  ignore,
}, async () => {
  const { tls, flag } = await ownCertificate();
  const copy = staticCopy();
  const stranger = staticCopy();
  await using browser = await Chromium.start(path!, [flag]);
  await using run = await TabRun.start(model!, {
    settings: { ...tinySettings("slice", 1_000_000), saveEvery: 100 },
    devices: 2,
    tls,
    allowOrigins: [copy.origin],
  });
  await using tab = await browser.open("about:blank");
  await tab.send("Page.addScriptToEvaluateOnNewDocument", { source: COUNT_LOCKS });
  await tab.goto(run.page);
  await takePart(browser, run, { tab });
  assert(await tab.evaluate<boolean>("isSecureContext && location.protocol === 'https:'"));
  const server = encodeURIComponent(run.origin);
  const token = run.page.split("#")[1]!;
  await using elsewhere = await browser.open(`${copy.origin}/device/#server=${server}&${token}`);
  await takePart(browser, run, { tab: elsewhere, name: "elsewhere" });
  await moreSteps(run, 3, 20_000);
  assertEquals(await elsewhere.evaluate("location.origin"), copy.origin);

  await using refused = await browser.open(`${stranger.origin}/device/#server=${server}&${token}`);
  await refused.shows("cannot be reached");
  await refused.shows(`--allow-origin ${stranger.origin}`);

  // The screen stays on while it works, and not while it rests or when it has left.
  const held = () => tab.evaluate<number>("window.locks.held");
  await tab.send("Page.bringToFront");
  await until(async () => await held() === 1, "the screen stays on");
  await tab.click("Rest");
  await until(async () => await held() === 0, "the screen may turn off");
  await tab.click("Go on");
  await until(async () => await held() === 1, "the screen stays on again");
  await tab.shows("Taking part");
  await tab.click("Leave");
  await tab.shows("You have left the run");
  await until(async () => await held() === 0, "the screen may turn off at the end");
  assertEquals([tab.lines, elsewhere.lines], [[], []]);
  await Promise.all([copy.server.shutdown(), stranger.server.shutdown()]);
});

Deno.test({
  name: "too little memory, and no graphics processor: the page says so, and what helps [slow]",
  ignore,
}, async () => {
  await using browser = await Chromium.start(path!, ["--disable-gpu", "--disable-software-rasterizer"]);
  const shape = { layers: 512, heads: 192, hidden: 24_576 };
  await using run = await TabRun.start(model!, { settings: tinySettings("slice", 5), devices: 1, shape });
  await using none = await browser.open(run.page);
  await none.shows("no graphics processor");
  await none.shows("Turn hardware acceleration on");
  await using other = await Chromium.start(path!);
  await using tab = await other.open(run.page);
  await tab.shows("What this device would do");
  await tab.click("Take part");
  await tab.shows("too little memory");
  await tab.shows("smaller share");
  assertEquals(run.server.devices.filter(({ capacity }) => capacity > 0), []);
});
