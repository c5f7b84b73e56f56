/**
 * Whose heads were away is told with all that comes of a run: validations, the best heads, files, and the end.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import {
  absenceLines,
  adapterOf,
  joinAdapters,
  loadAdapter,
  type RunState,
  saveAdapter,
  type StepMode,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { readAdapter } from "@edgetuner/core/device";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { dataSide } from "./_session.ts";
import { type LossyOptions, runLossy } from "./_lossy.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const MODES: StepMode[] = ["train", "train", "evaluate", "train", "train"];
/** Four heads a layer: heads 0 and 1 are device 0's, 2 and 3 device 1's, which is lost in step 1. */
const OPTIONS: LossyOptions = {
  settings: { ...tinySettings("slice", 4), saveEvery: 1 },
  steps: 4,
  capacities: [1, 1],
  modes: MODES,
  faults: {
    1: ({ link, frame }) => link === 0 && frame.step === 1 && frame.kind === "delta" ? "cut" : undefined,
  },
};

Deno.test("a file that is saved while heads are away names them, and so does whoever reads it", async () => {
  const folder = await Deno.makeTempDir();
  const told: (readonly number[])[] = [];
  const states: RunState[] = [];
  let asked = 0;
  const data = {
    ...dataSide(model, 4, { modes: MODES, isBest: () => MODES[asked++ - 1] === "evaluate" }),
    onAway: (heads: readonly number[]) => void told.push(heads),
  };
  const lossy = await runLossy(model, {
    ...OPTIONS,
    server: { onState: (state) => void states.push(state) },
    device: (i) =>
      i !== 0 ? {} : {
        data,
        onBest: async (steps, modules, absences) => {
          const adapter = { ...await adapterOf(modules), ...absences };
          await saveAdapter(folder, adapter, { run: "r", steps });
        },
      },
  });
  assertEquals([lossy.error, lossy.devices[0]!.error], [null, null]);
  assertEquals(told, [[2, 3]], "the validation was without them");
  const best = await loadAdapter(folder);
  assertEquals([best.away, best.missed], [[2, 3], undefined], "the best by that validation");
  assertEquals(joinAdapters([best]).away, [2, 3]);
  const bytes = await Deno.readFile(`${folder}/adapter_model.safetensors`);
  assertEquals((await readAdapter(bytes)).away, [2, 3]);
  assertStringIncludes(absenceLines(best).join(), "heads 2 to 3 were away");
  const { absences } = lossy.devices[0]!;
  assertEquals(absences, { away: [2, 3], missed: [{ heads: [2, 3], steps: 3 }] }, "at the end");
  const saved = states.at(-1)!.devices!.map(({ trained, missed }) => [trained, missed]);
  assertEquals(saved, [[undefined, undefined], [1, undefined]]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("heads that are back have missed steps, and all devices hear of it at the end; a run that nobody misses says nothing", async () => {
  const states: RunState[] = [];
  const lossy = await runLossy(model, {
    ...OPTIONS,
    comesBack: true,
    server: { onState: (state) => void states.push(state) },
  });
  const back = lossy.events.flatMap((e) => e.type === "back" ? [e.step] : [])[0]!;
  const missed = [{ heads: [2, 3], steps: back - 1 }];
  assertEquals(lossy.devices.map((d) => d.absences), [{ missed }, { missed }]);
  assertEquals(lossy.devices[1]!.welcome.missed, back - 1);
  assertEquals(states.at(-1)!.devices!.map((d) => d.missed), [undefined, back - 1]);
  const whole = await runLossy(model, { ...OPTIONS, faults: {} });
  assertEquals(whole.devices.map((d) => d.absences), [{}, {}]);
});
