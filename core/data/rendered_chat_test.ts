import { assertEquals } from "@std/assert";
import { ASSETS, FIXTURES } from "../../tests/support/places.ts";
import { readJson } from "../files/json_file.ts";
import { chatTemplateFromConfig } from "./chat_template.ts";
import { encodeExamples, parseExamples, type RenderedChat } from "./examples.ts";
import { encodeTurn, renderChat } from "./rendered_chat.ts";
import { type Tokenizer, tokenizerFromJson } from "./tokenizer.ts";

async function tokenizers(): Promise<Tokenizer[]> {
  return [
    tokenizerFromJson(await readJson(`${ASSETS}tiny_gpt2/tokenizer.json`)),
    tokenizerFromJson(await readJson(`${FIXTURES}tokenizer/metaspace.json`), { eos: "</s>" }),
  ];
}

const ANSWERS = ["By the harbour.", "a place", "I", "Yes, there is one."];

Deno.test("a model is asked with the tokens that it learnt, also where a template ends in a space", async () => {
  for (const tokenizer of await tokenizers()) {
    for (const space of [" ", "  ", "\t", "\n", "\n\n", ": ", ":", ">"]) {
      const template = chatTemplateFromConfig({
        chat_template: `{% for m in messages %}[{{ m.role }}]${space}{{ m.content }}{% endfor %}` +
          `{% if add_generation_prompt %}[assistant]${space}{% endif %}`,
      });
      for (const content of ANSWERS) {
        const messages = [{ role: "user", content: "Where?" }, { role: "assistant", content }];
        const chat = renderChat(template, { messages });
        const { tokens, lead } = encodeTurn(tokenizer, chat.last!.opening);
        const [sequence] = encodeExamples([chat], tokenizer, { length: 1000 }).sequences;
        const learnt = Array.from(sequence!.tokens);
        assertEquals(learnt.slice(0, tokens.length), tokens, JSON.stringify({ space, content }));
        // What is learnt begins there, and is the rest of the text.
        assertEquals(
          sequence!.counts?.indexOf(1) ?? tokens.length,
          tokens.length,
          JSON.stringify({ space, content }),
        );
        assertEquals(tokenizer.decode(learnt.slice(tokens.length)).trimStart(), content);
        assertEquals(lead, space === " " ? " " : lead.trim() + lead);
        if (/\S$|\n$/.test(space)) assertEquals(lead, "");
      }
    }
  }
});

Deno.test("a text of spaces alone is given as it is", async () => {
  for (const tokenizer of await tokenizers()) {
    assertEquals(encodeTurn(tokenizer, " "), { tokens: tokenizer.encode(" "), lead: "" });
    assertEquals(encodeTurn(tokenizer, ""), { tokens: [tokenizer.eos], lead: "" });
  }
});

Deno.test("numbers of tool calls are written as Python writes those of the same JSON", () => {
  const template = chatTemplateFromConfig({
    chat_template:
      "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.arguments | tojson }}{{ c.arguments }}" +
      "{% endfor %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ tools[0].max | tojson }}",
  });
  const line =
    '{"messages": [{"role": "assistant", "content": "x", "weight": 1.0, "tool_calls": [{"arguments": ' +
    '{"a": 1.0, "b": 1, "c": -0.0, "d": 2e3, "e": [1.50, 12345678901234567890], "f": 1e22}}]}], ' +
    '"tools": [{"max": 100.0}]}';
  const [chat] = parseExamples(line, { chatTemplate: template }) as RenderedChat[];
  // As json.loads, json.dumps and str of Python 3.11 have it.
  assertEquals(
    chat!.parts.map(({ text }) => text).join(""),
    '{"a": 1.0, "b": 1, "c": -0.0, "d": 2000.0, "e": [1.5, 12345678901234567890], "f": 1e+22}' +
      "{'a': 1.0, 'b': 1, 'c': -0.0, 'd': 2000.0, 'e': [1.5, 12345678901234567890], 'f': 1e+22}x100.0",
  );
});
