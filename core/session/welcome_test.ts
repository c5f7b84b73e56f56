import { assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../contracts/errors.ts";
import { readFields } from "../protocol/fields.ts";
import { MESSAGES } from "../protocol/messages.ts";
import { defaultRunSettings } from "../train/default_run_settings.ts";
import { checkRunSettings, type RunSettings } from "../train/run_settings.ts";
import { readWelcome } from "./welcome.ts";

/** As a frame of a peer is read. */
const read = (meta: unknown) => readWelcome(readFields(MESSAGES.welcome.meta, meta, "welcome"));

const WELCOME = {
  run: "a run",
  settings: { ...defaultRunSettings(10), prunedFade: 1 },
  model: { layers: 3, heads: 4, hidden: 48 },
  range: { first: 1, count: 3 },
  statistics: ["gradientNorm"],
  start: 0,
  repeats: true,
  trained: 0,
};

Deno.test("checkRunSettings() refuses steps and seeds out of range", () => {
  const settings = defaultRunSettings(10);
  assertEquals(checkRunSettings(settings), { ...settings, prunedFade: 1 });
  for (const steps of [0, -1, 1.5, NaN]) {
    assertThrows(() => checkRunSettings({ ...settings, steps }), RangeError, "steps");
  }
  for (const seed of [-1, 2 ** 32, 0.5, NaN]) {
    assertThrows(() => checkRunSettings({ ...settings, seed }), RangeError, "seed");
  }
  for (const microBatches of [0, 33, 1.5]) {
    assertThrows(() => checkRunSettings({ ...settings, microBatches }), RangeError, "microBatches");
  }
  for (const accumulate of [0, 4097, 1.5, NaN]) {
    assertThrows(() => checkRunSettings({ ...settings, accumulate }), RangeError, "accumulate");
  }
  for (const clipNorm of [0, -1, NaN, Infinity]) {
    assertThrows(() => checkRunSettings({ ...settings, clipNorm }), RangeError, "clipNorm");
  }
  for (const prunedFade of [-0.1, 1.1, NaN]) {
    assertThrows(() => checkRunSettings({ ...settings, prunedFade }), RangeError, "prunedFade");
  }
  for (const saveEvery of [-1, 0.5, NaN]) {
    assertThrows(() => checkRunSettings({ ...settings, saveEvery }), RangeError, "saveEvery");
  }
  assertThrows(
    () => checkRunSettings({ ...settings, overlap: false, microBatches: 2 }),
    TypeError,
    "overlap",
  );
  assertEquals(checkRunSettings({ ...settings, overlap: false }).overlap, false);
  const { lora, optimizer: o, steps, seed } = settings;
  assertEquals(
    checkRunSettings({ lora, optimizer: o, steps, seed }),
    { ...settings, prunedFade: 1 },
    "what is left out has defaults",
  );
  assertThrows(
    () => checkRunSettings({ ...settings, lora: { ...settings.lora, rank: 0 } }),
    RangeError,
    "rank",
  );
  const optimizer = { ...settings.optimizer, beta1: 1 };
  assertThrows(() => checkRunSettings({ ...settings, optimizer }), RangeError, "beta1");
});

Deno.test("readWelcome() gives back a welcome that is complete", () => {
  assertEquals(read(WELCOME) as unknown, { ...WELCOME, turns: null });
  assertEquals(read({ ...WELCOME, range: null, statistics: [] }).range, null);
});

Deno.test("readWelcome() refuses what is missing or out of range, with a ProtocolError", () => {
  const wrong: Record<string, unknown>[] = [
    { run: undefined },
    { run: "" },
    { run: 1 },
    { settings: undefined },
    { settings: { ...WELCOME.settings, steps: 0 } },
    { settings: { ...WELCOME.settings, lora: undefined } },
    { settings: { ...WELCOME.settings, lora: { ...WELCOME.settings.lora, targets: ["q", "q"] } } },
    { settings: { ...WELCOME.settings, optimizer: null } } as Record<string, unknown>,
    { model: undefined },
    { model: { ...WELCOME.model, layers: 0 } },
    { model: { ...WELCOME.model, layers: 1e9 } },
    { model: { ...WELCOME.model, hidden: 50 } },
    { model: { ...WELCOME.model, hidden: 24 } },
    { range: undefined },
    { range: { first: 2, count: 3 } },
    { range: { first: -1, count: 1 } },
    { range: { first: 0.5, count: 1 } },
    { range: { first: 0, count: 0 } },
    { statistics: undefined },
    { statistics: "gradientNorm" },
    { statistics: ["baseNorm"] },
    { start: 11 },
    { start: -1 },
    { start: 0.5 },
    { trained: -1 },
    { repeats: 1 },
    { unknown: 1 },
    { settings: { ...WELCOME.settings, unknown: 1 } },
  ];
  for (const change of wrong) {
    assertThrows(
      () => read({ ...WELCOME, ...change }),
      ProtocolError,
      undefined,
      JSON.stringify(change),
    );
  }
  assertThrows(() => read({}), ProtocolError);
  const settings: RunSettings = WELCOME.settings;
  assertEquals(read(WELCOME).settings, settings);
});
