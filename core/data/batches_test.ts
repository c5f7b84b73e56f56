import { assertEquals, assertLess, assertNotEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  encodeCompletion,
  encodeOpening,
  encodePairs,
  encodePrompt,
  encodeWindows,
  fixedBatches,
  shuffledBatches,
} from "./batches.ts";
import type { SequenceSet } from "./sequences.ts";
import type { Tokenizer } from "./tokenizer.ts";

const EOS = 1000;
/** Every letter is a token. */
const letters: Tokenizer = {
  vocabSize: 1001,
  eos: EOS,
  bos: null,
  encode: (text) => Array.from(text, (letter) => letter.charCodeAt(0)),
  decode: (ids) => String.fromCharCode(...Array.from(ids)),
};
const BOS = 60;
/** Those of a model that begins texts with "<". */
const withBos: Tokenizer = { ...letters, bos: BOS };
const [a, b, c, d, e, space] = [97, 98, 99, 100, 101, 32];

/** A set whose sequences are [i, i + 1]. */
function numbered(count: number): SequenceSet {
  const sequences = Array.from(
    { length: count },
    (_, i) => ({ tokens: Uint32Array.of(i, i + 1), firstTarget: 1 }),
  );
  return {
    sequences,
    length: 1,
    padding: 0,
    shortened: 0,
    shortenedPrompts: 0,
    shortenedCompletions: 0,
    droppedTokens: 0,
  };
}

Deno.test("prompts end with the separator, completions begin with a space and end with end-of-text", () => {
  assertEquals(encodePrompt(letters, "ab"), [a, b, EOS]);
  assertEquals(encodeCompletion(letters, "c"), [space, c, EOS]);
});

Deno.test("encodePairs and fixedBatches give shifted targets and a mask on the completion", () => {
  const set = encodePairs(
    [{ prompt: "ab", completion: "c" }, { prompt: "d", completion: "e" }],
    letters,
    { length: 6 },
  );
  assertEquals([set.shortenedPrompts, set.shortenedCompletions, set.droppedTokens], [0, 0, 0]);
  assertEquals(
    fixedBatches(set, 2),
    [{
      tokens: Uint32Array.of(a, b, EOS, space, c, EOS, d, EOS, space, e, EOS, EOS),
      targets: Uint32Array.of(b, EOS, space, c, EOS, EOS, EOS, space, e, EOS, EOS, EOS),
      mask: Float32Array.of(0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0),
      batch: 2,
      length: 6,
    }],
  );
});

Deno.test("an opening is the text alone, with what begins texts; an empty one gives something to go on from", () => {
  assertEquals(encodeOpening(letters, "ab"), [a, b]);
  assertEquals(encodeOpening(letters, ""), [EOS]);
  assertEquals(encodeOpening(withBos, "ab"), [BOS, a, b]);
  assertEquals(encodeOpening(withBos, "<ab"), [BOS, a, b]);
  assertEquals(encodeOpening(withBos, ""), [BOS]);
});

Deno.test("the token that begins texts comes first, stays when prompts are cut, and is never learnt", () => {
  assertEquals(encodePrompt(withBos, "ab"), [BOS, a, b, EOS]);
  assertEquals(encodeCompletion(withBos, "c"), [space, c, EOS]);
  const encode = (length: number, trainOnPrompt = false) => {
    const set = encodePairs([{ prompt: "abc", completion: "de" }], withBos, { length, trainOnPrompt });
    const [{ tokens, firstTarget, counts }] = set.sequences as [SequenceSet["sequences"][0]];
    assertEquals(counts, undefined);
    return [[...tokens], firstTarget, set.droppedTokens];
  };
  assertEquals(encode(8), [[BOS, a, b, c, EOS, space, d, e, EOS], 5, 0]);
  assertEquals(encode(8, true), [[BOS, a, b, c, EOS, space, d, e, EOS], 1, 0]);
  assertEquals(encode(6), [[BOS, c, EOS, space, d, e, EOS], 3, 2]);
  assertEquals(encode(5), [[BOS, c, EOS, space, d, e], 3, 3]);
  assertEquals(encode(3), [[BOS, EOS, space, d], 2, 5]);
  // Where two tokens are all there is, one of them must be learnt.
  assertEquals(encode(1), [[BOS, space], 1, 7]);
});

