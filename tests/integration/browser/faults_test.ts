// Runs alone: a browser with a GPU on the CPU beside the engine takes all cores.
import { assertEquals, assertLess } from "@std/assert";
import { type Channel, decodeFrame, type Frame, type StepMode } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { Chromium, findChromium, type Tab } from "../../support/chromium.ts";
import { TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { takes, until } from "../../support/until.ts";
import { TabRun } from "./_run.ts";
import { moreSteps, stepOf, takePart } from "./_tabs.ts";

const path = await findChromium();
const ignore = path === null;

/** What happens to a tab. */
const FAULTS = ["closed", "reloaded", "frozen", "cut", "offline"] as const;
/** What it is doing then. */
const PHASES = ["hello", "warm-up", "forward", "backward", "update", "validation", "saving"] as const;
type Fault = typeof FAULTS[number];
type Phase = typeof PHASES[number];

/** Each phase once and each fault at least once; all of them take two minutes. */
const SOME: readonly (readonly [Fault, Phase])[] = [
  ["cut", "forward"],
  ["frozen", "backward"],
  ["closed", "update"],
  ["offline", "validation"],
  ["reloaded", "saving"],
  ["closed", "warm-up"],
  ["reloaded", "hello"],
];
const CASES = Deno.env.has("EDGETUNER_EVERY_FAULT")
  ? PHASES.flatMap((phase) => FAULTS.map((fault) => [fault, phase] as const))
  : SOME;

/** The others' next step may take so many milliseconds. */
const NEXT_STEP_MS = 5000;
/** What each frame of the other devices takes, in milliseconds. */
const LINK_MS = 5;
/** A device that is back takes part after so many steps. */
const REJOIN_STEPS = 2;
const MODES = Array.from({ length: 100_000 }, (_, i): StepMode => i % 4 === 3 ? "evaluate" : "train");

/** Sees the frames of the tab pass, and lets something happen before one of them is sent on. */
class Trap {
  #phase: Phase | null = null;
  #spring: (() => Promise<void>) | null = null;
  /** The tab's frames, in the order in which they came. */
  readonly #run: () => TabRun;
  /** Steps that were done when the tab had last said all that it says before it takes part. */
  knownAt = -1;
  isOpen = true;

  constructor(run: () => TabRun) {
    this.#run = run;
  }

  /** Lets something happen in a phase, once; resolves when it has. */
  async set(phase: Phase, spring: () => Promise<void>): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#spring = () => spring().then(resolve, reject);
    this.#phase = phase;
    await promise;
  }

  async #when(isNow: boolean): Promise<void> {
    if (!isNow || this.#spring === null) return;
    const spring = this.#spring;
    this.#spring = null;
    await spring();
  }

  /** The tab's channel; a device in Deno says its name first. */
  wrap(channel: Channel): Channel {
    let isTab = false;
    let saves = false;
    let mode: StepMode | "probe" = "train";
    const phaseOf = (frame: Frame): Phase | null => {
      if (frame.kind === "mask") {
        mode = frame.meta.mode;
        saves = frame.meta.save === true;
        return null;
      }
      if (frame.kind === "input") return mode === "evaluate" ? "validation" : "forward";
      if (frame.kind !== "deltaGradient") return null;
      return frame.layer > 0 ? "backward" : saves ? "saving" : "update";
    };
    return {
      peer: channel.peer,
      closed: channel.closed,
      close: (reason) => channel.close(reason),
      [Symbol.asyncDispose]: () => channel.close(),
      send: async (bytes, options) => {
        if (isTab) await this.#when(phaseOf(decodeFrame(bytes)) === this.#phase);
        await channel.send(bytes, options);
      },
      receive: async (options) => {
        const bytes = await channel.receive(options);
        if (bytes === null) return null;
        // Steps of milliseconds would go by while greetings travel.
        if (!isTab) await takes(LINK_MS);
        const frame = decodeFrame(bytes);
        if (frame.kind === "hello") {
          isTab = frame.meta.name === "phone";
          await this.#when(isTab && this.#phase === "hello");
        }
        if (isTab && (frame.kind === "hello" || frame.kind === "proof")) this.knownAt = stepOf(this.#run());
        return bytes;
      },
    };
  }
}

/** A tab that something happens to. */
class Victim {
  readonly #browser: Chromium;
  readonly #run: TabRun;
  tab: Tab;

  constructor(browser: Chromium, run: TabRun, tab: Tab) {
    this.#browser = browser;
    this.#run = run;
    this.tab = tab;
  }

  /** Does it. */
  async suffer(fault: Fault): Promise<void> {
    if (fault === "closed") await this.tab[Symbol.asyncDispose]();
    else if (fault === "reloaded") await this.tab.send("Page.reload");
    else if (fault === "frozen") await this.tab.send("Page.setWebLifecycleState", { state: "frozen" });
    else if (fault === "cut") this.#run.link.cut();
    else this.#run.link.state = "silent";
  }

  /** Ends it. */
  async recover(fault: Fault): Promise<void> {
    if (fault === "closed") this.tab = await this.#browser.open(this.#run.page);
    else if (fault === "frozen") await this.tab.send("Page.setWebLifecycleState", { state: "active" });
    // The tab's own limit for silence takes longer.
    else if (fault === "offline") this.#run.link.cut();
    this.#run.link.state = "passes";
  }
}

Deno.test({
  name: "whatever becomes of a tab, in every phase, the others go on and it comes back [slow]",
  ignore,
}, async () => {
  using engine = await Engine.create();
  using model = new TinyGpt2(engine);
  await using browser = await Chromium.start(path!);
  const trap = new Trap(() => run);
  const run = await TabRun.start(model, {
    settings: { ...tinySettings("slice", 1_000_000), saveEvery: 2 },
    devices: 2,
    modes: MODES,
    wrap: (channel) => trap.wrap(channel),
    server: { stepDeadlineMs: 1500 },
  });
  await using _run = run;
  let isOver = false;
  void run.join({ name: "deno", capacity: 1 }).finally(() => isOver = true).catch(() => {});
  const victim = new Victim(browser, run, await takePart(browser, run));
  await moreSteps(run, 2, 20_000);
  for (const [fault, phase] of CASES) {
    const what = `${fault} in ${phase}`;
    const count = run.events.length;
    const since = (type: string) => run.events.slice(count).find((event) => event.type === type);
    // Before it has said who it is, and while it gets ready, it is away already.
    if (phase === "hello") {
      await Promise.all([trap.set(phase, () => victim.suffer(fault)), victim.tab.send("Page.reload")]);
    } else if (phase === "warm-up") {
      await victim.tab.send("Page.reload");
      await victim.tab.shows("Getting the graphics processor ready");
      await victim.suffer(fault);
    } else await trap.set(phase, () => victim.suffer(fault));
    const at = performance.now();
    const step = stepOf(run);
    await until(() => stepOf(run) > step, `the next step after: ${what}`, NEXT_STEP_MS);
    const nextMs = performance.now() - at;
    await until(() => since("away"), `the tab is away: ${what}`);
    await moreSteps(run, 3);
    await victim.recover(fault);
    await until(() => since("back"), `the tab is back: ${what}`, 20_000);
    const known = trap.knownAt;
    const first = await until(
      () => run.records.find((record) => record.step >= known && record.away === undefined),
      `a step with the tab: ${what}`,
    );
    console.log(
      `${what}: next step after ${nextMs.toFixed(0)} ms, in again after ${first.step - known} steps`,
    );
    assertLess(first.step - known, REJOIN_STEPS + 1, what);
    assertEquals([run.server.status, isOver], ["running", false], what);
    assertEquals(run.server.devices.map(({ name }) => name).sort(), ["data", "deno", "phone"]);
  }
  await victim.tab[Symbol.asyncDispose]();
});
