// Runs against the stand-in and, with `deno task test:jsr`, against the real package: both must agree.
import { assertEquals, assertStrictEquals } from "@std/assert";
import { parseArgs } from "@std/cli/parse-args";
import { parseArgs as parseArgsOfMain } from "@std/cli";

/** Fails to type-check unless the two types are the same. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false;
function same<A, B>(..._: Same<A, B> extends true ? [] : ["types differ"]): void {}

Deno.test("parseArgs() is the same function in both entry points", () => {
  assertStrictEquals(parseArgs, parseArgsOfMain);
});

Deno.test("parseArgs() reads flags without declarations", () => {
  const cases: [string[], Record<string, unknown>][] = [
    [[], { _: [] }],
    [["--a"], { a: true, _: [] }],
    [["--a", "x"], { a: "x", _: [] }],
    [["--a=x"], { a: "x", _: [] }],
    [["--a=x=y"], { a: "x=y", _: [] }],
    [["--a", "--b"], { a: true, b: true, _: [] }],
    [["--a", "-5"], { a: true, 5: true, _: [] }],
    [["--a=-5"], { a: -5, _: [] }],
    [["--a", "true"], { a: "true", _: [] }],
    [["--no-a"], { "no-a": true, _: [] }],
    [["-a"], { a: true, _: [] }],
    [["-ab"], { a: true, b: true, _: [] }],
    [["-ab", "x"], { a: true, b: "x", _: [] }],
    [["-a=x"], { a: "x", _: [] }],
    [["-n5"], { n: 5, _: [] }],
    [["-n", "5"], { n: 5, _: [] }],
    [["-"], { _: ["-"] }],
    [["x", "7", "--a", "--", "--b", "8"], { a: true, _: ["x", 7, "--b", "8"] }],
    [["--a.b=1", "--a.c"], { a: { b: 1, c: true }, _: [] }],
    [["--a=1", "--a=2"], { a: 2, _: [] }],
  ];
  for (const [args, expected] of cases) assertEquals<unknown>(parseArgs(args), expected, args.join(" "));
});

Deno.test("parseArgs() turns what looks like a number into one unless declared a string", () => {
  const numbers = ["1", "-1.5", ".5", "1e3", "1e-3", "0x1f", "+2"].map((text) => `--n=${text}`);
  assertEquals<unknown>(parseArgs(numbers, { collect: "n" }), { n: [1, -1.5, .5, 1000, .001, 31, 2], _: [] });
  const texts = ["1a", "1.2.3", "0x", "e3", "NaN", "Infinity"].map((text) => `--n=${text}`);
  assertEquals<unknown>(parseArgs(texts, { collect: "n" }), {
    n: ["1a", "1.2.3", "0x", "e3", "NaN", "Infinity"],
    _: [],
  });
  assertEquals<unknown>(parseArgs(["--n=007", "007"], { string: ["n"] }), { n: "007", _: [7] });
  assertEquals<unknown>(parseArgs(["--n=007", "007"], { string: ["n", "_"] }), { n: "007", _: ["007"] });
});

Deno.test("parseArgs() types and fills string, boolean and collect flags", () => {
  const args = parseArgs(["--model", "a", "--file=1", "--file=2", "--dry"], {
    string: ["model", "port", "file"],
    boolean: ["dry", "verbose"],
    collect: ["file", "extra"],
  });
  same<typeof args.model, string | undefined>();
  same<typeof args.file, string[]>();
  same<typeof args.dry, boolean>();
  same<typeof args.other, unknown>();
  same<typeof args._, (string | number)[]>();
  assertEquals<unknown>(args, { model: "a", file: ["1", "2"], dry: true, verbose: false, _: [] });
  assertEquals<unknown>(parseArgs([], { string: "a", collect: "a" }), { a: [], _: [] });
});

Deno.test("parseArgs() gives boolean flags no value but true or false", () => {
  const options = { boolean: ["a"] } as const;
  assertEquals<unknown>(parseArgs(["--a", "x"], options), { a: true, _: ["x"] });
  assertEquals<unknown>(parseArgs(["--a=false"], options), { a: false, _: [] });
  assertEquals<unknown>(parseArgs(["--a", "false"], options), { a: false, _: [] });
  assertEquals<unknown>(parseArgs(["-a", "x"], options), { a: true, _: ["x"] });
  assertEquals<unknown>(parseArgs(["--b", "x"], { boolean: true }), { b: true, _: ["x"] });
});

Deno.test("parseArgs() fills defaults and makes their flags required", () => {
  const args = parseArgs(["--port", "9"], {
    string: ["host", "port"],
    boolean: ["open"],
    default: { host: "localhost", port: "8000", open: true },
  });
  same<typeof args.host, string>();
  same<typeof args.open, boolean>();
  assertEquals<unknown>(args, { host: "localhost", port: "9", open: true, _: [] });
  assertEquals<unknown>(parseArgs([], { default: { rank: 8 } }), { rank: 8, _: [] });
});

Deno.test("parseArgs() sets all names of a flag", () => {
  const args = parseArgs(["-p", "80", "-q"], {
    string: ["port"],
    boolean: ["quiet"],
    alias: { port: ["p", "P"], quiet: "q" },
  });
  same<typeof args.p, string | undefined>();
  same<typeof args.q, boolean>();
  assertEquals<unknown>(args, { port: "80", p: "80", P: "80", quiet: true, q: true, _: [] });
  assertEquals<unknown>(parseArgs([], { alias: { rank: "r" }, default: { rank: 8 } }), {
    rank: 8,
    r: 8,
    _: [],
  });
});

Deno.test("parseArgs() negates only negatable flags", () => {
  const args = parseArgs(["--no-color", "--no-other"], {
    boolean: ["color"],
    string: ["config"],
    negatable: ["color", "config"],
    default: { color: true },
  });
  same<typeof args.config, string | false | undefined>();
  assertEquals<unknown>(args, { color: false, "no-other": true, _: [] });
});

Deno.test("parseArgs() asks unknown() about undeclared arguments", () => {
  const calls: unknown[] = [];
  const args = parseArgs(["--a=1", "-bc", "--known", "x", "rest"], {
    string: ["known"],
    unknown: (arg, key, value) => {
      calls.push([arg, key, value]);
      return arg === "-bc";
    },
  });
  assertEquals(calls, [
    ["--a=1", "a", "1"],
    ["-bc", "b", true],
    ["-bc", "c", true],
    ["rest", undefined, undefined],
  ]);
  assertEquals<unknown>(args, { b: true, c: true, known: "x", _: [] });
});

Deno.test("parseArgs() stops at -- and, if asked to, at the first argument that is no flag", () => {
  const args = parseArgs(["--a", "--", "--b", "1"], { "--": true });
  assertEquals<unknown>(args, { a: true, _: [], "--": ["--b", "1"] });
  assertEquals<unknown>(parseArgs(["-a", "--b=1", "x", "--c"], { stopEarly: true, boolean: "a" }), {
    a: true,
    b: 1,
    _: ["x", "--c"],
  });
});
