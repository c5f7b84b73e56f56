import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { beamSearch } from "./beam_search.ts";
import type { DecodingSession } from "./model.ts";

interface Case {
  readonly name: string;
  readonly config: {
    readonly beam: number;
    readonly length_penalty: number;
    readonly no_repeat_ngram_size: number;
    readonly repetition_penalty: number;
    readonly min_length: number;
    readonly eos_token_ids: number[];
    readonly eval_len: number;
    readonly vocab_size: number;
  };
  readonly model: { readonly W: number[][][] };
  readonly expected: readonly {
    readonly query: number[];
    readonly predict: number[];
    readonly best_score: number;
    readonly best_score_after_step: (number | null)[];
  }[];
}

/** A model whose logits depend on the last two tokens: W[before last][last]. */
class Bigrams implements DecodingSession {
  readonly vocabulary: number;
  readonly contextLength = 512;
  readonly #w: number[][][];
  #rows: number[][] = [];
  constructor(w: number[][][]) {
    this.#w = w;
    this.vocabulary = w.length;
  }
  start(prompt: readonly number[]): Promise<Float32Array> {
    this.#rows = [[...prompt]];
    return this.#logits();
  }
  append(tokens: readonly number[], parents: readonly number[]): Promise<Float32Array> {
    this.#rows = tokens.map((token, i) => [...this.#rows[parents[i]!]!, token]);
    return this.#logits();
  }
  #logits(): Promise<Float32Array> {
    return Promise.resolve(Float32Array.from(
      this.#rows.flatMap((row) => this.#w[row.at(-2) ?? 0]![row.at(-1)!]!),
    ));
  }
}

const folder = new URL("../../tests/fixtures/beam/", import.meta.url);
const cases = [...Deno.readDirSync(folder)].map(({ name }) =>
  JSON.parse(Deno.readTextFileSync(new URL(name, folder))) as Case
);

for (const { name, config, model, expected } of cases) {
  Deno.test(`beamSearch() gives the reference's answers: ${name}`, async () => {
    assert(expected.length > 0);
    for (const { query, predict, best_score, best_score_after_step } of expected) {
      const result = await beamSearch(new Bigrams(model.W), query, {
        beams: config.beam,
        lengthPenalty: config.length_penalty,
        noRepeatNgramSize: config.no_repeat_ngram_size,
        repetitionPenalty: config.repetition_penalty,
        minLength: config.min_length,
        endTokens: config.eos_token_ids,
        maxNewTokens: config.eval_len,
      });
      const padded = [...result.tokens, ...new Array(config.eval_len - result.tokens.length).fill(0)];
      assertEquals(padded, predict);
      // Sums of float32 logarithms: a few units in the last place.
      assertAlmostEquals(result.score, best_score, 2e-6);
      result.scores.forEach((score, i) => {
        const want = best_score_after_step[i]!;
        if (want === null) assertEquals(score, null);
        else assertAlmostEquals(score!, want, 2e-6);
      });
    }
  });
}

Deno.test("beamSearch() refuses options that cannot work", async () => {
  const session = new Bigrams([[[0, 1], [1, 0]], [[0, 1], [1, 0]]]);
  const base = { endTokens: [1], maxNewTokens: 4, beams: 2 };
  for (
    const [wrong, message] of [
      [{ beams: 0 }, `"beams" must be an integer from 1 to 2: current value is 0`],
      [{ beams: 3 }, `"beams" must be`],
      [{ endTokens: [] }, `"number of end tokens" must be at least 1`],
      [{ endTokens: [2] }, `"end token" must be below the vocabulary (2): current value is 2`],
      [{ maxNewTokens: 600 }, `"maxNewTokens" must be at most 512`],
      [{ repetitionPenalty: 0 }, `"repetitionPenalty" must be positive`],
    ] as const
  ) {
    await assertRejects(() => beamSearch(session, [0], { ...base, ...wrong }), RangeError, message);
  }
  await assertRejects(() => beamSearch(session, [], base), RangeError, `"prompt length" must be at least 1`);
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => beamSearch(session, [0], { ...base, signal }), Error, "enough");
});