Deno.test("windows have the token that begins texts before each, and never learn it", () => {
  const set = encodeWindows(["ab", "<c"], withBos, { length: 3 });
  assertEquals(set.sequences, [
    { tokens: Uint32Array.of(BOS, a, b, EOS), firstTarget: 1, counts: Uint8Array.of(0, 1, 1, 1) },
    { tokens: Uint32Array.of(EOS, BOS, c, EOS), firstTarget: 1, counts: Uint8Array.of(1, 0, 1, 1) },
  ]);
  assertEquals(fixedBatches(set, 2)[0]!.mask, Float32Array.of(1, 1, 1, 0, 1, 1));
});

Deno.test("encodePairs can learn prompts too", () => {
  const set = encodePairs([{ prompt: "ab", completion: "c" }], letters, { length: 7, trainOnPrompt: true });
  assertEquals(fixedBatches(set, 1)[0]!.mask, Float32Array.of(1, 1, 1, 1, 1, 0, 0));
});

Deno.test("encodePairs shortens the start of the prompt down to half of the room, then the end of the completion", () => {
  const shorten = (length: number) => {
    const set = encodePairs([{ prompt: "abc", completion: "de" }], letters, { length });
    const { tokens, firstTarget } = set.sequences[0]!;
    assertEquals(set.shortened, length < 7 ? 1 : 0);
    return [[...tokens], firstTarget, set.shortenedPrompts, set.shortenedCompletions, set.droppedTokens];
  };
  assertEquals(shorten(7), [[a, b, c, EOS, space, d, e, EOS], 4, 0, 0, 0]);
  assertEquals(shorten(6), [[b, c, EOS, space, d, e, EOS], 3, 1, 0, 1]);
  assertEquals(shorten(4), [[c, EOS, space, d, e], 2, 1, 1, 3]);
  assertEquals(shorten(3), [[c, EOS, space, d], 2, 1, 1, 4]);
  assertEquals(shorten(1), [[EOS, space], 1, 1, 1, 6]);
});

Deno.test("a completion that is longer than the sequence loses its end, and the prompt stays whole", () => {
  const set = encodePairs([{ prompt: "ab", completion: "d".repeat(20) }], letters, { length: 9 });
  assertEquals([...set.sequences[0]!.tokens], [a, b, EOS, space, d, d, d, d, d, d]);
  assertEquals([set.shortened, set.shortenedPrompts, set.shortenedCompletions, set.droppedTokens], [
    1,
    0,
    1,
    15,
  ]);
  const long = encodePairs([{ prompt: "a".repeat(20), completion: "de" }], letters, { length: 9 });
  assertEquals([...long.sequences[0]!.tokens], [a, a, a, a, a, EOS, space, d, e, EOS]);
  assertEquals([long.shortenedPrompts, long.shortenedCompletions], [1, 0]);
});

Deno.test("encodeWindows joins documents and lets every token count", () => {
  const set = encodeWindows(["ab", "cde", "a"], letters, { length: 4 });
  // a b EOS c d e EOS a EOS: two windows of four, all nine tokens used.
  assertEquals(set.droppedTokens, 0);
  assertEquals(fixedBatches(set, 2), [{
    tokens: Uint32Array.of(a, b, EOS, c, d, e, EOS, a),
    targets: Uint32Array.of(b, EOS, c, d, e, EOS, a, EOS),
    mask: new Float32Array(8).fill(1),
    batch: 2,
    length: 4,
  }]);
  assertEquals(encodeWindows(["ab", "cde", "a"], letters, { length: 5 }).droppedTokens, 3);
  const error = assertThrows(() => encodeWindows(["ab"], letters, { length: 3 }), RangeError);
  assertStringIncludes(error.message, "at least 4 tokens: current value is 3");
});

Deno.test("fixedBatches takes each sequence once, the last batch being smaller", () => {
  const batches = fixedBatches(numbered(5), 2);
  assertEquals(batches.map(({ batch, tokens }) => [batch, [...tokens]]), [[2, [0, 1]], [2, [2, 3]], [1, [
    4,
  ]]]);
});

