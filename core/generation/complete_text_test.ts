import { assertEquals } from "@std/assert";
import { ASSETS } from "../../tests/support/places.ts";
import { loadModelTokenizer } from "../data/tokenizer_folder.ts";
import { completeText } from "./complete_text.ts";
import type { DecodingSession } from "./model.ts";

const tokenizer = await loadModelTokenizer(`${ASSETS}tiny_gpt2`);

/** A model that wants these tokens, one more than the other. */
function wanting(tokens: readonly number[]): DecodingSession {
  const vocabulary = tokenizer.vocabSize;
  const answer = () => {
    const logits = new Float32Array(vocabulary);
    tokens.forEach((token, i) => logits[token] = 1 + i);
    return Promise.resolve(logits);
  };
  return { vocabulary, contextLength: 64, start: answer, append: answer };
}

Deno.test("completeText() begins with the text that is left to the model, and with the end only where nothing is", async () => {
  const [near, spaced] = [tokenizer.encode("near")[0]!, tokenizer.encode(" near")[0]!];
  const ends = [tokenizer.eos];
  const session = wanting([spaced, near, tokenizer.eos]);
  const prompt = tokenizer.encode("The Heron is:");
  const asked = { maxNewTokens: 3, endTokens: ends };
  const told = tokenizer.decode([spaced]).trimStart();
  for (const how of [{}, { temperature: 0.01 }]) {
    const free = await completeText(session, tokenizer, prompt, { ...asked, ...how });
    assertEquals(free, { text: "", reason: "stop", tokens: 1 });
    const held = await completeText(session, tokenizer, prompt, { ...asked, ...how, lead: " " });
    assertEquals(held, { text: told, reason: "stop", tokens: 2 });
  }
  // A text that no token begins.
  const none = await completeText(session, tokenizer, prompt, { ...asked, lead: "\u2603" });
  assertEquals(none, { text: "", reason: "stop", tokens: 1 });
});
