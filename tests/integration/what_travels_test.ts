/**
 * What each party sees, as the page says it, against the ledgers of real runs; and what can be computed of it.
 */

import { Engine } from "@edgetuner/kernels";
import {
  EdgeServer,
  type Frame,
  type FrameKind,
  type InputModeName,
  type LedgerEntry,
  type RunSettings,
  runTensorParallelDevice,
  sample,
  TensorParallelServer,
  type UserDeviceResult,
} from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { Matrix, solve } from "ml-matrix";
import { BATCH, LOSS, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { runOwners, turnsOf } from "./_owners.ts";
import {
  admitAll,
  dataSide,
  joinDevice,
  openLink,
  type Passed,
  runSession,
  scriptedPruner,
  serverOptions,
  tapped,
} from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const HANDSHAKE: readonly string[] = ["hello", "welcome", "finished", "end"];
/** What each party sees, as the table has it: of the data device, of a device with heads; and these two. */
type Row = readonly [string[], string[], string[], string[]];

/** Rows of the table on the page by what the run is; kinds in alphabetical order. */
async function pageTable(): Promise<Map<string, Row>> {
  const page = await Deno.readTextFile(new URL("../../docs/security.md", import.meta.url));
  const rows = new Map<string, Row>();
  for (const line of page.split("\n")) {
    const cells = line.split("|").slice(1, -1).map((cell) => cell.trim());
    if (cells.length !== 5 || !/^(training|\+|generation|tensor)/.test(cells[0]!)) continue;
    const kinds = cells.slice(1).map((cell) => [...cell.matchAll(/`(\w+)`/g)].map((m) => m[1]!).sort());
    rows.set(cells[0]!.replaceAll("`", ""), kinds as unknown as Row);
  }
  return rows;
}

function kinds(entries: readonly LedgerEntry[], direction: LedgerEntry["direction"]): string[] {
  return entries.filter((e) => e.direction === direction && !HANDSHAKE.includes(e.kind)).map((e) => e.kind)
    .sort();
}

/** The row that two devices' ledgers make. */
function rowOf(heads: UserDeviceResult, data: UserDeviceResult): Row {
  const [h, d] = [heads.ledger.entries(), data.ledger.entries()];
  for (const { kind, direction } of [...h, ...d]) {
    const isHandshake = kind === "welcome" || kind === "end"
      ? direction === "received"
      : direction === "sent";
    if (HANDSHAKE.includes(kind)) assert(isHandshake, `${kind} ${direction}`);
  }
  return [kinds(d, "sent"), kinds(h, "sent"), kinds(d, "received"), kinds(h, "received")];
}

/** A training run of a device with heads and a data device apart. */
async function train(
  settings: RunSettings,
  options: { readonly statistics?: boolean; readonly shareLoss?: boolean } = {},
): Promise<{ readonly row: Row; readonly frames: readonly Frame[] }> {
  const frames: Frame[] = [];
  const { devices } = await runSession(model, {
    settings,
    steps: 2,
    capacities: [1],
    dataApart: true,
    pruner: scriptedPruner([new Uint8Array(12)], options.statistics ? ["gradientNorm"] : []),
    shareLoss: options.shareLoss ?? false,
    onFrame: ({ frame }) => frames.push(frame),
  });
  return {
    row: rowOf(
      devices.find((d) => d.welcome.range !== null)!,
      devices.find((d) => d.welcome.range === null)!,
    ),
    frames,
  };
}

function widthOf(frames: readonly Frame[], kind: FrameKind): number {
  return frames.find((f) => f.kind === kind)!.tensors[0]!.shape.at(-1)!;
}

/** Adds the kinds of a row that begins with "+" to those of plain training. */
function joined(base: Row, more: Row): Row {
  return base.map((kinds, i) => [...kinds, ...more[i]!].sort()) as unknown as Row;
}

Deno.test("docs/security.md: each party sees the kinds of frames that its table says, in every mode [slow]", async () => {
  const table = await pageTable();
  assertEquals([...table.keys()], [
    "training, slice",
    "training, full",
    "training, core",
    "+ clipping",
    "+ a pruner's statistics",
    "+ a shared loss",
    "generation",
    "tensor parallelism",
  ]);
  const slice = await train(tinySettings("slice", 2));
  assertEquals(slice.row, table.get("training, slice"));
  assertEquals(widthOf(slice.frames, "input"), 12, "its columns of X");
  const full = await train(tinySettings("full", 2));
  assertEquals(full.row, table.get("training, full"));
  assertEquals(widthOf(full.frames, "input"), 48, "all of X");
  const core = await train(tinySettings("core", 2));
  assertEquals(core.row, table.get("training, core"));
  assertEquals(widthOf(core.frames, "input"), 4, "r numbers");
  const plain = table.get("training, slice")!;
  const clipped = await train({ ...tinySettings("slice", 2), clipNorm: 1 });
  assertEquals(clipped.row, joined(plain, table.get("+ clipping")!));
  const statistics = await train(tinySettings("slice", 2), { statistics: true });
  assertEquals(statistics.row, joined(plain, table.get("+ a pruner's statistics")!));
  const shared = await train(tinySettings("slice", 2), { shareLoss: true });
  assertEquals(shared.row, joined(plain, table.get("+ a shared loss")!));
});

Deno.test("docs/security.md: in generation and tensor parallelism too", async () => {
  const table = await pageTable();
  const common = { engine, timeoutMs: 20_000 };
  {
    await using link = openLink("in-process");
    const server = new EdgeServer(serverOptions(model, tinySettings("slice", 2)));
    const admitting = admitAll(link.listener, server);
    const running = server.start();
    const heads = await joinDevice(link, server, { ...common, name: "a", capacity: 1 });
    const data = await joinDevice(link, server, {
      ...common,
      name: "data",
      capacity: 0,
      data: {
        ...dataSide(model, 0),
        generate: async (session) =>
          void await sample(session, [3, 14, 15], { maxNewTokens: 3, endTokens: [] }),
      },
    });
    await running;
    const results = [await heads.result, await data.result] as const;
    await link.listener[Symbol.asyncDispose]();
    await admitting;
    assertEquals(rowOf(...results), table.get("generation"));
    results[0].modules![Symbol.dispose]();
  }
  await using link = openLink("in-process");
  using server = new TensorParallelServer({
    ...serverOptions(model, tinySettings("slice", 2)),
    model: model.model,
    capacity: 1,
    largestStep: { batch: BATCH.batch, length: BATCH.length },
  });
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const join = async (name: string, capacity: number) =>
    await runTensorParallelDevice({
      ...common,
      channel: await link.transport.connect(),
      name,
      capacity,
      memory: 1e9,
      data: capacity === 0 ? dataSide(model, 2) : undefined,
    });
  const results = await Promise.all([join("a", 1), join("data", 0), running] as const);
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  assertEquals(rowOf(results[0], results[1]), table.get("tensor parallelism"));
  results[0].modules![Symbol.dispose]();
});

/** What the edge server sees of three training steps and a validation, dropout off; with the heads' weights. */
async function eavesdrop(mode: InputModeName = "slice") {
  const passed: Passed[] = [];
  await using link = openLink("in-process");
  const settings = tinySettings(mode, 3, 0);
  const server = new EdgeServer(serverOptions(model, settings));
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const { result } = await joinDevice(link, server, {
    engine,
    name: "a",
    capacity: 1,
    data: dataSide(model, 3, { modes: ["train", "train", "train", "evaluate"] }),
  }, (channel) => tapped(channel, 0, (p) => passed.push(p)));
  await running;
  const { modules } = await result;
  const weights = await modules!.weights();
  modules![Symbol.dispose]();
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  const values = (kind: FrameKind, step: number, layer = 0) =>
    passed.map((p) => p.frame).find((f) => f.kind === kind && f.step === step && f.layer === layer)!
      .tensors[0]!
      .data as Float32Array;
  return { values, weights, settings };
}

const D = 48;
const rowsOf = (values: Float32Array, width: number) =>
  Array.from({ length: values.length / width }, (_, i) => values.subarray(i * width, (i + 1) * width));
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};
const publicWeights = (name: string) => {
  const { weights } = model.model;
  return (weights.get(name) ?? weights.get(`transformer.${name}`))!.data;
};

