import { assert, assertEquals } from "@std/assert";
import { plainText, quoted } from "./plain_text.ts";

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
  assert(performance.now() - started < 500);
});

Deno.test("quoted() shows any value in few plain characters", () => {
  assertEquals(quoted("a\u001b[1mb"), '"a\\u001b[1mb"');
  assertEquals(quoted("\u202ex"), '"x"');
  assertEquals(quoted(new Uint8Array(5)), "5 bytes");
  assertEquals(quoted(undefined), "undefined");
  assertEquals(quoted(1n << 70n), `${1n << 70n}n`);
  for (const value of ["x".repeat(1e6), Array(1e6).fill(1), { a: "y".repeat(1e5) }]) {
    assertEquals(quoted(value).length, 80);
  }
  const circle: Record<string, unknown> = {};
  circle.circle = circle;
  assertEquals(quoted(circle), "object");
});
