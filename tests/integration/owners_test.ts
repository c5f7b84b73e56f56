import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { describeStep, messagesOf, modeSize } from "@edgetuner/core";
import type {
  EdgeServer,
  RunSettings,
  RunState,
  RunStateSource,
  StepRecord,
  TokenBatch,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { batchOf, shallowModel, TinyGpt2 } from "../support/tiny_model.ts";
import { BATCHES, type OwnersOptions, runOwners, settingsOf, type TestOwner, turnsOf } from "./_owners.ts";
import type { Fault, PassedFrame } from "./_lossy.ts";
import { runSession, scriptedPruner } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine, shallowModel());

const DATA: Readonly<Record<string, (position: number) => TokenBatch>> = BATCHES;
const owner = (name: string, more: Partial<TestOwner> = {}): TestOwner => ({
  name,
  train: DATA[name]!,
  ...more,
});

Deno.test("two owners with half of the data each give the run of one with the interleaved data, bit for bit [slow]", async () => {
  const before = engine.stats.tensors;
  for (
    const [what, capacities, more] of [
      ["one device", [1], {}],
      ["two devices, clipping", [1, 1], { clipNorm: 0.5 }],
      ["three devices, micro-batches and accumulation", [2, 1, 1], { microBatches: 2, accumulate: 2 }],
      ["two devices, a codec", [1, 1], { codec: "int8" }],
    ] as const
  ) {
    const settings = settingsOf(6, more);
    const options: OwnersOptions = { settings, owners: [owner("attic"), owner("barn")], capacities };
    const shared = await runOwners(model, options);
    assertEquals([shared.error, shared.devices.map((d) => d.error)], [
      null,
      shared.devices.map(() => null),
    ]);
    const turns = turnsOf(shared.records);
    // Equal shares: one after the other.
    assertEquals(turns.filter((name) => name === "attic").length, 3, what);
    assertEquals(new Set([turns[0], turns[1]]).size, 2, what);
    const single = await runSession(model, {
      ...{ settings, steps: 6, capacities, dataApart: true, shareLoss: true },
      batch: (step) =>
        DATA[turns[step]!]!(turns.slice(0, step).filter((name) => name === turns[step]).length),
    });
    assertEquals(shared.records.map((r) => r.loss), [...single.losses], what);
    assertEquals(shared.states, single.states, what);
  }
  assertEquals(engine.stats.tensors, before);
});

/** Losses, and what devices with heads have learnt, of one data device that has the batches of these turns. */
async function singleOf(
  records: readonly StepRecord[],
  { settings, capacities }: { readonly settings: RunSettings; readonly capacities: readonly number[] },
) {
  const turns = turnsOf(records);
  const masks = records.filter((r) => r.mode === "train").map(({ mask }) => mask);
  const single = await runSession(model, {
    ...{ settings, steps: settings.steps, capacities, dataApart: true, pruner: scriptedPruner(masks) },
    batch: (step) => DATA[turns[step]!]!(turns.slice(0, step).filter((name) => name === turns[step]).length),
  });
  return { losses: [...single.losses], states: single.states };
}

/** Sequences of batches as one batch. */
function joined(batches: readonly TokenBatch[]): TokenBatch {
  const [first] = batches as [TokenBatch];
  const join = <T extends Uint32Array | Float32Array>(all: T, of: (batch: TokenBatch) => T): T => {
    let at = 0;
    for (const batch of batches) {
      all.set(of(batch), at);
      at += of(batch).length;
    }
    return all;
  };
  const rows = batches.reduce((sum, { batch, length }) => sum + batch * length, 0);
  return {
    tokens: join(new Uint32Array(rows), (b) => b.tokens),
    targets: join(new Uint32Array(rows), (b) => b.targets),
    mask: join(new Float32Array(rows), (b) => b.mask),
    batch: rows / first.length,
    length: first.length,
  };
}

