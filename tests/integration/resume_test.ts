import { Engine } from "@edgetuner/kernels";
import {
  type Channel,
  dataFingerprint,
  decodeFrame,
  HandshakeError,
  loadRunState,
  LocalData,
  LocalHeads,
  openRunStates,
  predictorTrainer,
  type Pruner,
  readRunState,
  requireSameRun,
  type RunSettings,
  type RunState,
  RunStateError,
  type RunStateSource,
  runStateWriter,
  runStep,
  saveHeads,
  saveRunState,
  type SequenceSet,
  shuffledBatches,
} from "@edgetuner/core";
import { greedyPruner, iHeadPruner, noPruner, randomPruner } from "@edgetuner/plugins";
import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { LOSS, TinyGpt2, tinyHeads, tinySettings } from "../support/tiny_model.ts";
import { runSession, type SessionOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const STEPS = 7;

/** Sequences of many lengths, so that another place in the data gives other losses. */
const SET: SequenceSet = {
  sequences: Array.from({ length: 11 }, (_, i) => ({
    tokens: Uint32Array.from({ length: 5 + i % 9 }, (_, t) => (7 * i + 3 * t) % 67),
    firstTarget: 1 + i % 3,
  })),
  length: 13,
  padding: 0,
  shortened: 0,
  shortenedPrompts: 0,
  shortenedCompletions: 0,
  droppedTokens: 0,
};

/** The batch of a training step: a function of its number, as the position in the data is. */
function batchAt(step: number) {
  const batches = shuffledBatches(SET, { batch: 5, seed: 3 });
  batches.position = step;
  return batches.next();
}

/** A folder for each party: the server's first, then the devices'. */
function foldersIn(root: string, devices: number): string[] {
  return ["server", ...Array.from({ length: devices }, (_, i) => `device-${i}`)].map((name) =>
    `${root}/${name}`
  );
}

/** What makes all parties of a session save to their folders. */
async function saving(
  paths: readonly string[],
  resumed: readonly RunStateSource[] = [],
): Promise<Pick<SessionOptions, "onServerState" | "onDeviceState">> {
  const write = await Promise.all(paths.map((path, i) => runStateWriter(path, resumed[i] ?? null)));
  return {
    onServerState: (state) => write[0]!(state),
    onDeviceState: (device, state) => write[device + 1]!(state),
  };
}

const sources = (paths: readonly string[]) => Promise.all(paths.map(openRunStates));

function resume([server, ...devices]: readonly RunStateSource[]): Pick<SessionOptions, "resume"> {
  return { resume: { server: server!, devices } };
}

/** Ends a session without a fault after so many training steps. */
function stopAfter(steps: number): Pick<SessionOptions, "onEvent"> {
  return {
    onEvent: (event, server) => {
      if (event.type === "step" && event.record.step + 1 === steps) server.stop("interrupted");
    },
  };
}

async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Pruners with all kinds of state, and settings that change the order of sums. */
const RUNS: readonly {
  readonly name: string;
  readonly settings: RunSettings;
  // deno-lint-ignore no-explicit-any -- pruners of any state
  readonly pruner: () => Pruner<any>;
  readonly capacities: readonly number[];
  readonly dataApart?: boolean;
}[] = [
  {
    name: "slice mode, greedy pruning",
    settings: tinySettings("slice", STEPS),
    pruner: () => greedyPruner({ warmupSteps: 1 }),
    capacities: [2, 1, 1],
  },
  {
    name: "full mode, random pruning, a data device of its own, f16, what is pruned fades",
    settings: { ...tinySettings("full", STEPS), codec: "f16", prunedFade: 0.8 },
    pruner: () => randomPruner({ share: 0.4 }),
    capacities: [1, 1],
    dataApart: true,
  },
  {
    name:
      "core mode with a shared A and dropout, greedy pruning, micro-batches, few bits, what is pruned fades",
    settings: {
      ...tinySettings("core", STEPS),
      codec: "int8-group,delta=int4,ddelta=f16",
      lora: { ...tinySettings("core", STEPS).lora, projections: { from: "seed", seed: 3, shared: true } },
      microBatches: 2,
      prunedFade: 0.8,
    },
    pruner: () => greedyPruner({ warmupSteps: 1 }),
    capacities: [2, 1, 1],
  },
  {
    name: "slice mode, a predictor trained in the run, parts, micro-batches, clipping, a cosine schedule",
    settings: {
      ...tinySettings("slice", STEPS),
      optimizer: { ...tinySettings("slice", STEPS).optimizer, warmupSteps: 2, schedule: "cosine" },
      accumulate: 2,
      microBatches: 2,
      clipNorm: 0.5,
    },
    pruner: () =>
      iHeadPruner({
        online: { train: predictorTrainer(engine), steps: 6, refresh: 2 },
        history: 1,
        warmupSteps: 1,
      }),
    capacities: [3, 1],
  },
];

for (const { name, settings, pruner, capacities, dataApart = false } of RUNS) {
  Deno.test(`a split run that is resumed is bit-identical to an uninterrupted one: ${name} [slow]`, async () => {
    const tensors = engine.stats.tensors;
    const base = { steps: STEPS, capacities, dataApart, batch: batchAt, shareLoss: true };
    const whole = await runSession(model, { ...base, settings, pruner: pruner() });
    assertNotEquals(whole.losses[5], whole.losses[4]);
    assert(whole.records.some((r) => r.mask.includes(1)), "nothing was pruned");
    assertEquals(engine.stats.tensors, tensors, "tensors left behind");
    await withFolder(async (root) => {
      const paths = foldersIn(root, capacities.length + Number(dataApart));
      const saved = { ...settings, saveEvery: 2 };
      const first = await runSession(model, {
        ...base,
        settings: saved,
        pruner: pruner(),
        ...await saving(paths),
        ...stopAfter(5),
      });
      assertEquals(first.losses, whole.losses.slice(0, 5));
      const found = await sources(paths);
      for (const { steps } of found) {
        assertEquals(steps, [4, 5], "the last two: one of every 2, one at the end");
      }

      const check = async (found: readonly RunStateSource[], start: number) => {
        const rest = await runSession(model, {
          ...base,
          settings: saved,
          pruner: pruner(),
          ...resume(found),
          ...await saving(paths, found),
        });
        assertEquals(rest.server.run, first.server.run);
        assertEquals(rest.devices.map((d) => d.welcome.start), paths.slice(1).map(() => start));
        assertEquals(rest.losses, whole.losses.slice(start));
        const of = (records: typeof whole.records) =>
          records.map(({ step, mask, scores }) => ({ step, mask, scores }));
        assertEquals(of(rest.records), of(whole.records.slice(start)));
        assertEquals(rest.weights, whole.weights);
        assertEquals(rest.states, whole.states, "weights, moments and counts of updates");
        assertEquals(engine.stats.tensors, tensors, "tensors left behind");
      };
      // A device whose last write was cut short: all go on from the step that everyone has.
      await Deno.truncate(`${paths.at(-1)}/step-00000005.safetensors`, 1000);
      const left = await sources(paths);
      assertEquals(left.map(({ steps }) => steps), [...paths.slice(1).map(() => [4, 5]), [4]]);
      await check(left, 4);
      // That run has written on; now a run of its last state but one.
      const later = await sources(paths);
      for (const { steps } of later) assertEquals(steps, [6, 7]);
      await check(later.map((source) => ({ ...source, steps: [6] })), 6);
    });
  });
}

Deno.test("a split run that breaks within a step goes on from the last state, with the same bits [slow]", async () => {
  const settings = { ...tinySettings("slice", STEPS), saveEvery: 2 };
  const base = { settings, steps: STEPS, capacities: [2, 1, 1], batch: batchAt };
  const pruner = () => greedyPruner({ warmupSteps: 1 });
  const whole = await runSession(model, { ...base, pruner: pruner() });
  const tensors = engine.stats.tensors;
  await withFolder(async (root) => {
    const paths = foldersIn(root, 3);
    // The last device loses its connection on the way back through step 5, which others may have ended.
    const wrap = (channel: Channel, device: number): Channel => {
      if (device !== 2) return channel;
      return {
        peer: channel.peer,
        closed: channel.closed,
        async send(bytes, options) {
          const { kind, step } = decodeFrame(bytes);
          if (kind === "inputGradient" && step === 5) await channel.close("cut off");
          else await channel.send(bytes, options);
        },
        receive: (options) => channel.receive(options),
        close: (reason) => channel.close(reason),
        [Symbol.asyncDispose]: () => channel.close(),
      };
    };
    await assertRejects(
      async () => runSession(model, { ...base, pruner: pruner(), wrap, ...await saving(paths) }),
      Error,
      "cut off",
    );
    const found = await sources(paths);
    for (const { steps } of found) assertEquals(steps, [2, 4], "nothing is saved of a run that failed");
    const rest = await runSession(model, {
      ...base,
      pruner: pruner(),
      ...resume(found),
      ...await saving(paths, found),
    });
    assertEquals(rest.losses, whole.losses.slice(4));
    assertEquals(rest.states, whole.states);
    assertEquals(engine.stats.tensors, tensors, "tensors left behind");
  });
});

Deno.test("a run on one machine that is resumed ends with the same bits", async () => {
  const settings: RunSettings = { ...tinySettings("full", STEPS, 0.2), accumulate: 2, clipNorm: 0.5 };
  const { layers: base, ends } = model;
  /** Runs from a state, or the start, to a step. */
  const run = async (end: number, from: RunState | null) => {
    const modules = tinyHeads(engine, settings);
    if (from?.heads) modules.restore(from.heads.state);
    using heads = new LocalHeads([modules], [], settings.clipNorm);
    const batches = shuffledBatches(SET, { batch: 5, seed: 3 });
    batches.position = from?.data?.position ?? 0;
    const data = new LocalData(
      ends,
      LOSS,
      () => ({ batch: batches.next(), mode: "train" }),
      settings.accumulate,
    );
    const losses: number[] = [];
    for (let step = from?.step ?? 0; step < end; step++) {
      const { loss } = await runStep(
        { engine, base, heads, data },
        step,
        (await data.next(step))!,
        new Uint8Array(12),
      );
      losses.push(loss!);
    }
    const fingerprint = await dataFingerprint(SET, { batch: 5, seed: 3 });
    const state: RunState = {
      run: "alone",
      step: end,
      settings: settings as RunState["settings"],
      fingerprint: "tiny",
      heads: await saveHeads(modules),
      pruning: null,
      devices: null,
      data: { fingerprint, position: batches.position, best: { step: 2, loss: 1.5 } },
    };
    return { losses, state };
  };
  const before = engine.stats.tensors;
  const whole = await run(STEPS, null);
  const first = await run(3, null);
  await withFolder(async (root) => {
    await saveRunState(`${root}/c.safetensors`, first.state);
    const loaded = await loadRunState(`${root}/c.safetensors`);
    assertEquals(await readRunState(await Deno.readFile(`${root}/c.safetensors`)), loaded);
    assertEquals(loaded.data, first.state.data);
    assertEquals(loaded.heads, first.state.heads);
    const rest = await run(STEPS, loaded);
    assertEquals([...first.losses, ...rest.losses], whole.losses);
    assertEquals(rest.state.heads, whole.state.heads);
    // Without the moments it is another run: the test can fail.
    const { heads } = loaded;
    const fresh = tinyHeads(engine, settings);
    const zero = (await fresh.state()).m;
    fresh[Symbol.dispose]();
    const other = await run(STEPS, { ...loaded, heads: { ...heads!, state: { ...heads!.state, m: zero } } });
    assertNotEquals(other.state.heads, whole.state.heads);
  });
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});

/** A session of 3 steps whose states lie in the folders that are returned. */
async function shortRun(root: string, settings: RunSettings): Promise<string[]> {
  const paths = foldersIn(root, 2);
  const run = { settings: { ...settings, saveEvery: 2 }, steps: 3, capacities: [3, 1], batch: batchAt };
  await runSession(model, { ...run, pruner: noPruner(), ...await saving(paths) });
  return paths;
}

/** States that do not say whose they are. */
function unnamed(source: RunStateSource): RunStateSource {
  return { ...source, load: async (step) => ({ ...await source.load(step), devices: null }) };
}

Deno.test("heads go back to the device that had them, whatever its name and the order of joining", async () => {
  const settings = { ...tinySettings("slice", STEPS), saveEvery: 2 };
  const base = { settings, steps: STEPS, capacities: [1, 1, 1], dataApart: true, batch: batchAt };
  const identities = ["b", "a", "c", "d"].map((id) => ({ name: "phone", id: id.repeat(8) }));
  const whole = await runSession(model, { ...base, identities, pruner: greedyPruner({ warmupSteps: 1 }) });
  const ids = (run: typeof whole) =>
    run.server.devices.filter((d) => d.range !== null).sort((a, b) => a.range!.first - b.range!.first)
      .map(({ id }) => id[0]);
  assertEquals(ids(whole), ["a", "b", "c"]);
  await withFolder(async (root) => {
    const [server, ...paths] = foldersIn(root, 4) as [string, ...string[]];
    await runSession(model, {
      ...base,
      identities,
      pruner: greedyPruner({ warmupSteps: 1 }),
      ...await saving([server, ...paths]),
      ...stopAfter(4),
    });
    for (const order of [[2, 1, 0, 3], [1, 2, 0, 3]]) {
      const names = ["renamed", "phone", "phone", "phone"];
      const run = await runSession(model, {
        ...base,
        // The id comes with the state.
        identities: order.map((_, i) => ({ name: names[i]! })),
        pruner: greedyPruner({ warmupSteps: 1 }),
        ...resume(await sources([server, ...order.map((i) => paths[i]!)])),
      });
      assertEquals(run.devices[0]!.welcome.start, 4);
      assertEquals(ids(run), ["a", "b", "c"]);
      assertEquals(run.states, whole.states);
    }
    const found = await sources([server, ...paths]);
    await assertRejects(
      () =>
        runSession(model, {
          ...base,
          identities: identities.map((identity, i) =>
            i === 1 ? { ...identity, id: "e".repeat(8) } : identity
          ),
          ...resume(found),
        }),
      RunStateError,
      'must be of this device, "phone" (id eeeeeeee): it is of "phone" (id aaaaaaaa)',
    );
  });
});

Deno.test("what does not belong to the run is refused with a reason [slow]", async () => {
  const settings = tinySettings("slice", 3);
  await withFolder(async (root) => {
    const paths = await shortRun(root, settings);
    const found = await sources(paths);
    const base = { steps: 3, capacities: [3, 1], batch: batchAt, pruner: noPruner() };
    const refused = async (
      change: Partial<SessionOptions>,
      kind: new (message?: string) => Error,
      ...rules: string[]
    ) => {
      const tensors = engine.stats.tensors;
      const error = await assertRejects(
        () => runSession(model, { ...base, settings, ...resume(found), ...change }),
        kind,
      ) as Error;
      for (const rule of rules) assert(error.message.includes(rule), error.message);
      assertEquals(engine.stats.tensors, tensors, "tensors left behind");
    };
    const optimizer = { ...settings.optimizer, learningRate: 0.5 };
    await refused(
      { settings: { ...settings, optimizer } },
      RunStateError,
      "optimizer.learningRate must be 0.01",
      "current value is 0.5",
    );
    await refused({ settings: { ...settings, clipNorm: 2 } }, RunStateError, "clipNorm must be null");
    await refused(
      { pruner: randomPruner({ share: 0 }) },
      HandshakeError,
      'pruner must be "none"',
      '"random"',
    );
    await refused({ capacities: [2, 1] }, HandshakeError, "capacity must be 3", "current value is 2");
    const [server, first, second] = found as [RunStateSource, RunStateSource, RunStateSource];
    await refused(
      resume([server, { ...first, steps: [1], load: () => first.load(3) }, second]),
      HandshakeError,
      "same step",
      '"device 0" 1',
    );
    // Two devices with each other's states: the device itself refuses.
    await refused(
      resume([server, second, first]),
      RunStateError,
      'must be of this device, "device 0": it is of "device 1"',
    );
    await refused(
      {
        identities: [{ name: "stranger" }, { name: "device 1" }],
        ...resume([server, unnamed(first), second]),
      },
      HandshakeError,
      'Cannot admit "stranger" as the devices with heads must be those of the saved state, "device 0", "device 1"',
    );
    await refused({ resume: { server, devices: [first] } }, HandshakeError, "must bring states of run");
    await refused(resume([server, first, { ...second, run: "another" }]), HandshakeError, '"another"');
    await refused(
      { resume: { server: undefined as unknown as RunStateSource, devices: [first, second] } },
      HandshakeError,
      "no states to a new run",
    );
    const saved = await first.load(3);
    assertThrows(
      () => requireSameRun(saved, { fingerprint: "other" }),
      RunStateError,
      "base model's fingerprint",
    );
    assertThrows(
      () => requireSameRun(saved, { dataFingerprint: "other" }),
      RunStateError,
      "data and batches",
    );
    // Of before the format was noted.
    assertEquals(saved.baseWeights, undefined);
    requireSameRun(saved, { baseWeights: "int8" });
    const noted = `${root}/noted.safetensors`;
    await saveRunState(noted, { ...saved, baseWeights: "f16" });
    const held = await loadRunState(noted);
    assertEquals(held, { ...saved, baseWeights: "f16" });
    for (const baseWeights of ["f16", undefined] as const) requireSameRun(held, { baseWeights });
    assertThrows(
      () => requireSameRun(held, { baseWeights: "f32" }),
      RunStateError,
      'the format of the base\'s weights must be "f16", as in the saved state: current value is "f32"',
    );
    await assertRejects(() => runStateWriter(paths[0]!, null), RunStateError, "must be empty");
  });
});

Deno.test("damaged states are refused with a RunStateError, and cut ones leave the older one [slow]", async () => {
  await withFolder(async (root) => {
    const paths = await shortRun(root, tinySettings("slice", 3));
    for (const folder of paths) {
      const file = `${folder}/step-00000003.safetensors`;
      const bytes = await Deno.readFile(file);
      for (const size of [0, 4, 100, Math.floor(bytes.length / 2), bytes.length - 1]) {
        await Deno.writeFile(file, bytes.subarray(0, size));
        await assertRejects(() => loadRunState(file), RunStateError);
        await assertRejects(() => readRunState(bytes.subarray(0, size), "mine"), RunStateError, "mine");
        const { steps, damaged } = await openRunStates(folder);
        assertEquals([steps, damaged?.length], [[2], 1]);
        assert(damaged![0]!.message.includes("step-00000003"), damaged![0]!.message);
        await assertRejects(
          () => openRunStates(file),
          RunStateError,
          `${folder}/step-00000002.safetensors is intact: give that one, or the folder`,
        );
      }
      // A single bit, of weights or of the JSON.
      const ofJson = new TextDecoder("latin1").decode(bytes).indexOf("settings");
      for (const place of [bytes.length - 2, ofJson]) {
        const flipped = bytes.slice();
        flipped[place]! ^= 1;
        await Deno.writeFile(file, flipped);
        await assertRejects(() => loadRunState(file), RunStateError);
      }
      // With none that is intact there is nothing to go on from.
      const older = `${folder}/step-00000002.safetensors`;
      const whole = await Deno.readFile(older);
      await Deno.truncate(older, 100);
      await assertRejects(() => openRunStates(folder), RunStateError, "step-00000003");
      await Deno.writeFile(older, whole);
      await Deno.rename(`${folder}/step-00000002.safetensors`, file);
      const source = await openRunStates(folder);
      await assertRejects(() => source.load(3), RunStateError, "it is of step 2");
    }
    await assertRejects(() => openRunStates(`${root}/none`), RunStateError, "none");
    await assertRejects(() => openRunStates(root), RunStateError, "must hold a state");
    await assertRejects(
      () => loadRunState("cli/assets/tiny_gpt2/model.safetensors"),
      RunStateError,
      "format",
    );
  });
});

Deno.test("dataFingerprint() differs for other sequences, other targets and another way of drawing", async () => {
  const first = await dataFingerprint(SET, { batch: 5 });
  assertEquals(await dataFingerprint({ ...SET, sequences: [...SET.sequences] }, { batch: 5 }), first);
  const [one, ...others] = SET.sequences;
  const changes: [SequenceSet, unknown][] = [
    [SET, { batch: 6 }],
    [{ ...SET, length: 14 }, { batch: 5 }],
    [{ ...SET, sequences: others }, { batch: 5 }],
    [{ ...SET, sequences: [...others, one!] }, { batch: 5 }],
    [{ ...SET, sequences: [{ ...one!, firstTarget: 2 }, ...others] }, { batch: 5 }],
    [{ ...SET, sequences: [{ ...one!, counts: new Uint8Array(one!.tokens.length) }, ...others] }, {
      batch: 5,
    }],
    [{ ...SET, sequences: [{ ...one!, tokens: one!.tokens.map((t) => t + 1) }, ...others] }, { batch: 5 }],
  ];
  const seen = new Set([first]);
  for (const [set, drawing] of changes) seen.add(await dataFingerprint(set, drawing));
  assertEquals(seen.size, changes.length + 1);
});
