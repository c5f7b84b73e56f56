// Runs against the stand-in and, with `deno task test:jsr`, against the real package: both must agree.
import {
  assert,
  assertAlmostEquals,
  assertArrayIncludes,
  assertEquals,
  assertExists,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  AssertionError,
  assertIsError,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
  assertNotStrictEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
  equal,
  fail,
} from "@std/assert";

function throwText(): never {
  // deno-lint-ignore no-throw-literal -- what is thrown need not be an error
  throw "text";
}

/** Asserts by hand that `fn` fails, as the assertions themselves are under test. */
function fails(fn: () => unknown, text = ""): void {
  try {
    fn();
  } catch (error) {
    if (error instanceof AssertionError && error.message.includes(text)) return;
    throw error;
  }
  throw new Error(`Cannot pass as the assertion must fail: current value is ${fn}`);
}

async function failsLater(fn: () => Promise<unknown>, text = ""): Promise<void> {
  const error = await fn().then(() => undefined, (reason: unknown) => reason);
  fails(() => {
    if (error) throw error;
  }, text);
}

Deno.test("equal() compares deeply", () => {
  const cases: [unknown, unknown, boolean][] = [
    [1, 1, true],
    [1, "1", false],
    [NaN, NaN, true],
    [0, -0, true],
    [null, undefined, false],
    [1n, 1n, true],
    [{ a: [1, { b: 2 }] }, { a: [1, { b: 2 }] }, true],
    [{ a: 1, b: 2 }, { b: 2, a: 1 }, true],
    [{ a: undefined }, {}, false],
    [{ a: undefined }, { b: undefined }, false],
    [[1, 2], [1, 2, 3], false],
    [[1, 2], { 0: 1, 1: 2 }, false],
    [Object.create(null), {}, true],
    [new Date(0), new Date(0), true],
    [new Date(0), new Date(1), false],
    [/a/g, /a/g, true],
    [/a/g, /a/i, false],
    [new URL("a:b"), new URL("a:b"), true],
    [new Float32Array([1, NaN]), new Float32Array([1, NaN]), true],
    [new Float32Array([1]), new Float32Array([2]), false],
    [new Float32Array([1]), new Float32Array([1, 2]), false],
    [new Float32Array([1]), new Int32Array([1]), false],
    [new Set([1, 2]), new Set([2, 1]), true],
    [new Set([{ a: 1 }, { a: 2 }]), new Set([{ a: 2 }, { a: 1 }]), true],
    [new Set([{ a: 1 }, { a: 2 }]), new Set([{ a: 1 }, { a: 3 }]), false],
    [new Map([["a", { b: 1 }]]), new Map([["a", { b: 1 }]]), true],
    [new Map([["a", 1]]), new Map([["a", 2]]), false],
    [new Map([["a", 1]]), new Map([["b", 1]]), false],
    [new Map([[{ k: 1 }, 1]]), new Map([[{ k: 1 }, 1]]), true],
    [{ [Symbol.for("s")]: 1 }, { [Symbol.for("s")]: 2 }, false],
    [() => 1, () => 1, false],
  ];
  for (const [a, b, expected] of cases) {
    assert(equal(a, b) === expected, `equal(${Deno.inspect(a)}, ${Deno.inspect(b)})`);
    assert(equal(b, a) === expected, `equal(${Deno.inspect(b)}, ${Deno.inspect(a)})`);
  }
});

Deno.test("equal() ends on cyclic values", () => {
  const [a, b]: { self?: unknown; n: number }[] = [{ n: 1 }, { n: 1 }];
  assert(a && b);
  a.self = a;
  b.self = b;
  assert(equal(a, b));
  b.n = 2;
  assert(!equal(a, b));
});

Deno.test("assert() narrows the type and throws AssertionError", () => {
  const value = [1, "a"].find((item) => typeof item === "number");
  assert(typeof value === "number", "no number");
  value.toFixed();
  fails(() => assert(0, "zero"), "zero");
  fails(() => assert(""));
  assertFalse(0);
  fails(() => assertFalse(1));
  fails(() => fail("stop"), "stop");
});

Deno.test("assertEquals() and assertNotEquals() compare deeply and show the difference", () => {
  assertEquals({ a: [1] }, { a: [1] });
  fails(() => assertEquals({ a: 1 }, { a: 2 }), "Values are not equal");
  fails(() => assertEquals({ rank: 12345 }, { rank: 4 }, "rank"), "12345");
  fails(() => assertEquals({ rank: 12345 }, { rank: 4 }, "the reason"), "the reason");
  assertNotEquals({ a: 1 }, { a: 2 });
  fails(() => assertNotEquals([1], [1]));
});

