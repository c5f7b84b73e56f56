import { assert, assertEquals, assertThrows } from "@std/assert";
import { fileURLToPath } from "node:url";
import { loadTokenizer } from "../data/tokenizer.ts";
import { completeText } from "./complete_text.ts";
import type { DecodingSession } from "./model.ts";
import { TextStream } from "./text_stream.ts";

const tokenizer = await loadTokenizer(
  fileURLToPath(new URL("../../cli/assets/tiny_gpt2/tokenizer.json", import.meta.url)),
);

/** Pieces of a text as its tokens come, and what the end adds. */
function pieces(tokens: readonly number[], stop: readonly string[] = [], of = tokenizer): string[] {
  const stream = new TextStream(of, { stop });
  return [...tokens.map((token) => stream.push(token)), stream.end()];
}

Deno.test("TextStream gives whole letters alone, and all of the text", () => {
  for (const text of ["A naïve café – 日本語, 👩‍🚀 and 🇫🇷!", " \n\n a\tb ", "€", "👍", "plain"]) {
    const tokens = tokenizer.encode(text);
    const all = pieces(tokens);
    assertEquals(all.join(""), text);
    assert(all.every((piece) => piece.isWellFormed() && !piece.includes("\ufffd")), JSON.stringify(all));
    assertEquals(all.at(-1), "", "nothing is kept back once it is whole");
  }
  // The letters of this one have several tokens each, so that there was something to keep.
  assert(pieces(tokenizer.encode("👩‍🚀")).filter((piece) => piece === "").length > 3);
});

Deno.test("TextStream gives bytes that are no text as they are decoded, in bounded memory", () => {
  const [first] = tokenizer.encode("👍");
  assertEquals(pieces([first!]).join(""), "\ufffd");
  assertEquals(pieces([first!, ...tokenizer.encode("a")]).join(""), "\ufffda");
  // Nothing follows for long: it does not wait for ever.
  const many = pieces(Array(100).fill(first));
  assertEquals(many.join(""), "\ufffd".repeat(100));
  assert(many.slice(0, 20).join("") !== "");
  assertEquals(pieces([tokenizer.vocabSize, tokenizer.vocabSize + 7]).join(""), "");
});

Deno.test("TextStream keeps the spaces between words of decoders that drop the first one", () => {
  const words = ["▁The", "▁", "▁Heron", "▁is", "▁▁cheap"];
  const decode = (ids: ArrayLike<number>) =>
    Array.from(ids, (id) => words[id]!.replaceAll("▁", " ")).join("").replace(/^ /, "");
  const ids = words.map((_, id) => id);
  assertEquals(
    pieces(ids, [], { ...tokenizer, decode, vocabSize: words.length }).join(""),
    decode(ids),
  );
});

Deno.test("TextStream leaves out what comes first and is no part of the answer", () => {
  for (
    const [text, expected] of [[" By the river.", "By the river."], ["By", "By"], ["  a", " a"], [" ", ""]]
  ) {
    const stream = new TextStream(tokenizer, { lead: " " });
    const all = tokenizer.encode(text!).map((token) => stream.push(token)).join("") + stream.end();
    assertEquals(all, expected);
  }
});

Deno.test("TextStream ends at the first of its stop texts and gives nothing of it, however it is cut into tokens", () => {
  const text = "The Heron is near the river. It is cheap.\n\nUser: and?";
  for (
    const [stop, expected] of [
      [["river"], "The Heron is near the "],
      [["\n\n", "Heron"], "The "],
      [["\n\nUser:"], "The Heron is near the river. It is cheap."],
      // What only begins like it is given.
      [["river!", "cheapest", "The Herons"], text],
      [["?"], text.slice(0, -1)],
      [["T"], ""],
      [["and??"], text],
    ] as const
  ) {
    for (const tokens of [tokenizer.encode(text), [...text].flatMap((letter) => tokenizer.encode(letter))]) {
      const stream = new TextStream(tokenizer, { stop });
      let given = "";
      for (const token of tokens) {
        given += stream.push(token);
        assert(expected.startsWith(given), `${JSON.stringify(given)} with ${JSON.stringify(stop)}`);
      }
      given += stream.end();
      assertEquals([given, stream.isStopped], [expected, expected !== text]);
    }
  }
  assertThrows(() => new TextStream(tokenizer, { stop: ["a", ""] }), RangeError, "must not be empty");
});

/** A model that goes through tokens, and counts its passes. */
function reciting(tokens: readonly number[]): DecodingSession & { passes: number } {
  const vocabulary = tokenizer.vocabSize;
  return {
    ...{ vocabulary, contextLength: 64, passes: 0 },
    start() {
      return this.append([], []);
    },
    append() {
      const logits = new Float32Array(vocabulary);
      logits[tokens[this.passes++] ?? tokenizer.eos] = 9;
      return Promise.resolve(logits);
    },
  };
}

Deno.test("completeText() says why a text ended, and computes nothing after it", async () => {
  const words = tokenizer.encode("It is cheap. It is near.");
  const run = async (options: { stop?: string[]; maxNewTokens?: number; signal?: AbortSignal } = {}) => {
    const session = reciting(words);
    const given: string[] = [];
    const done = await completeText(session, tokenizer, [1], {
      ...{ maxNewTokens: 60, endTokens: [tokenizer.eos], ...options },
      onText: (piece) => void given.push(piece),
    });
    assertEquals([given.join(""), given.includes("")], [done.text, false]);
    assertEquals(session.passes, done.tokens, "one pass a token");
    return [done.text, done.reason, done.tokens];
  };
  assertEquals(await run(), ["It is cheap. It is near.", "stop", words.length + 1]);
  assertEquals((await run({ stop: ["."] })).slice(0, 2), ["It is cheap", "stop"]);
  assertEquals((await run({ maxNewTokens: 2 })).slice(1), ["length", 2]);
  assertEquals(await run({ signal: AbortSignal.abort() }), ["", "aborted", 0]);
  const abort = new AbortController();
  let pieces = 0;
  const { reason, tokens } = await completeText(reciting(words), tokenizer, [1], {
    ...{ maxNewTokens: 60, endTokens: [tokenizer.eos], signal: abort.signal },
    onText: () => ++pieces === 2 && abort.abort(),
  });
  assertEquals([reason, tokens < words.length], ["aborted", true]);
});
