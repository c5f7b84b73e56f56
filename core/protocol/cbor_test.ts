import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  burden,
  BURDEN_COUNT,
  head,
  leastMs,
  map,
  randomNumbers,
} from "../../tests/support/hostile_frames.ts";
import { decodePlainData, encodePlainData } from "./cbor.ts";
import { assertQuick } from "../../tests/support/quick.ts";

Deno.test("plain data comes back as it was: typed arrays, -0, order of keys, undefined", () => {
  const data = {
    z: -0,
    a: [1, 2.5, NaN, -Infinity, 2 ** 40, -7],
    nested: { on: true, none: null, missing: undefined, text: "äöü" },
    bytes: Uint8Array.of(1, 2, 3),
    arrays: [
      Float32Array.of(1.5, NaN, -0),
      Float64Array.of(Math.PI),
      Int8Array.of(-1),
      Int16Array.of(-300),
      Uint16Array.of(65_535),
      Int32Array.of(-(2 ** 31)),
      Uint32Array.of(2 ** 32 - 1),
      new Float32Array(8).subarray(3, 5),
    ],
  };
  const back = decodePlainData(encodePlainData(data));
  assertEquals<unknown>(back, data);
  assertEquals(Object.keys(back as object), Object.keys(data));
  assert(Object.is((back as typeof data).z, -0));
});

Deno.test("what is no plain data is not written: TypeError", () => {
  let deep: unknown = 0;
  for (let i = 0; i < 40; i++) deep = [deep];
  const circle: unknown[] = [];
  circle.push(circle);
  const wrong = [
    new Map(),
    new Set(),
    new Date(),
    1n,
    () => 0,
    Symbol("s"),
    new BigInt64Array(1),
    deep,
    circle,
  ];
  for (const value of wrong) assertThrows(() => encodePlainData({ value }), TypeError, "plain data");
});

Deno.test("a file's plain data is read within bounds", () => {
  const random = randomNumbers(8);
  const hostile = [
    ...Array.from({ length: 6 * BURDEN_COUNT }, (_, i) => burden(i % BURDEN_COUNT, random, 2e4)),
    // Many times more than there is room for, in few bytes.
    Uint8Array.of(...head(4, 2 ** 31)),
    Uint8Array.from(map([["x", [...head(6, 85), ...head(2, 2 ** 32 - 5)]]])),
    Uint8Array.of(...head(6, 85), 0x43, 1, 2, 3),
    Uint8Array.of(...head(6, 85), 0x61, 0x61),
  ];
  for (const bytes of hostile) {
    const ms = leastMs(() => {
      try {
        decodePlainData(bytes);
      } catch (error) {
        assert(error instanceof SyntaxError, `${error}`);
      }
    });
    assertQuick(ms, 500, `${bytes.slice(0, 20)}`);
  }
});

Deno.test("reading frames loads no native addon: the library for CBOR depends on nothing", async () => {
  const lock = JSON.parse(await Deno.readTextFile(new URL("../../deno.lock", import.meta.url)));
  const packages = Object.entries<Record<string, unknown>>(lock.npm).filter(([name]) =>
    /^cbor|^@cbor/.test(name)
  );
  assertEquals(packages.map(([name]) => name.replace(/@.*/, "")), ["cborg"]);
  const { dependencies, optionalDependencies, scripts } = packages[0]![1];
  assertEquals([dependencies, optionalDependencies, scripts], [undefined, undefined, undefined]);
});