Deno.test("what E gives away: the tokens, by the nearest row of the public embedding", async () => {
  const { values } = await eavesdrop();
  const [tokens, positions] = [
    rowsOf(publicWeights("wte.weight"), D),
    rowsOf(publicWeights("wpe.weight"), D),
  ];
  const found = rowsOf(values("embedding", 0), D).map((e, i) => {
    const word = e.map((x, k) => x - positions[i % BATCH.length]![k]!);
    const distances = tokens.map((t) => dot(t.map((x, k) => x - word[k]!), t.map((x, k) => x - word[k]!)));
    return distances.indexOf(Math.min(...distances));
  });
  assertEquals(Uint32Array.from(found), BATCH.tokens);
});

Deno.test("what h_L and dh_L give away: the labels, by the public LM head", async () => {
  const { values } = await eavesdrop();
  const head = rowsOf(publicWeights("wte.weight"), D);
  const [gamma, beta] = [publicWeights("ln_f.weight"), publicWeights("ln_f.bias")];
  const { labelSmoothing } = LOSS;
  const gradients = rowsOf(values("hiddenGradient", 0), D);
  let counted = 0;
  rowsOf(values("hidden", 0), D).forEach((h, i) => {
    if (BATCH.mask[i] === 0) return;
    counted++;
    const mean = h.reduce((a, b) => a + b) / D;
    const deviation = Math.sqrt(h.reduce((sum, x) => sum + (x - mean) ** 2, 0) / D + 1e-5);
    const normal = Array.from(h, (x) => (x - mean) / deviation);
    const logits = head.map((w) => dot(w, normal.map((x, k) => x * gamma[k]! + beta[k]!)));
    const top = Math.max(...logits);
    const exps = logits.map((x) => Math.exp(x - top));
    const sum = exps.reduce((a, b) => a + b);
    /** The gradient that a label would give, up to its scale. */
    const gradientOf = (label: number) => {
      const dLogits = exps.map((e, v) =>
        e / sum - (1 - labelSmoothing) * Number(v === label) - labelSmoothing / head.length
      );
      const dNormal = normal.map((_, k) => head.reduce((s, w, v) => s + dLogits[v]! * w[k]!, 0) * gamma[k]!);
      const average = dNormal.reduce((a, b) => a + b) / D;
      const along = dot(dNormal, normal) / D;
      return dNormal.map((x, k) => x - average - normal[k]! * along);
    };
    const likeness = head.map((_, label) => {
      const g = gradientOf(label);
      return dot(g, gradients[i]!) / Math.sqrt(dot(g, g));
    });
    assertEquals(likeness.indexOf(Math.max(...likeness)), BATCH.targets[i], `token ${i}`);
  });
  assert(counted > 5, `${counted} labels`);
});

