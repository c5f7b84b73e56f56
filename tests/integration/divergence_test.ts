/**
 * Runs whose numbers are not finite any more end, and say so to everyone.
 */

import { Engine } from "@edgetuner/kernels";
import {
  adapterOf,
  checkRunSettings,
  EdgeServer,
  f32Codec,
  type InputModeName,
  loadAdapter,
  loadRunState,
  LocalData,
  LocalHeads,
  ModelFileError,
  type RunState,
  runStateWriter,
  runStep,
  runTensorParallelDevice,
  saveAdapter,
  TensorParallelServer,
  TrainingError,
  type UserDeviceResult,
  type WireCodec,
} from "@edgetuner/core";
import { LINK_PROFILES, simulate, simulateServerTuner } from "@edgetuner/transport";
import { noPruner } from "@edgetuner/plugins";

import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import {
  BATCH,
  flatten,
  keepAll,
  LOSS,
  TinyGpt2,
  tinyHeads,
  tinySettings,
  trainLocally,
} from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, openLink, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

/** After the first update the weights are so large that the Deltas overflow. */
function wild(mode: InputModeName = "slice") {
  const settings = tinySettings(mode, 6);
  return { ...settings, optimizer: { ...settings.optimizer, learningRate: 1e20 } };
}

/** f32 that reads one kind of frame as another number from a step of its own on. */
function spoiling(kind: string, from: number, value = NaN): WireCodec {
  const inner = f32Codec();
  let read = 0;
  return {
    ...inner,
    name: "spoiling",
    decode: (bytes, shape, stream) => {
      const values = inner.decode(bytes, shape, stream);
      return stream.kind === kind && ++read > from ? values.fill(value) : values;
    },
  };
}

interface Ended {
  readonly error: unknown;
  readonly status: string;
  readonly devices: readonly UserDeviceResult[];
  readonly weights: readonly Float32Array[];
}

