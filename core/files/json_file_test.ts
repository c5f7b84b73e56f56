import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { parseJson, readJson } from "./json_file.ts";

Deno.test("parseJson() reads what JSON.parse reads, within limits", () => {
  const texts = ['{"a":[1,{"b":"[{,\\\\\\"]"}],"c":null}', "[]", '"[[["', " 1 ", '["\\\\",[1]]'];
  for (const text of texts) assertEquals(parseJson(text, { maxDepth: 3 }), JSON.parse(text));
  assertThrows(() => parseJson("[[[[]]]]", { maxDepth: 3 }), RangeError, "at most 3 within each other");
  assertThrows(() => parseJson("[1,2,3,4]", { maxValues: 3 }), RangeError, "at most 3 values");
  assertThrows(() => parseJson('{"a":'), SyntaxError);
});

Deno.test("readJson() refuses a file that is too long, before it reads it", async () => {
  const path = await Deno.makeTempFile();
  await Deno.writeTextFile(path, '{"ü": 1}');
  assertEquals(await readJson(path), { "ü": 1 });
  await assertRejects(() => readJson(path, { maxBytes: 5 }), RangeError, "at most 5 bytes: it has 9");
  await Deno.truncate(path, 2 ** 34);
  await assertRejects(() => readJson(path), RangeError, "at most 67108864 bytes");
  await Deno.remove(path);
});