Deno.test("what X and the Deltas give away: a head module's product B A, by least squares", async () => {
  const { values, weights, settings } = await eavesdrop();
  const { rank, alpha } = settings.lora;
  const [layer, headIndex, size, tokens] = [1, 2, 12, BATCH.batch * BATCH.length];
  // The validation after the last step: inputs [n, T, D] and Deltas [c, n, T, D] of the heads as they end.
  const block = (all: Float32Array, at: number) =>
    new Matrix(rowsOf(all.subarray(at * tokens * size, (at + 1) * tokens * size), size).map((r) => [...r]));
  const x = block(values("input", 3, layer), headIndex);
  settings.lora.targets.forEach((_, target) => {
    const found = solve(x, block(values("delta", 3, layer), target * 4 + headIndex), true);
    const { a, b } = weights[layer]![headIndex]![target]!;
    let [difference, largest] = [0, 0];
    for (let i = 0; i < size; i++) {
      for (let o = 0; o < size; o++) {
        let product = 0;
        for (let k = 0; k < rank; k++) product += a[k * size + i]! * b[o * rank + k]!;
        product *= alpha / rank;
        difference = Math.max(difference, Math.abs(found.get(i, o) - product));
        largest = Math.max(largest, Math.abs(product));
      }
    }
    assert(largest > 0 && difference < 0.01 * largest, `${difference} of ${largest}`);
  });
});

Deno.test("what u and v give away: the core of a head module, by least squares", async () => {
  const { values, weights, settings } = await eavesdrop("core");
  const { lora: { rank, targets } } = settings;
  const [layer, headIndex, tokens] = [1, 2, BATCH.batch * BATCH.length];
  // Of the validation after the last step, [c, n, T, r] both ways.
  const block = (kind: FrameKind, target: number) => {
    const at = target * 4 + headIndex;
    const all = values(kind, 3, layer).subarray(at * tokens * rank, (at + 1) * tokens * rank);
    return new Matrix(rowsOf(all, rank).map((row) => [...row]));
  };
  for (const target of targets.keys()) {
    const found = solve(block("input", target), block("delta", target), true);
    const { a: core } = weights[layer]![headIndex]![target]!;
    const largest = Math.max(...core.map(Math.abs));
    assert(largest > 0);
    core.forEach((x, i) => {
      const difference = Math.abs(found.get(i % rank, Math.floor(i / rank)) - x);
      assert(difference < 0.01 * largest, `${difference} of ${largest}`);
    });
  }
});

Deno.test("of others' turns an owner without heads hears nothing but that it waits and saves; one with heads sees their X", async () => {
  const train = () => BATCH;
  const settings = { ...tinySettings("slice", 6), saveEvery: 2, accumulate: 2 };
  for (const mix of [false, true]) {
    const { error, devices, records } = await runOwners(model, {
      settings,
      owners: [
        { name: "attic", train, shareLoss: false },
        { name: "barn", train, shareLoss: false, capacity: 1 },
      ],
      capacities: [1],
      server: { sharing: { mix, share: "examples" } },
    });
    assertEquals(error, null);
    const own = mix ? 6 : turnsOf(records).filter((name) => name === "attic").length;
    const parts = mix ? own : 2 * own;
    const frames = (device: UserDeviceResult, direction: LedgerEntry["direction"]) =>
      Object.fromEntries(
        device.ledger.entries().filter((e) => e.direction === direction && e.kind !== "paused")
          .map((e) => [e.kind, e.frames]),
      );
    const [attic, barn, heads] = devices as [UserDeviceResult, UserDeviceResult, UserDeviceResult];
    assertEquals(frames(attic, "sent"), {
      ...{ hello: 1, examples: 1, embedding: parts, hiddenGradient: parts },
      finished: 3,
    });
    assertEquals(frames(attic, "received"), {
      ...{ welcome: 1, examples: 1, turn: own + 3, hidden: parts, save: 3, end: 1 },
    });
    // All parts of all steps, whoever's data they are of.
    for (const device of [barn, heads]) {
      const { mask, input, deltaGradient } = frames(device, "received");
      assertEquals([mask, input, deltaGradient], [12, 3 * 12, 3 * 12]);
    }
  }
});
