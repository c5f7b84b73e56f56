import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FAMILY_NAMES, familyFolder, familyHeads, TinyFamily } from "../../tests/support/families.ts";
import { flatten, type TinyBase, TinyGpt2, tinyHeads, tinySettings } from "../../tests/support/tiny_model.ts";
import { normal } from "../../tests/support/kernels.ts";
import { assertClose } from "../../tests/support/tolerance.ts";
import type { GenerationModel } from "./greedy.ts";
import type { HeadModules } from "../lora/head_modules.ts";
import { LocalHeads } from "../lora/local_heads.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";
import { beamSearch } from "./beam_search.ts";
import { CachedSession } from "./cached_session.ts";
import type { DecodingSession } from "./model.ts";
import { sample } from "./sample.ts";

const engine = await Engine.create();
/** Keys and values are the same sums in another order: rounding, at logits of up to 10. */
const LOGITS = { absolute: 1e-4, relative: 0, ofLargest: false };

/** Every token by a pass over the whole text: what the session is compared with. */
class WholePasses implements DecodingSession {
  readonly vocabulary: number;
  readonly contextLength: number;
  #rows: number[][] = [];
  constructor(readonly model: GenerationModel) {
    this.vocabulary = model.ends.shape.vocabulary;
    this.contextLength = model.ends.shape.positions;
  }
  start(prompt: readonly number[]): Promise<Float32Array> {
    this.#rows = [[...prompt]];
    return this.#logits();
  }
  append(tokens: readonly number[], parents: readonly number[]): Promise<Float32Array> {
    this.#rows = tokens.map((token, i) => [...this.#rows[parents[i]!]!, token]);
    return this.#logits();
  }
  async #logits(): Promise<Float32Array> {
    const { engine, layers, ends, heads } = this.model;
    const { shape } = layers;
    await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(shape.layers * shape.heads) });
    const tokens = Uint32Array.from(this.#rows.flat());
    const [batch, length] = [this.#rows.length, this.#rows[0]!.length];
    const sequences = { tokens, targets: tokens, mask: new Float32Array(tokens.length), batch, length };
    using tape = new Tape(engine, { training: false });
    const embedding = tape.variable(embedTokens(ends, sequences), { needsGradient: false });
    const hidden = await layers.forward(tape, embedding, sequences, heads);
    using logits = logitsOf(ends, hidden.value, Uint32Array.from(this.#rows, (_, i) => (i + 1) * length - 1));
    return await logits.read();
  }
}

/** Head modules whose B is not zero, so that they change what is generated. */
async function trained(modules: HeadModules): Promise<LocalHeads> {
  const weights = await modules.weights();
  modules.load(
    weights.map((heads, l) =>
      heads.map((targets, h) =>
        targets.map(({ a, b }, k) => ({ a, b: normal(b.length, l * 100 + h * 10 + k, 0.3) }))
      )
    ),
  );
  assert(flatten(await modules.weights()).every(Number.isFinite));
  return new LocalHeads([modules]);
}

const settings = tinySettings("slice", 1);
const gpt2 = new TinyGpt2(engine);
const MODELS: Record<string, { readonly base: TinyBase; readonly modules: HeadModules }> = {
  gpt2: { base: gpt2, modules: tinyHeads(engine, settings) },
};
for (const name of FAMILY_NAMES) {
  const base = new TinyFamily(engine, await familyFolder(name));
  MODELS[name] = { base, modules: familyHeads(base, settings, [4])[0]! };
}

for (const [name, { base, modules }] of Object.entries(MODELS)) {
  const withHeads: GenerationModel = {
    ...base,
    engine,
    layers: base.layers,
    ends: base.ends,
    heads: await trained(modules),
  };
  const withoutHeads: GenerationModel = { ...withHeads, heads: null };

  for (const [what, model] of [["with", withHeads], ["without", withoutHeads]] as const) {
    Deno.test(`CachedSession of ${name} ${what} head modules: token by token as whole passes [slow]`, async () => {
      const whole = new WholePasses(model);
      await whole.start([1]); // lists of heads and angles of positions stay
      const before = engine.stats.tensors;
      {
        using session = new CachedSession(model);
        const prompt = [3, 14, 15, 9, 2];
        assertClose(await session.start(prompt), await whole.start(prompt), LOGITS, "prompt");
        // More rows, other order, fewer rows, then one row to the last token that fits.
        const parents = [[0, 0, 0], [0, 1, 2], [2, 0, 0, 1], [3, 1], [1, 0], ...Array(22).fill([0])];
        for (const [i, rows] of parents.entries()) {
          const tokens = rows.map((_: number, row: number) => (7 * i + 11 * row + 1) % 67);
          const actual = await session.append(tokens, rows);
          assertClose(actual, await whole.append(tokens, rows), LOGITS, `token ${i}`);
        }
        await assertRejects(() => session.append([1], [0]), RangeError, "at most 32 tokens");
        assertClose(await session.start([5]), await whole.start([5]), LOGITS, "another prompt");
      }
      assertEquals(engine.stats.tensors, before, "keys and values are freed");
    });
  }

  Deno.test(`CachedSession of ${name}: the same texts by beam search and sampling [slow]`, async () => {
    using session = new CachedSession(withHeads);
    const whole = new WholePasses(withHeads);
    const beams = { beams: 4, maxNewTokens: 12, endTokens: [0] };
    const found = await beamSearch(session, [4, 8], beams);
    assertEquals(found.tokens, (await beamSearch(whole, [4, 8], beams)).tokens);
    const drawn = { temperature: 0.8, topK: 20, seed: 3, maxNewTokens: 40, endTokens: [] };
    const text = await sample(session, [4, 8], drawn);
    assertEquals(text, await sample(whole, [4, 8], drawn));
    assertEquals(text.length, 31, "to the end of what fits, and the token after it");
  });
}

Deno.test("CachedSession says what is wrong with its arguments, and can go on", async () => {
  using session = new CachedSession({ engine, layers: gpt2.layers, ends: gpt2.ends, heads: null });
  assertEquals([session.vocabulary, session.contextLength], [67, 32]);
  await assertRejects(() => session.append([1], [0]), TypeError, "prompt must come first");
  await assertRejects(() => session.start([]), RangeError, "1 to 32 tokens: current value is 0");
  await assertRejects(() => session.start(Array(33).fill(1)), RangeError, "current value is 33");
  await session.start([1, 2]);
  for (const [tokens, parents] of [[[1], [1]], [[1], [-1]], [[1, 2], [0]], [[], []]]) {
    await assertRejects(() => session.append(tokens!, parents!), TypeError, "one of 1 rows");
  }
  await assertRejects(() => session.append([67], [0]), RangeError);
  await assertRejects(() => session.append([1], [0]), TypeError, "prompt must come first");
  await session.start([1, 2]);
  assertEquals((await session.append([3, 4], [0, 0])).length, 2 * 67);
});

Deno.test("CachedSession keeps nothing when a pass fails", async () => {
  const broken = {
    beginStep: () => Promise.resolve(),
    forward(layer: number) {
      if (layer === 1) throw new Error("device gone");
      return null;
    },
    backward: () => null,
    endStep: () => Promise.resolve({}),
  };
  const before = engine.stats.tensors;
  using session = new CachedSession({ engine, layers: gpt2.layers, ends: gpt2.ends, heads: broken });
  await assertRejects(() => session.start([1, 2]), Error, "device gone");
  assertEquals(engine.stats.tensors, before);
});
