import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import { loadPairs, parsePairs } from "./pairs.ts";

Deno.test("parsePairs reads lines as the E2E files have them", () => {
  const text = "\uFEFFname : Blue Spice | Type : pub||A pub called Blue Spice . \r\nname[É], x[a|b]|| y\n\n";
  assertEquals(parsePairs(text), [
    { prompt: "name : Blue Spice | Type : pub", completion: "A pub called Blue Spice ." },
    { prompt: "name[É], x[a|b]", completion: " y" },
  ]);
});

Deno.test("parsePairs reads JSON lines", () => {
  const text =
    '{"prompt": "a||b", "completion": "c", "cate": true}\n{"context":"d","completion":"\\u00e9\\n"}';
  const expected = [{ prompt: "a||b", completion: "c" }, { prompt: "d", completion: "é\n" }];
  assertEquals(parsePairs(text, { format: "jsonl" }), expected);
  assertEquals(parsePairs(text, { name: "data.jsonl" }), expected);
});

const BAD: readonly (readonly [what: string, format: "lines" | "jsonl", line: string, rule: string])[] = [
  ["no separator", "lines", "x | y", '"||" exactly once: current value is "x | y"'],
  ["two separators", "lines", "x||y||z", '"||" exactly once'],
  ["no prompt", "lines", " ||y", "the prompt must not be empty"],
  ["no completion", "lines", "x|| ", 'the completion must not be empty: current value is "x||"'],
  ["an empty line", "lines", "", '"||" exactly once: current value is ""'],
  ["no JSON", "jsonl", "{", 'a line must be JSON: current value is "{"'],
  ["an empty line of JSON", "jsonl", "", "a line must be JSON"],
  ["a number", "jsonl", "1", "a line must be an object"],
  ["null", "jsonl", "null", "a line must be an object"],
  ["a prompt of another type", "jsonl", '{"prompt":1,"completion":"c"}', '"prompt" must be a string'],
  ["a missing completion", "jsonl", '{"prompt":"p"}', '"completion" must be a string'],
  ["an empty completion", "jsonl", '{"prompt":"p","completion":""}', "the completion must not be empty"],
];

for (const [what, format, line, rule] of BAD) {
  Deno.test(`parsePairs refuses ${what}`, () => {
    const good = format === "lines" ? "a||b" : '{"prompt":"a","completion":"b"}';
    const error = assertThrows(
      () => parsePairs(`${good}\n${line}\n${good}`, { format, name: "d.txt" }),
      DataFormatError,
    );
    assertStringIncludes(error.message, "Cannot read d.txt, line 2, as ");
    assertStringIncludes(error.message, rule);
  });
}

Deno.test("parsePairs refuses an empty file and shortens long values", () => {
  assertStringIncludes(assertThrows(() => parsePairs("\n"), DataFormatError).message, "at least one line");
  const { message } = assertThrows(() => parsePairs("x".repeat(1000)), DataFormatError);
  assertEquals(message.length < 200, true);
});

Deno.test("loadPairs reads files and names them in errors", async () => {
  const path = await Deno.makeTempFile({ suffix: ".jsonl" });
  try {
    await Deno.writeTextFile(path, '{"prompt":"a","completion":"b"}\n');
    assertEquals(await loadPairs(path), [{ prompt: "a", completion: "b" }]);
    await Deno.writeTextFile(path, "a||b\n");
    const line = await assertRejects(() => loadPairs(path), DataFormatError);
    assertStringIncludes(line.message, `Cannot read ${path}, line 1, as a line must be JSON`);
    await Deno.writeFile(path, Uint8Array.of(0x61, 0xff));
    const bytes = await assertRejects(() => loadPairs(path), DataFormatError);
    assertStringIncludes(bytes.message, `Cannot read ${path}, line 1, as a line must be UTF-8`);
  } finally {
    await Deno.remove(path);
  }
  await assertRejects(() => loadPairs(path), ModelFileError);
});