Deno.test("shuffledBatches takes each sequence once in each epoch, in another order each time", () => {
  const stream = shuffledBatches(numbered(10), { batch: 4, seed: 1 });
  const drawn: number[] = [];
  for (let i = 0; i < 10; i++) {
    assertEquals([stream.position, stream.epoch], [i, (i * 4) / 10]);
    const { tokens, targets, batch } = stream.next();
    assertEquals([batch, [...targets]], [4, [...tokens].map((token) => token + 1)]);
    drawn.push(...tokens);
  }
  const epochs = [0, 10, 20, 30].map((start) => drawn.slice(start, start + 10));
  for (const epoch of epochs) {
    assertEquals(epoch.toSorted((x, y) => x - y), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  }
  assertEquals(new Set(epochs.map(String)).size, 4);
});

Deno.test("shuffledBatches is a function of seed and position", () => {
  const set = numbered(7);
  const draw = (seed: number, positions: number[]) => {
    const stream = shuffledBatches(set, { batch: 3, seed });
    return positions.map((position) => {
      stream.position = position;
      return String(stream.next().tokens);
    });
  };
  assertEquals(draw(1, [0, 1, 2, 3, 40]), draw(1, [40, 3, 2, 1, 0]).toReversed());
  assertNotEquals(draw(1, [0, 1, 2]), draw(2, [0, 1, 2]));
  // Never to change: a run that goes on later must meet the same data.
  assertEquals(draw(1, [0, 1, 2]), ["3,4,0", "6,2,1", "5,0,2"]);
});

Deno.test("shuffledBatches with padToMultipleOf puts like lengths together, each sequence once, by seed and position", () => {
  const count = 256, batch = 4; // two windows of 32 batches
  const set = {
    ...numbered(count),
    length: 50,
    sequences: Array.from({ length: count }, (_, i) => ({
      tokens: Uint32Array.from({ length: 3 + (i * 37) % 48 }, (_, t) => t === 0 ? i : 1000),
      firstTarget: 1,
    })),
  };
  const draw = (seed: number, position: number) => {
    const stream = shuffledBatches(set, { batch, seed, padToMultipleOf: 8 });
    stream.position = position;
    return stream.next();
  };
  const seen: number[] = [];
  let places = 0, text = 0;
  for (let position = 0; position < count / batch; position++) {
    const { tokens, length, mask } = draw(3, position);
    assertEquals(length % 8 === 0 || length === 50, true);
    places += batch * length;
    text += mask.reduce((sum, x) => sum + x, 0);
    for (let b = 0; b < batch; b++) seen.push(tokens[b * length]!);
  }
  assertEquals(text, set.sequences.reduce((sum, { tokens }) => sum + tokens.length - 1, 0));
  assertEquals(new Set(seen).size, count);
  // Padding all to T would be 50 / 25.5 = 1.96 places for each with text.
  assertLess(places / text, 1.3);
  assertEquals(String(draw(3, 40).tokens), String(draw(3, 40).tokens));
  assertNotEquals(String(draw(3, 40).tokens), String(draw(4, 40).tokens));
  assertThrows(
    () => shuffledBatches(set, { batch, seed: 0, padToMultipleOf: -8 }),
    RangeError,
    "padToMultipleOf",
  );
});

Deno.test("shuffledBatches may have batches larger than the set", () => {
  const { tokens } = shuffledBatches(numbered(2), { batch: 6, seed: 0 }).next();
  assertEquals([0, 2, 4].map((start) => [...tokens.slice(start, start + 2)].toSorted()), [[0, 1], [0, 1], [
    0,
    1,
  ]]);
});

Deno.test("batches refuse what is out of range", () => {
  const set = numbered(2);
  for (const bad of [0, -1, 1.5, NaN]) {
    assertThrows(() => encodePairs([], letters, { length: bad }), RangeError);
    assertThrows(() => encodeWindows(["abc"], letters, { length: bad }), RangeError);
    assertThrows(() => fixedBatches(set, bad), RangeError);
    assertThrows(() => shuffledBatches(set, { batch: bad, seed: 0 }), RangeError);
  }
  const stream = shuffledBatches(set, { batch: 1, seed: 0 });
  for (const bad of [-1, 0.5]) assertThrows(() => (stream.position = bad), RangeError);
  assertThrows(() => shuffledBatches(set, { batch: 1, seed: -1 }), RangeError);
  assertThrows(() => fixedBatches(numbered(0), 1), RangeError);
  assertThrows(() => shuffledBatches(numbered(0), { batch: 1, seed: 0 }), RangeError);
});
