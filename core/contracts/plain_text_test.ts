import { assertEquals } from "@std/assert";
import { plainText, showValue } from "./plain_text.ts";
import { assertQuick } from "../../tests/support/quick.ts";

Deno.test("plainText() leaves words as they are, and takes out what a terminal would obey", () => {
  const cases: [string, string][] = [
    ["A device, no. 7: „ä“ 設備 🙂", "A device, no. 7: „ä“ 設備 🙂"],
    ["\u001b[31mred\u001b[0m", "red"],
    ["\u001b]0;title\u0007x", "x"],
    ["\u001b]8;;http://x\u001b\\link\u001b]8;;\u001b\\", "link"],
    ["\u009b2Jx", "x"],
    ["\u001bcx", "x"],
    ["\u001b", ""],
    ["a\r\nb\tc\u2028d", "a b c d"],
    ["a\u0000b\u0008c\u007fd\u0090e", "abcde"],
    ["\u202egnp.exe\u2066x\u2069\u200f\u061c", "gnp.exex"],
    ["\ufeffa\u200bb", "ab"],
    ["\ud800", "\ufffd"],
    ["[1] listed", "[1] listed"],
  ];
  for (const [text, plain] of cases) assertEquals(plainText(text), plain, JSON.stringify(text));
});

Deno.test("plainText() cuts, also what is very long, and no character in two", () => {
  assertEquals(plainText("x".repeat(200)), "x".repeat(200));
  assertEquals(plainText("x".repeat(201)), `${"x".repeat(197)}...`);
  assertEquals(plainText("x".repeat(7) + "🙂".repeat(9), 11), `${"x".repeat(7)}...`);
  const started = performance.now();
  assertEquals(plainText("\u001b[".repeat(1e6)).length, 3);
  assertEquals(plainText("\u001b]".repeat(1e6) + "x").length, 3);
  assertQuick(performance.now() - started, 500);
});

Deno.test("showValue() shows a short plain line of anything", () => {
  const loop: Record<string, unknown> = { a: 1 };
  loop.b = loop;
  const cases: [unknown, string][] = [
    [undefined, "missing"],
    [null, "null"],
    [NaN, "NaN"],
    [-0.5, "-0.5"],
    ["x", '"x"'],
    ["a\u001b[1mb", '"a\\u001b[1mb"'],
    ["\u202ex", '"x"'],
    [new Uint8Array(5), "5 bytes"],
    [[new Float32Array(2)], "[8 bytes]"],
    [1n << 64n, "18446744073709551616"],
    [{ a: [1, "b"], c: null, d: undefined }, '{"a":[1,"b"],"c":null,"d":undefined}'],
    [{ "\u202ek": 1 }, '{"k":1}'],
    [loop, '{"a":1,"b":{"a":1,"b":{"a":1,"b":{"a":1,"b":...}}}}'],
    [Array(1e6).fill(0), "[0,0,0,0,0,0,0,0,...]"],
  ];
  for (const [value, text] of cases) assertEquals(showValue(value), text);
  for (const value of ["x".repeat(1e6), Array(1e6).fill("z".repeat(30)), { a: "y".repeat(1e5) }]) {
    assertEquals(showValue(value).length, 80);
  }
});
