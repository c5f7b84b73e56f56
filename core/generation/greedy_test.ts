import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { TinyGpt2, tinyHeads, tinySettings } from "../../tests/support/tiny_model.ts";
import { generateGreedy } from "./greedy.ts";
import { LocalHeads } from "../lora/local_heads.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const NEVER = 1000;

/** Head modules whose B is large enough to change what comes out. */
async function loudHeads(): Promise<LocalHeads> {
  const modules = tinyHeads(engine, tinySettings("slice", 1));
  modules.load(
    (await modules.weights()).map((heads) =>
      heads.map((targets) => targets.map(({ a, b }) => ({ a, b: b.map((_, i) => Math.sin(i) * 2) })))
    ),
  );
  return new LocalHeads([modules]);
}

/** Greedy decoding one prompt at a time, from the logits of whole sequences without padding. */
async function slowly(prompt: readonly number[], count: number, heads: LocalHeads | null): Promise<number[]> {
  const tokens = [...prompt];
  for (let n = 0; n < count; n++) {
    const ids = Uint32Array.from(tokens);
    const batch = {
      tokens: ids,
      targets: ids,
      mask: new Float32Array(ids.length),
      batch: 1,
      length: ids.length,
    };
    await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(12) });
    using tape = new Tape(engine, { training: false });
    const h = await model.layers.forward(
      tape,
      tape.variable(embedTokens(model.ends, batch), { needsGradient: false }),
      batch,
      heads,
    );
    using logits = logitsOf(model.ends, h.value, Uint32Array.of(ids.length - 1));
    const values = await logits.read();
    tokens.push(values.indexOf(Math.max(...values)));
  }
  return tokens.slice(prompt.length);
}

Deno.test("generateGreedy() gives the most likely token each time, with and without LoRA [slow]", async () => {
  const prompts = [[1, 2, 3], [60], [5, 66, 37, 39, 42, 65, 11, 16, 27, 1, 60, 17, 52, 9, 8, 7]];
  const { layers, ends } = model;
  using loud = await loudHeads();
  const outputs: string[] = [];
  for (const heads of [null, loud]) {
    const before = engine.stats.tensors;
    const generated = await generateGreedy({ engine, layers, ends, heads }, prompts, {
      maxNewTokens: 6,
      eos: NEVER,
    });
    for (const [i, prompt] of prompts.entries()) assertEquals(generated[i], await slowly(prompt, 6, heads));
    outputs.push(JSON.stringify(generated));
    assert(engine.stats.tensors <= before + 8, "at most head lists stay"); // the heads' own, for all heads of a layer
  }
  assert(outputs[0] !== outputs[1], "LoRA changes what comes out");
});

Deno.test("generateGreedy() ends a text at its end token, and others go on", async () => {
  const { layers, ends } = model;
  const prompts = [[1, 2, 3], [60]];
  const free = await generateGreedy({ engine, layers, ends, heads: null }, prompts, {
    maxNewTokens: 5,
    eos: NEVER,
  });
  const eos = free[0]![2]!;
  const cut = await generateGreedy({ engine, layers, ends, heads: null }, prompts, { maxNewTokens: 5, eos });
  const several = { maxNewTokens: 5, eos: [NEVER, eos] };
  assertEquals(await generateGreedy({ engine, layers, ends, heads: null }, prompts, several), cut);
  const until = (tokens: number[]) => tokens.includes(eos) ? tokens.slice(0, tokens.indexOf(eos)) : tokens;
  assertEquals(cut, free.map(until));
});

Deno.test("generateGreedy() fills the context and no more, and stops when told", async () => {
  const { layers, ends } = model;
  const long = Array.from({ length: 30 }, (_, i) => i);
  const options = { maxNewTokens: 10, eos: NEVER };
  const generated = await generateGreedy({ engine, layers, ends, heads: null }, [long, [1]], options);
  assertEquals(generated.map((g) => g.length), [2, 10]);
  const none = { ...options, signal: AbortSignal.abort() };
  assertEquals(await generateGreedy({ engine, layers, ends, heads: null }, [[1]], none), [[]]);
  assertEquals(await generateGreedy({ engine, layers, ends, heads: null }, [], options), []);
});

Deno.test("generateGreedy() refuses prompts that are empty or fill the context", async () => {
  const { layers, ends } = model;
  for (const prompt of [[], Array(32).fill(1)]) {
    await assertRejects(
      () =>
        generateGreedy({ engine, layers, ends, heads: null }, [[1], prompt], { maxNewTokens: 1, eos: NEVER }),
      RangeError,
      `prompt 1 has ${prompt.length}`,
    );
  }
});