Deno.test("assertStrictEquals() compares by identity", () => {
  const value = { a: 1 };
  assertStrictEquals(value, value);
  assertStrictEquals(NaN, NaN);
  fails(() => assertStrictEquals({ a: 1 }, { a: 1 }), "not reference-equal");
  fails(() => assertStrictEquals(0, -0));
  fails(() => assertStrictEquals<unknown>(1, "1"));
  assertNotStrictEquals({ a: 1 }, { a: 1 });
  fails(() => assertNotStrictEquals(1, 1));
});

Deno.test("assertAlmostEquals() allows 1e-7 of the expected value by default", () => {
  assertAlmostEquals(1, 1 + 0.9e-7);
  assertAlmostEquals(0.1 + 0.2, 0.3);
  assertAlmostEquals(1, 1.5, 0.5);
  assertAlmostEquals(NaN, NaN);
  assertAlmostEquals(Infinity, Infinity);
  fails(() => assertAlmostEquals(1, 1 + 1.1e-7));
  fails(() => assertAlmostEquals(1e-9, 0));
  fails(() => assertAlmostEquals(1, 1.6, 0.5));
  fails(() => assertAlmostEquals(NaN, 1, 10));
  fails(() => assertAlmostEquals(1, NaN, 10));
  fails(() => assertAlmostEquals(1, Infinity));
});

Deno.test("order assertions compare strictly or not", () => {
  assertGreater(2, 1);
  fails(() => assertGreater(1, 1), "Expect 1 > 1");
  fails(() => assertGreater(NaN, 1));
  assertGreaterOrEqual(1, 1);
  fails(() => assertGreaterOrEqual(0, 1));
  assertLess(1, 2);
  fails(() => assertLess(1, 1));
  assertLessOrEqual(1, 1);
  fails(() => assertLessOrEqual(2, 1));
  fails(() => assertLessOrEqual(NaN, 1), "Expect NaN <= 1");
});

Deno.test("type assertions narrow the type", () => {
  const values: [RangeError | string | undefined] = [new RangeError("r")];
  const [value] = values;
  assertExists(value);
  assertInstanceOf(value, Error);
  assertEquals(value.message, "r");
  fails(() => assertExists(null));
  fails(() => assertExists(undefined));
  assertExists(0);
  fails(() => assertInstanceOf({}, Map), "Map");
  fails(() => assertInstanceOf(null, Map), "null");
  fails(() => assertInstanceOf(new Error(), RangeError));
});

Deno.test("text and array assertions", () => {
  assertMatch("rank 8", /\d/);
  fails(() => assertMatch("rank", /\d/));
  assertStringIncludes("rank 8", "rank");
  fails(() => assertStringIncludes("rank 8", "9"));
  assertArrayIncludes([1, { a: 1 }], [{ a: 1 }]);
  fails(() => assertArrayIncludes([1], [2]));
});

Deno.test("assertIsError() checks class and message", () => {
  assertIsError(new RangeError("too big"), RangeError, "big");
  assertIsError(new RangeError("too big"), Error, /b.g/);
  fails(() => assertIsError("text"));
  fails(() => assertIsError(new Error("x"), RangeError));
  fails(() => assertIsError(new Error("x"), Error, "y"));
});

Deno.test("assertThrows() returns what was thrown", () => {
  const thrower = () => {
    throw new RangeError("too big");
  };
  const error: RangeError = assertThrows(thrower, RangeError, "big");
  assertEquals(error.message, "too big");
  assertThrows(thrower);
  assertThrows(thrower, Error);
  const anything: unknown = assertThrows(throwText, "a message, not a class");
  assertEquals(anything, "text");
  fails(() => assertThrows(() => {}), "Expected function to throw");
  fails(() => assertThrows(() => {}, "the reason"), "the reason");
  fails(() => assertThrows(thrower, TypeError), "TypeError");
  fails(() => assertThrows(thrower, RangeError, "small"), "small");
  fails(() => assertThrows(throwText, Error));
});

Deno.test("assertRejects() resolves to the reason", async () => {
  const rejecter = () => Promise.reject(new RangeError("too big"));
  const error: RangeError = await assertRejects(rejecter, RangeError, "big");
  assertEquals(error.message, "too big");
  await assertRejects(rejecter);
  assertEquals(await assertRejects(() => Promise.reject("text"), "a message"), "text");
  await failsLater(() => assertRejects(() => Promise.resolve()), "Expected function to reject");
  await failsLater(() => assertRejects(rejecter, TypeError), "TypeError");
  await failsLater(() => assertRejects(rejecter, RangeError, "small"), "small");
  await failsLater(() => assertRejects(() => Promise.reject("text"), Error));
  await failsLater(() =>
    assertRejects(() => {
      throw new RangeError("not a promise");
    }, RangeError)
  );
});