Deno.test("a step that is mixed of two owners' parts is that of one owner with both, bit for bit [slow]", async () => {
  const part = (name: string, position: number) => {
    const all = batchOf(7);
    const at = (2 * position + (name === "barn" ? 1 : 0)) % 7;
    const cut = <T extends Uint32Array | Float32Array>(values: T) =>
      values.slice(at * all.length, (at + 1) * all.length) as T;
    return { ...all, batch: 1, tokens: cut(all.tokens), targets: cut(all.targets), mask: cut(all.mask) };
  };
  for (const [accumulate, microBatches, clipNorm] of [[2, 1, 0.5], [4, 1, null], [3, 1, null]] as const) {
    const settings = settingsOf(4, { accumulate, microBatches, clipNorm });
    const shared = await runOwners(model, {
      settings,
      capacities: [1, 1],
      owners: ["attic", "barn"].map((name) => ({ name, train: (position: number) => part(name, position) })),
      server: { sharing: { mix: true } },
    });
    assertEquals(shared.error, null);
    const given: Record<string, number> = { attic: 0, barn: 0 };
    const batches = shared.records.map(({ owners, batch }) => {
      assertEquals(batch, accumulate);
      assertEquals(owners!.length, 2);
      // Of three parts the one who is first has two, then the other.
      const counts = accumulate === 3
        ? owners!.map((n) => given[n]! > Math.min(...Object.values(given)) ? 1 : 0)
        : [];
      const first = counts.length === 0 ? null : counts[0] === counts[1] ? 0 : counts.indexOf(0);
      return joined(owners!.flatMap((name, i) => {
        const count = first === null ? accumulate / 2 : i === first ? 2 : 1;
        return Array.from({ length: count }, () => part(name, given[name]!++));
      }));
    });
    const single = await runSession(model, {
      ...{ settings, steps: 4, capacities: [1, 1], dataApart: true, batch: (step) => batches[step]! },
    });
    assertEquals(shared.states, single.states, `${accumulate} parts`);
    for (const [step, { loss }] of shared.records.entries()) {
      assertAlmostEquals(loss!, single.losses[step]!, 1e-12);
    }
  }
});

Deno.test("an owner lost at any message of its turn is skipped: the run is that of the turns that were, bit for bit [slow]", async () => {
  const settings = settingsOf(5, { accumulate: 2, codec: "int8" });
  const options = { settings, capacities: [1, 1] };
  const frames: PassedFrame[] = [];
  const withFault = (barn: Fault, more: Partial<OwnersOptions> = {}) =>
    runOwners(model, { ...options, owners: [owner("attic"), owner("barn")], faults: { barn }, ...more });
  const whole = await withFault((passed) => void frames.push(passed));
  // Not in the first step, where greetings travel too.
  const step = turnsOf(whole.records).indexOf("barn", 1);
  const before = turnsOf(whole.records).slice(0, step).filter((name) => name === "barn").length;
  const turn = frames.filter(({ frame }) =>
    frame.step === step && frame.kind !== "welcome" && frame.kind !== "paused"
  );
  assertEquals(
    turn.map(({ frame }) => frame.kind).join(),
    "turn,embedding,hidden,hiddenGradient,embedding,hidden,hiddenGradient,loss",
  );
  for (const comesBack of [false, true]) {
    for (const { index, frame: { kind } } of turn) {
      const at = `${comesBack}, cut at frame ${index}, "${kind}"`;
      const lossy = await withFault(
        (passed) => passed.link === 0 && passed.index === index ? "cut" : undefined,
        { comesBack },
      );
      assertEquals(lossy.error, null, at);
      const turns = turnsOf(lossy.records);
      assertEquals(turns.length, 5, at);
      if (!comesBack) assertEquals(turns.filter((name) => name === "barn").length, before, at);
      const single = await singleOf(lossy.records, options);
      assertEquals(lossy.records.map((r) => r.loss), single.losses, at);
      assertEquals(lossy.states, single.states, at);
    }
  }
});

Deno.test("a device with heads lost in an owner's step: the same owner's step begins again, as if the heads were pruned, bit for bit [slow]", async () => {
  const options = {
    settings: settingsOf(4, { codec: "int8-feedback", accumulate: 2 }),
    owners: [owner("attic"), owner("barn")],
    capacities: [1, 1],
  };
  for (const kind of ["mask", "delta", "deltaGradient", "inputGradient"]) {
    const h1: Fault = ({ frame }) => frame.kind === kind && frame.step === 1 ? "cut" : undefined;
    const lossy = await runOwners(model, { ...options, faults: { h1 } });
    assertEquals(lossy.error, null, kind);
    const masks = lossy.records.map(({ mask }) => mask);
    const pruned = await runOwners(model, { ...options, server: { pruner: scriptedPruner(masks) } });
    assertEquals(turnsOf(lossy.records), turnsOf(pruned.records), kind);
    assertEquals(lossy.records.map((r) => r.loss), pruned.records.map((r) => r.loss), kind);
    assertEquals(lossy.states[0], pruned.states[0], kind);
    assert(lossy.records.at(-1)!.away!.length > 0);
  }
});

Deno.test("an owner with heads that is lost takes its data and its heads with it; the others go on", async () => {
  const settings = settingsOf(4);
  const barn: Fault = ({ frame }) => frame.kind === "delta" && frame.step === 1 ? "cut" : undefined;
  const owners = [owner("attic", { capacity: 1 }), owner("barn", { capacity: 1 })];
  const lossy = await runOwners(model, { settings, owners, faults: { barn } });
  assertEquals(lossy.error, null);
  assertEquals(turnsOf(lossy.records).slice(1), ["attic", "attic", "attic"]);
  assertEquals(lossy.records.map(({ away }) => away), [undefined, [2, 3], [2, 3], [2, 3]]);
});

