import { assertEquals } from "@std/assert";
import { type Allowed, type Breach, countsOf, findBreaches, shrunk, worseThan } from "../.ci/measures.ts";

const breach = (rule: string, file: string, line: number): Breach => ({ rule, file, line, message: rule });

const BREACHES = [
  breach("parameters", "a.ts", 3),
  breach("parameters", "a.ts", 9),
  breach("file-lines", "b.ts", 620),
  breach("file-lines", "names.ts", 900),
];

const ALLOWED: Allowed = {
  exceptions: { "names.ts": "a list" },
  notWorseThan: { "a.ts": { "parameters": 2, "function-lines": 1 }, "b.ts": { "file-lines": 650 } },
};

Deno.test("what is as bad as before passes; what is worse is named", () => {
  assertEquals(worseThan(BREACHES, ALLOWED), []);
  assertEquals(worseThan([...BREACHES, breach("parameters", "a.ts", 20)], ALLOWED), [
    "a.ts:3: parameters",
    "a.ts:9: parameters",
    "a.ts:20: parameters",
  ]);
  assertEquals(worseThan([breach("file-lines", "b.ts", 651)], ALLOWED), ["b.ts: file-lines"]);
  assertEquals(worseThan([breach("function-lines", "new.ts", 1)], ALLOWED), ["new.ts:1: function-lines"]);
  // An exception is one of length alone.
  assertEquals(worseThan([breach("parameters", "names.ts", 1)], ALLOWED), ["names.ts:1: parameters"]);
});

Deno.test("the list of what is still to be mended only shrinks", () => {
  assertEquals(countsOf(BREACHES)["b.ts"], { "file-lines": 620 });
  assertEquals(shrunk(BREACHES, ALLOWED), { "a.ts": { "parameters": 2 }, "b.ts": { "file-lines": 620 } });
  assertEquals(shrunk([...BREACHES, breach("parameters", "c.ts", 1)], ALLOWED)["c.ts"], undefined);
  assertEquals(shrunk([], ALLOWED), {});
});

Deno.test("long functions, many parameters and booleans among parameters are found", async () => {
  const root = await Deno.realPath(await Deno.makeTempDir());
  try {
    await new Deno.Command("git", { args: ["init", "-q", root] }).output();
    const long = `export function long(): void {\n${"  console.log(1);\n".repeat(79)}}\n`;
    const many = "export function many(a: number, b: number, c: number, d: number, e: number) {\n" +
      "  return a + b + c + d + e;\n}\n";
    const boolean = "export const boolean = (a: number, b = false) => b ? a : 0;\n";
    const fine =
      "export function fine(a: number, options: { b: boolean }) {\n  return options.b ? a : 0;\n}\n";
    await Deno.writeTextFile(`${root}/a.ts`, `${long}${many}${boolean}${fine}`);
    const found = (await findBreaches(root)).map(({ rule, line }) => [rule, line]);
    assertEquals(found.sort(), [["boolean-parameter", 85], ["function-lines", 1], ["parameters", 82]].sort());
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
