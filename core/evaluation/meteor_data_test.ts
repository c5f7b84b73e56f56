import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import {
  loadMeteorData,
  parseFunctionWords,
  parseMeteorSynonyms,
  parsePrefixes,
  parseWordNet,
} from "./meteor_data.ts";

const SENSES = "cheap%3:00:00:: 00933154 1 3\ncheap%5:00:00:stingy:00 01112969 2 0\n" +
  "go_out%2:38:00:: 02061495 1 4\ngo%2:38:00:: 01835496 1 0\n";
const EXCEPTIONS = ["", "", "geese goose\n", "went go\nlay lay lie\n"];

Deno.test("WordNet's files and METEOR's give the same synonyms", () => {
  const wordNet = parseWordNet(SENSES, EXCEPTIONS);
  assertEquals(
    wordNet,
    parseMeteorSynonyms(
      "cheap\n00933154 01112969\ngo\n01835496\ngo_out\n02061495\n",
      "goose\ngeese\ngo\nwent\nlay\nlay\nlie\nlay\n",
    ),
  );
  assertEquals(wordNet.sets.get("cheap"), new Set([933154, 1112969]));
  assertEquals(wordNet.sets.has("go_out"), false);
  assertEquals(wordNet.bases.get("lay"), ["lay", "lie"]);
});

Deno.test("word lists leave out empty lines and comments", () => {
  assertEquals(parseFunctionWords("the\n,\n\nof\n"), new Set(["the", ",", "of"]));
  assertEquals(
    parsePrefixes("#a comment\n\nDr\nNo #NUMERIC_ONLY#\nvs \n"),
    new Map([["Dr", "always"], ["No", "number"], ["vs", "always"]]),
  );
});

Deno.test("loadMeteorData reads both layouts and says what a folder lacks", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const put = (name: string, text: string): Promise<void> => Deno.writeTextFile(`${folder}/${name}`, text);
    await Deno.mkdir(`${folder}/function`);
    await Deno.mkdir(`${folder}/nonbreaking`);
    await put("function/english.words", "the\n");
    const folders = { synonyms: folder, words: folder };
    const lists = await assertRejects(() => loadMeteorData(folders), ModelFileError);
    assertStringIncludes(lists.message, `nonbreaking/english.prefixes: current folder is ${folder}`);
    await put("nonbreaking/english.prefixes", "Dr\n");
    await put("index.sense", SENSES);
    const missing = await assertRejects(() => loadMeteorData(folders), ModelFileError);
    assertStringIncludes(missing.message, "adj.exc");
    for (const [i, name] of ["adj", "adv", "noun", "verb"].entries()) {
      await put(`${name}.exc`, EXCEPTIONS[i]!);
    }
    assertEquals((await loadMeteorData(folders)).synonyms, parseWordNet(SENSES, EXCEPTIONS));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