Deno.test("an owner that was away is owed its turns and catches up [slow]", async () => {
  let isGone = false;
  let server: EdgeServer | null = null;
  const shared = await runOwners(model, {
    settings: settingsOf(80),
    capacities: [1],
    owners: [owner("attic"), owner("barn")],
    faults: {
      barn: ({ frame, link }) => {
        // The link is down while the run goes on, from step 3 to step 8.
        isGone ||= link === 0 && frame.kind === "turn" && frame.step >= 3;
        if (frame.kind === "hello" && link > 0 && !isGone) server!.resume();
        return isGone ? "cut" : undefined;
      },
    },
    comesBack: true,
    onEvent: (event, run) => {
      server = run;
      if (event.type !== "step" || event.record.step !== 8) return;
      isGone = false;
      run.pause();
    },
  });
  assertEquals(shared.error, null);
  const turns = turnsOf(shared.records);
  const missed = shared.events.flatMap((e) => e.type === "away" || e.type === "back" ? [e.step] : []);
  assertEquals(turns.slice(missed[0]!, 9).filter((name) => name === "barn").length, 0);
  assertEquals(turns.filter((name) => name === "barn").length, 40);
});

Deno.test("who joins late has turns from then on, and the run is that of one owner with the same batches, bit for bit", async () => {
  const options = { settings: settingsOf(8), capacities: [1, 1] };
  const shared = await runOwners(model, {
    ...options,
    owners: [owner("attic"), owner("barn", { joinsAt: 3 })],
  });
  assertEquals([shared.error, shared.devices.map((d) => d.error)], [null, Array(4).fill(null)]);
  const turns = turnsOf(shared.records);
  assertEquals(turns.slice(0, 3), ["attic", "attic", "attic"]);
  assert([2, 3].includes(turns.filter((name) => name === "barn").length));
  const single = await singleOf(shared.records, options);
  assertEquals(shared.states, single.states);
  assertEquals(shared.records.map((r) => r.loss), single.losses);
});

/** States as one party keeps them: those of the steps that it saved. */
class Kept {
  readonly states = new Map<string, Map<number, RunState>>();

  write(party: string): (state: RunState) => void {
    const own = new Map<number, RunState>();
    this.states.set(party, own);
    return (state) => void own.set(state.step, state);
  }

  source(party: string, most: number): RunStateSource {
    const own = this.states.get(party)!;
    const steps = [...own.keys()].filter((step) => step <= most).sort((a, b) => a - b);
    return {
      run: [...own.values()][0]!.run,
      steps,
      load: (step) => Promise.resolve(structuredClone(own.get(step)!)),
    };
  }
}

Deno.test("a run of several owners goes on from its states with the same turns and the same bits [slow]", async () => {
  for (const accumulate of [1, 2]) {
    const settings = settingsOf(9, { saveEvery: 2, accumulate });
    const sharing = { weights: { attic: 2 }, evalEvery: 3, mix: accumulate > 1 };
    const options: OwnersOptions = {
      settings,
      owners: [owner("attic", { valid: [batchOf(2)] }), owner("barn", { capacity: 1, valid: [batchOf(1)] })],
      capacities: [1],
    };
    const kept = new Kept();
    const whole = await runOwners(model, {
      ...options,
      server: { sharing, onState: kept.write("server") },
      device: (name) => ({ onState: kept.write(name) }),
    });
    assertEquals(whole.error, null);
    assertEquals([...kept.states.get("attic")!.keys()], [2, 4, 6, 8, 9]);
    const resumed = await runOwners(model, {
      ...options,
      server: { sharing, resume: kept.source("server", 4) },
      // An owner without heads needs no state of that very step.
      device: (name) => ({ resume: kept.source(name, name === "attic" ? 2 : 4) }),
    });
    assertEquals(resumed.error, null);
    const rest = whole.records.filter((r) => r.step >= 4);
    assertEquals(resumed.records.map((r) => [r.step, r.owners]), rest.map((r) => [r.step, r.owners]));
    assertEquals(resumed.records.map((r) => r.loss), rest.map((r) => r.loss));
    assertEquals(resumed.states, whole.states);
  }
});

