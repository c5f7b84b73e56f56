import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { beamSearch } from "./beam_search.ts";
import type { DecodingSession } from "./model.ts";
import { draw, sample } from "./sample.ts";

/** Always the same logits. */
function constant(logits: readonly number[], contextLength = 32): DecodingSession {
  const answer = () => Promise.resolve(Float32Array.from(logits));
  return { vocabulary: logits.length, contextLength, start: answer, append: answer };
}

const options = { maxNewTokens: 4, endTokens: [3] };

Deno.test("sample() takes the most likely token, and ends at an end token, the length or the room", async () => {
  assertEquals(await sample(constant([0, 2, 1, 1]), [0], options), [1, 1, 1, 1]);
  assertEquals(await sample(constant([0, 2, 1, 9]), [0], options), [3]);
  assertEquals(await sample(constant([0, 2, 1, 1], 3), [0], options), [1, 1, 1]);
  assertEquals(await sample(constant([0, 2, 1, 9]), [0], { ...options, minLength: 2 }), [1, 1, 3]);
  assertEquals(await sample(constant([0, 2, 1, 1.5]), [0], { ...options, noRepeatNgramSize: 1 }), [1, 3]);
});

Deno.test("a least length counts what is generated before the end, drawn or not, and the limits hold", async () => {
  const sure = () => constant([0, 2, 1, 90]);
  const drawn = { temperature: 1, seed: 4 };
  for (const how of [{}, drawn, { ...drawn, topK: 1 }, { ...drawn, topP: 0.1 }]) {
    const lengths = [];
    for (const minLength of [0, 1, 3, 4, 9]) {
      const text = await sample(sure(), [3, 3], { ...options, ...how, minLength });
      assertEquals(text.indexOf(3), minLength < 4 ? text.length - 1 : -1, "no end token before");
      lengths.push(text.length);
    }
    // 4 tokens at most, whether an end token came or not.
    assertEquals(lengths, [1, 2, 4, 4, 4]);
  }
  // The same for beams.
  for (const minLength of [0, 3]) {
    const { tokens } = await beamSearch(sure(), [3, 3], {
      ...options,
      minLength,
      beams: 1,
      noRepeatNgramSize: 0,
    });
    assertEquals(tokens, await sample(sure(), [3, 3], { ...options, minLength }));
  }
});

Deno.test("sample() gives the same text for the same seed, and others for others", async () => {
  const model = () => constant([0, 0, 0, 0, 0, 0, 0, 0]);
  const at = (seed: number) =>
    sample(model(), [0], { maxNewTokens: 20, endTokens: [], temperature: 1, seed });
  assertEquals(await at(1), await at(1));
  assert((await at(1)).join() !== (await at(2)).join());
});

Deno.test("draw() draws by probability, among the first k, and within the share p", () => {
  const logits = [0.1, 0.2, 0.3, 0.4].map(Math.log);
  const counts = (limits: { temperature?: number; topK?: number; topP?: number }) => {
    const n = [0, 0, 0, 0];
    for (let i = 0; i < 1000; i++) {
      const token = draw(
        Float32Array.from(logits),
        { temperature: 1, topK: 0, topP: 1, ...limits },
        (i + 0.5) / 1000,
      );
      n[token]!++;
    }
    return n.map((c) => c / 1000);
  };
  const near = (actual: number[], expected: number[]) =>
    actual.forEach((x, i) => assertAlmostEquals(x, expected[i]!, 0.002));
  near(counts({}), [0.1, 0.2, 0.3, 0.4]);
  near(counts({ topK: 2 }), [0, 0, 3 / 7, 4 / 7]);
  near(counts({ topP: 0.5 }), [0, 0, 3 / 7, 4 / 7]);
  near(counts({ topP: 0.39 }), [0, 0, 0, 1]);
  const squares = [1, 4, 9, 16].map((x) => x / 30);
  near(counts({ temperature: 0.5 }), squares);
});

Deno.test("sample() refuses options that are out of range", async () => {
  for (
    const [wrong, message] of [
      [{ temperature: -1 }, `"temperature" must be 0 or more`],
      [{ topK: 1.5 }, `"topK" must be an integer`],
      [{ topP: 0 }, `"topP" must be above 0`],
      [{ minLength: -1 }, `"minLength" must be an integer of at least 0: current value is -1`],
      [{ minLength: NaN }, `"minLength" must be an integer`],
      [{ maxNewTokens: 0 }, `"maxNewTokens" must be an integer of at least 1`],
    ] as const
  ) {
    await assertRejects(() => sample(constant([0, 1]), [0], { ...options, ...wrong }), RangeError, message);
  }
  await assertRejects(() => sample(constant([0, 1]), [], options), RangeError, `"prompt length" must be`);
});

Deno.test("sample() takes nothing that a text may not begin with, drawn or not, unless it may begin with nothing", async () => {
  const endless = { maxNewTokens: 3, endTokens: [3] };
  const mayBegin = (tokens: readonly number[]) => tokens[0] === 2;
  for (const how of [{}, { temperature: 1 }, { temperature: 1, topP: 0.1 }, { temperature: 1, topK: 1 }]) {
    const text = await sample(constant([0, 2, 1, 9]), [0], { ...endless, ...how, seed: 3, mayBegin });
    assertEquals(text[0], 2, JSON.stringify(how));
    const none = await sample(constant([0, 2, 1, 9]), [0], { ...endless, mayBegin: () => false });
    assertEquals(none, [3]);
  }
  // What is drawn is drawn by the probabilities that are left.
  const first: number[] = [];
  for (let seed = 0; seed < 400; seed++) {
    const [token] = await sample(constant([1, 1, 1, 4]), [0], {
      ...{ maxNewTokens: 1, endTokens: [3], temperature: 1, seed, mayBegin: (t) => t[0]! < 2 },
    });
    first.push(token!);
  }
  const zeros = first.filter((token) => token === 0).length;
  assertEquals(first.every((token) => token < 2), true);
  assertAlmostEquals(zeros / 400, 0.5, 0.1);
});
