import { assert, assertEquals, assertRejects } from "@std/assert";
import { DEFAULT_LORA } from "../lora/settings.ts";
import { type Adapter, adapterFiles, readAdapter, saveAdapter, withZeroHeads } from "../lora/adapter.ts";
import { type ByteStore, folderStore, memoryStore } from "../files/byte_store.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { readSafetensors } from "../files/safetensors.ts";
import { sha256 } from "../files/sha256.ts";
import { RunStateError } from "../contracts/errors.ts";
import { peftFiles, savePeft, toPeft } from "../lora/peft.ts";
import { defaultRunSettings } from "../train/default_run_settings.ts";
import { readRunState, type RunState, runStateBytes, saveRunState } from "./run_state.ts";
import { forgetRunStates, storedRunStates, storeRunState } from "./run_state_store.ts";

const model = { layers: 2, hidden: 16, heads: 2, headSize: 8 };
const lora = { ...DEFAULT_LORA, mode: "slice", targets: ["q", "v"], rank: 2, dropout: 0 } as const;

/** Head 1 of two, with other values everywhere. */
function oneHead(): Adapter {
  const arrays = new Map<string, NamedArray>();
  let next = 0;
  const filled = (shape: readonly number[]) => ({
    shape,
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => ++next / 64),
  });
  for (const layer of [0, 1]) {
    for (const target of lora.targets) {
      arrays.set(`layer${layer}.head1.${target}.A`, filled([2, 8]));
      arrays.set(`layer${layer}.head1.${target}.B`, filled([8, 2]));
    }
  }
  return { lora, model, fingerprint: "f".repeat(64), arrays };
}

function stateOf(run: string, step: number): RunState {
  const weights = [[[{ a: Float32Array.of(step, 2), b: Float32Array.of(3, 4) }]]];
  const settings = {
    ...defaultRunSettings(20),
    prunedFade: 1,
    lora: { ...DEFAULT_LORA, mode: "slice", targets: ["q"], rank: 1, dropout: 0 } as const,
  };
  return {
    ...{ run, step, settings, fingerprint: "", pruning: null, devices: [], data: null },
    heads: {
      model: { layers: 1, hidden: 4, heads: 1, headSize: 4 },
      range: { first: 0, count: 1 },
      state: { weights, m: weights, v: weights, updates: Uint32Array.of(step) },
    },
  };
}

async function filesIn(folder: string): Promise<Record<string, Uint8Array>> {
  const files: Record<string, Uint8Array> = {};
  for await (const { name } of Deno.readDir(folder)) files[name] = await Deno.readFile(`${folder}/${name}`);
  return files;
}

Deno.test("adapters, PEFT adapters and states have in memory the bytes that they have in files", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const origin = { run: "r", steps: 7 };
    await saveAdapter(`${folder}/heads`, oneHead(), origin);
    assertEquals(Object.fromEntries(await adapterFiles(oneHead(), origin)), await filesIn(`${folder}/heads`));
    const peft = toPeft(withZeroHeads(oneHead()), "gpt2");
    await savePeft(`${folder}/peft`, peft);
    assertEquals(Object.fromEntries(await peftFiles(peft)), await filesIn(`${folder}/peft`));
    await saveRunState(`${folder}/state`, stateOf("r", 5));
    assertEquals(await runStateBytes(stateOf("r", 5)), await Deno.readFile(`${folder}/state`));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a state is a few tensors, however many matrices there are: they are what keeping it costs", async () => {
  const state = stateOf("r", 5);
  const perHead = [state.heads!.state.weights[0]![0]!, state.heads!.state.weights[0]![0]!];
  const parts = [perHead, perHead, perHead];
  const many: RunState = {
    ...state,
    heads: {
      model: { ...state.heads!.model, layers: 3, heads: 2 },
      range: { first: 0, count: 2 },
      state: { weights: parts, m: parts, v: parts, updates: new Uint32Array(6) },
    },
  };
  const bytes = await runStateBytes(many);
  assertEquals([...readSafetensors(bytes).keys()].sort(), ["m", "v", "weights"]);
  assertEquals((await readRunState(bytes)).heads, many.heads);
});

Deno.test("a state whose tensors are not those of its heads is refused", async () => {
  const { heads, ...rest } = stateOf("r", 5);
  const model = { ...heads!.model, layers: 2 };
  const bytes = await runStateBytes({ ...rest, heads: { ...heads!, model } });
  await assertRejects(() => readRunState(bytes), RunStateError, '"weights" must have 8 numbers: it has 4');
});

Deno.test("without node:crypto a digest is the same", async () => {
  const values = Float32Array.from({ length: 1000 }, (_, i) => i / 3);
  assertEquals(await sha256([values], null), await sha256([values]));
});

Deno.test("withZeroHeads() keeps the heads that there are, and adds others that change nothing", async () => {
  const whole = withZeroHeads(oneHead());
  const read = await readAdapter((await adapterFiles(whole)).get("adapter_model.safetensors")!);
  assertEquals(read.arrays.size, 2 * 2 * 2 * 2);
  for (const [name, { data }] of read.arrays) {
    assertEquals(data, oneHead().arrays.get(name)?.data ?? new Float32Array(16), name);
  }
});

async function keepsStates(store: ByteStore): Promise<void> {
  assertEquals(await storedRunStates(store, "a run"), null);
  for (const step of [2, 4, 6, 5]) await storeRunState(store, stateOf("a run", step));
  await storeRunState(store, stateOf("another", 3));
  const source = await storedRunStates(store, "a run");
  assertEquals(source?.steps, [4, 5]);
  assertEquals((await source!.load(5)).heads, stateOf("a run", 5).heads);
  const names = await store.names();
  const damaged = names.find((name) => name.endsWith("5"))!;
  const bytes = (await store.read(damaged))!;
  bytes[bytes.length - 1]! ^= 1;
  await store.write(damaged, bytes);
  const after = await storedRunStates(store, "a run");
  assertEquals([after?.steps, after?.damaged?.length], [[4], 1]);
  await forgetRunStates(store, "a run");
  assertEquals((await store.names()).length, 1);
  await assertRejects(() => store.write("../x", bytes), RangeError, "letters, digits");
  assert(await store.read("none") === null);
}

Deno.test("states in memory and in a folder: two of each run, damaged ones are left out", async () => {
  await keepsStates(memoryStore());
  const folder = await Deno.makeTempDir();
  try {
    await keepsStates(folderStore(`${folder}/store`));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