Deno.test("validation is of all owners by tokens, together and for each; the best heads are told to all", async () => {
  const valid = { attic: [batchOf(2), batchOf(3)], barn: [batchOf(1)] };
  const best: number[] = [];
  const shared = await runOwners(model, {
    settings: settingsOf(4),
    capacities: [1],
    owners: [owner("attic", { valid: valid.attic }), owner("barn", { valid: valid.barn })],
    server: { sharing: { evalEvery: 2, keepBest: true } },
    device: (name) => name === "h0" ? { onBest: (step) => void best.push(step) } : {},
  });
  assertEquals(shared.error, null);
  const told = shared.events.flatMap((e) => e.type === "validation" ? [e] : []);
  assertEquals(told.map(({ step }) => step), [0, 2, 4]);
  for (const { step, loss, counted, owners } of told) {
    const records = shared.records.filter((r) => r.step === step && r.mode === "evaluate");
    assertEquals(records.map((r) => r.owners!.join()).sort(), ["attic", "attic", "barn"]);
    const tokens = records.reduce((sum, r) => sum + r.counted!, 0);
    assertEquals(counted, tokens);
    assertAlmostEquals(loss, records.reduce((sum, r) => sum + r.loss! * r.counted!, 0) / tokens, 1e-12);
    assertEquals(owners.map(({ name }) => name).sort(), ["attic", "barn"]);
    assertEquals(owners.reduce((sum, o) => sum + o.counted, 0), tokens);
  }
  const isBest = told.filter((e) => e.isBest).map(({ step }) => step);
  assertEquals(isBest[0], 0);
  assertEquals(best, isBest);
});

Deno.test("an owner that tells no step's loss tells one number of each validation, which is without whoever refuses", async () => {
  const valid = { attic: [batchOf(2), batchOf(3)], barn: [batchOf(1)] };
  const run = async (attic: Partial<TestOwner>, barn: Partial<TestOwner>) => {
    const shared = await runOwners(model, {
      settings: settingsOf(2, { microBatches: 2 }),
      capacities: [1],
      owners: [
        owner("attic", { valid: valid.attic, ...attic }),
        owner("barn", { valid: valid.barn, ...barn }),
        // Without validation data it is not missed.
        owner("cellar", { train: () => batchOf(2) }),
      ],
    });
    assertEquals(shared.error, null);
    const told = shared.events.flatMap((e) => e.type === "validation" ? [e] : []);
    const frames = shared.traffic.filter(({ kind, direction }) =>
      kind === "loss" && direction === "received"
    );
    return { told, losses: frames.reduce((sum, e) => sum + e.frames, 0) };
  };
  const open = await run({}, {});
  const quiet = await run({ shareLoss: false }, { shareLoss: false });
  assertEquals(open.told.length, 2);
  assertEquals(quiet.told, open.told);
  const refused = await run({ shareLoss: false }, { shareLoss: false, sharesValidation: false });
  for (const [i, { owners, without, loss }] of refused.told.entries()) {
    assertEquals(without, [{ name: "barn", reason: "refused" }]);
    assertEquals(owners, open.told[i]!.owners.filter(({ name }) => name === "attic"));
    assertEquals(loss, owners[0]!.loss);
  }
  // Frames of cellar's steps alone.
  assert(quiet.losses < open.losses && quiet.losses === refused.losses);
});

Deno.test("what travels of turns is what the description of a step says, message for message", async () => {
  for (const mix of [false, true]) {
    const settings = settingsOf(4, { accumulate: 2, microBatches: 2, clipNorm: 0.5 });
    const { traffic, records } = await runOwners(model, {
      settings,
      owners: ["attic", "barn"].map((name) => ({ name, train: () => batchOf(mix ? 2 : 4) })),
      capacities: [1, 1],
      server: { sharing: { mix } },
    });
    const expected = new Map<string, number>();
    for (const { tokens, batch, mask, embeddingRows } of records) {
      const step = describeStep({
        ...modeSize(settings.lora, { heads: 4, hidden: 48 }),
        ...{ layers: 2, tokens, batch, mask, embeddingRows, headsPerDevice: [2, 2], statistics: 0 },
        ...{ mode: settings.lora.mode, clip: true, accumulate: 2, microBatches: 2, sharesLoss: true },
        turns: mix ? [0, 1] : [0],
      });
      for (const { kind } of messagesOf(step)) {
        if (kind !== null) expected.set(kind, (expected.get(kind) ?? 0) + 1);
      }
    }
    // Each owner is asked for validation, before and after, and to generate; of a mixed step each tells its loss.
    expected.set("turn", expected.get("turn")! + 6);
    if (mix) expected.set("loss", expected.get("loss")! * 2);
    const others = ["hello", "welcome", "finished", "paused", "end"];
    const sent = new Map(
      traffic.filter(({ kind }) => !others.includes(kind)).map(({ kind, frames }) => [kind, frames]),
    );
    assertEquals([...sent].sort(), [...expected].sort());
  }
});
