import { assertEquals, assertThrows } from "@std/assert";
import { permutation, philox4x32, randomStream } from "./random.ts";

Deno.test("philox4x32 gives the published values", () => {
  assertEquals(philox4x32([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const ones = 0xffffffff;
  assertEquals(
    philox4x32([ones, ones, ones, ones], [ones, ones]),
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  );
  assertEquals(
    philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

Deno.test("randomStream goes to any place", () => {
  const random = randomStream(7, 3);
  const words = Array.from({ length: 11 }, () => random.uint32());
  for (const place of [10, 0, 3, 4, 7]) {
    random.position = place;
    assertEquals(random.uint32(), words[place]);
    assertEquals(random.position, place + 1);
  }
  random.position = 2 ** 34 + 5;
  assertEquals(random.uint32(), philox4x32([1, 1, 0, 0], [7, 3])[1]);
});

Deno.test("randomStream gives other words for other seeds and streams", () => {
  const first = [[1, 0], [2, 0], [1, 1], [0, 1]].map(([seed, stream]) =>
    randomStream(seed!, stream!).uint32()
  );
  assertEquals(new Set(first).size, 4);
});

Deno.test("randomStream draws floats and integers in range", () => {
  const random = randomStream(1);
  let sum = 0;
  const counts = [0, 0, 0];
  for (let i = 0; i < 3000; i++) {
    const float = random.float();
    assertEquals(float >= 0 && float < 1 && Math.fround(float) === float, true);
    sum += float;
    counts[random.below(3)]! += 1;
  }
  assertEquals(Math.abs(sum / 3000 - 0.5) < 0.02, true);
  assertEquals(counts.every((count) => Math.abs(count - 1000) < 100), true);
  assertEquals(random.below(1), 0);
});

Deno.test("randomStream refuses what is out of range", () => {
  for (const bad of [-1, 0.5, 2 ** 32, NaN]) {
    assertThrows(() => randomStream(bad), RangeError);
    assertThrows(() => randomStream(0, bad), RangeError);
  }
  const random = randomStream(0);
  for (const bad of [0, -1, 0.5, 2 ** 32 + 1]) assertThrows(() => random.below(bad), RangeError);
  for (const bad of [-1, 0.5, 2 ** 53]) assertThrows(() => (random.position = bad), RangeError);
});

Deno.test("permutation holds each number once", () => {
  for (const length of [0, 1, 2, 100]) {
    const order = permutation(length, randomStream(3));
    assertEquals([...order].toSorted((a, b) => a - b), Array.from({ length }, (_, i) => i));
  }
});