/** Runs two devices with heads and, if wanted, a data device of its own; keeps what each says of the end. */
async function run(
  settings: ReturnType<typeof wild>,
  options: {
    readonly shareLoss?: boolean;
    readonly dataApart?: boolean;
    readonly codec?: () => WireCodec;
    readonly modes?: readonly ("train" | "evaluate")[];
    readonly transport?: "websocket" | "http";
    readonly onState?: (name: string, state: RunState) => void | Promise<void>;
  } = {},
): Promise<Ended> {
  const { tensors } = engine.stats;
  const codecs = options.codec === undefined ? undefined : [options.codec()];
  const all = codecs === undefined ? settings : { ...settings, codec: codecs[0]!.name };
  const server = new EdgeServer(serverOptions(model, all, { devices: 2, codecs }));
  await using link = openLink(options.transport ?? "in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const data = dataSide(model, settings.steps, options);
  const join = async (name: string, capacity: number, withData: boolean) =>
    (await joinDevice(link, server, {
      engine,
      name,
      capacity,
      data: withData ? data : undefined,
      codecs: options.codec === undefined ? undefined : [options.codec()],
      onState: (state) => options.onState?.(name, state),
    })).result;
  const results = [
    join("a", 1, options.dataApart !== true),
    join("b", 1, false),
    ...(options.dataApart === true ? [join("data", 0, true)] : []),
  ];
  const error = await running;
  const devices = await Promise.all(results);
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  const weights: Float32Array[] = [];
  for (const { modules } of devices) {
    if (modules === null) continue;
    weights.push(flatten(await modules.weights()));
    modules[Symbol.dispose]();
  }
  assertEquals(engine.stats.tensors, tensors, "nothing is left behind");
  return { error, status: server.status, devices, weights };
}

/** Server and devices all ended with the same words. */
function assertToldAll({ error, status, devices }: Ended, ...parts: string[]): void {
  assertInstanceOf(error, TrainingError);
  assertEquals(status, "failed");
  for (const device of devices) {
    assertInstanceOf(device.error, TrainingError);
    assertEquals(device.error.message, error.message);
  }
  for (const part of parts) assertStringIncludes(error.message, part);
}

for (const shareLoss of [true, false]) {
  for (const transport of ["websocket", "http"] as const) {
    Deno.test(`Deltas that are not finite end the run for all, with the device's name, the loss ${shareLoss ? "" : "not "}shared, over ${transport}`, async () => {
      const ended = await run(wild(), { shareLoss, transport, dataApart: true });
      assertToldAll(ended, `"delta" of device "`, `" must be finite: in step `, "; lower the learning rate");
      const steps = ended.devices[0]!.steps;
      assert(steps >= 1 && steps < 6, `${steps} steps`);
      for (const weights of ended.weights) assert(weights.every(Number.isFinite), "no head learnt from it");
      // The others hear that it was not they: what they have learnt is worth to be kept.
      const { device } = ended.error as TrainingError;
      const [culprit, honest] = device === 'device "a"' ? [0, 1] : [1, 0];
      const devices = ended.devices.map(({ error }) => (error as TrainingError).device);
      assertEquals([devices[culprit], devices[honest], devices[2]], [
        null,
        "another device",
        "another device",
      ]);
    });
  }
}

for (const shape of [{ accumulate: 2 }, { microBatches: 2 }, { clipNorm: 1 }]) {
  Deno.test(`Deltas that are not finite end runs with ${JSON.stringify(shape)}`, async () => {
    assertToldAll(await run({ ...wild("full"), ...shape }), `"delta" of device "`);
  });
}

Deno.test("what a codec reads as NaN ends the run where it is read, before any head learns from it", async () => {
  const settings = tinySettings("slice", 4);
  const hidden = await run(settings, { codec: () => spoiling("hidden", 2) });
  assertToldAll(hidden, `"hidden" of the edge server must be finite: in step 2, layer 0 number 0 is NaN`);
  // Nobody else is to blame for it.
  assertEquals(hidden.devices.map(({ error }) => (error as TrainingError).device), [null, null]);
  assertEquals(hidden.devices.map((d) => d.steps), [2, 2]);
  const gradient = await run(settings, { codec: () => spoiling("deltaGradient", 0) });
  assertToldAll(gradient, `"deltaGradient" of the edge server must be finite: in step 0`);
  assertEquals(gradient.devices.map((d) => d.steps), [0, 0]);
  for (const weights of gradient.weights) assert(weights.every(Number.isFinite));
});

Deno.test("a validation in which numbers are not finite ends the run", async () => {
  const ended = await run(wild(), { modes: ["train", "evaluate", "train"] });
  assertToldAll(ended, `"delta" of device "`, "in step 1");
});

Deno.test("gradients whose norm is not finite end a run that clips, before any head is updated", async () => {
  const settings = { ...tinySettings("slice", 4), clipNorm: 1 };
  const ended = await run(settings, { codec: () => spoiling("deltaGradient", 0, 1e30) });
  assertToldAll(
    ended,
    `"squaredNorm" of device "`,
    "must be finite: in step 0, layer 0 number 0 is Infinity",
  );
  for (const weights of ended.weights) assert(weights.every(Number.isFinite));
});

Deno.test("heads that are not finite are in no state: the run ends, the last good one stays", async () => {
  const folder = await Deno.makeTempDir();
  const settings = { ...tinySettings("slice", 4), saveEvery: 1 };
  const write = {
    a: await runStateWriter(`${folder}/a`, null),
    b: await runStateWriter(`${folder}/b`, null),
  };
  // Three layers give a device three gradients in a step: the heads are fine after the first one.
  const ended = await run(settings, {
    codec: () => spoiling("deltaGradient", 3, 1e30),
    onState: (name, state) => write[name as "a" | "b"](state),
  });
  assertToldAll(ended, "weights and moments of the heads must be finite: after 2 steps");
  for (const name of ["a", "b"]) {
    const files = await Array.fromAsync(Deno.readDir(`${folder}/${name}`), (f) => f.name);
    assertEquals(files, ["step-00000001.safetensors"]);
    assertEquals((await loadRunState(`${folder}/${name}/${files[0]}`)).step, 1);
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("saveAdapter() and states refuse weights that are not finite and leave what is there", async () => {
  const folder = await Deno.makeTempDir();
  using modules = tinyHeads(engine, tinySettings("slice", 1));
  const good = await adapterOf(modules, "tiny");
  await saveAdapter(folder, good);
  for (const bad of [NaN, Infinity, -Infinity]) {
    const arrays = new Map(good.arrays);
    const [name, { shape, data }] = [...arrays][5]!;
    arrays.set(name, { shape, data: data.with(data.length - 1, bad) });
    const error = await assertRejects(() => saveAdapter(folder, { ...good, arrays }), ModelFileError);
    assertStringIncludes(error.message, `every weight must be finite: one of "${name}" is ${bad}`);
  }
  const [name, { data }] = [...(await loadAdapter(folder)).arrays][5]!;
  assertEquals(data, good.arrays.get(name)!.data);

  const write = await runStateWriter(`${folder}/run`, null);
  const learnt = await modules.state();
  const settings = checkRunSettings(tinySettings("slice", 1));
  const state: RunState = {
    run: "r",
    step: 0,
    settings,
    fingerprint: "",
    heads: { model: { layers: 3, heads: 4, hidden: 48 }, range: { first: 0, count: 4 }, state: learnt },
    pruning: null,
    devices: null,
    data: null,
  };
  await write(state);
  learnt.v[2]![3]![1]!.b[0] = NaN;
  await assertRejects(
    () => write({ ...state, step: 1 }),
    ModelFileError,
    'one of "v" is NaN',
  );
  assertEquals((await loadRunState(`${folder}/run/step-00000000.safetensors`)).step, 0);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("on one machine: the loss and the norm end the training, with nothing left behind", async () => {
  const { tensors } = engine.stats;
  const error = await assertRejects(() => trainLocally(model, wild(), keepAll(6)), TrainingError);
  assertStringIncludes(error.message, "gives NaN; lower the learning rate");
  assertEquals(engine.stats.tensors, tensors);
  const settings = { ...tinySettings("slice", 2), clipNorm: 1 };
  using heads = new LocalHeads([tinyHeads(engine, settings)], [], 1);
  // A data side whose gradient is NaN although its loss is not.
  const inner = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
  const data = {
    next: (step: number) => inner.next(step),
    async loss(step: number, hidden: Parameters<LocalData["loss"]>[1]) {
      const { loss, gradient } = await inner.loss(step, hidden);
      gradient!.dispose();
      const { rows, columns } = hidden;
      return {
        loss,
        gradient: engine.upload(new Float32Array(rows * columns).fill(NaN), rows, columns, "NaN"),
      };
    },
  };
  const before = flatten(await heads.devices[0]!.weights());
  const base = model.layers;
  const batch = (await data.next(0))!;
  await assertRejects(
    () => runStep({ engine, base, heads, data }, 0, batch, new Uint8Array(12)),
    TrainingError,
    "the norm of the gradients must be finite",
  );
  assertEquals(flatten(await heads.devices[0]!.weights()), before);
});

Deno.test("simulations say it in their result, with the steps until then", async () => {
  const common = {
    model: { engine, layers: model.layers, ends: model.ends },
    settings: wild(),
    batches: () => BATCH,
    loss: LOSS,
  };
  const link = LINK_PROFILES["lan-1g"];
  const split = await simulate({ ...common, devices: 2, link, pruner: noPruner() });
  assertInstanceOf(split.error, TrainingError);
  for (const { error } of split.devices) assertInstanceOf(error, TrainingError);
  const local = await simulateServerTuner(common);
  assertInstanceOf(local.error, TrainingError);
  assertEquals(local.steps.length, split.steps.length);
  // The last step's update is not seen by any loss of training.
  const last = { ...common, settings: { ...wild(), steps: 1 }, evaluation: [BATCH] };
  assertInstanceOf((await simulate({ ...last, devices: 2, link, pruner: noPruner() })).error, TrainingError);
  assertInstanceOf((await simulateServerTuner(last)).error, TrainingError);
});

Deno.test("tensor parallelism ends the same way", async () => {
  const settings = wild("full");
  const server = new TensorParallelServer({
    ...serverOptions(model, settings),
    model: model.model,
    capacity: 1,
    largestStep: { batch: BATCH.batch, length: BATCH.length },
  });
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const device = await runTensorParallelDevice({
    engine,
    channel: await link.transport.connect(),
    name: "a",
    capacity: 1,
    memory: 1e9,
    data: dataSide(model, 6),
  });
  assertInstanceOf(await running, TrainingError);
  assertInstanceOf(device.error, TrainingError);
  device.modules![Symbol.dispose]();
  server.modules![Symbol.dispose]();
  await link.listener[Symbol.asyncDispose]();
  await admitting;
});
