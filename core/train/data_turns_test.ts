import { assert, assertEquals, assertThrows } from "@std/assert";
import { DataTurns } from "./data_turns.ts";

/** Takes so many turns; whose they were. */
function take(turns: DataTurns, present: readonly string[], count: number): string[] {
  return Array.from({ length: count }, () => {
    const drawn = turns.draw(new Set(present))!;
    turns.take(drawn);
    return [...drawn.parts.keys()][0]!;
  });
}

function turnsOf(weights: Readonly<Record<string, number>>, seed = 1): DataTurns {
  const turns = new DataTurns(seed);
  for (const [name, weight] of Object.entries(weights)) turns.add({ key: name, name, weight });
  return turns;
}

const countOf = (list: readonly string[], name: string) => list.filter((n) => n === name).length;

Deno.test("equal owners take turns one after the other, in an order of the seed, whatever the order of joining", () => {
  const orders = [1, 2, 3, 4, 5, 6, 7, 8].map((seed) => {
    const order = take(turnsOf({ attic: 1, barn: 1, cellar: 1 }, seed), ["attic", "barn", "cellar"], 9);
    assertEquals(
      take(turnsOf({ cellar: 1, barn: 1, attic: 1 }, seed), ["barn", "cellar", "attic"], 9),
      order,
    );
    assertEquals(order.slice(3), order.slice(0, 6));
    return order.join();
  });
  assert(new Set(orders).size > 1);
});

Deno.test("turns follow the weights, at every length within two turns", () => {
  const weights = { attic: 5, barn: 2, cellar: 1 };
  const all = take(turnsOf(weights), Object.keys(weights), 800);
  for (const [name, weight] of Object.entries(weights)) {
    assertEquals(countOf(all, name), 100 * weight);
    for (let n = 8; n < 800; n += 37) {
      assert(Math.abs(countOf(all.slice(0, n), name) - n * weight / 8) <= 2, `${name} ${n}`);
    }
  }
});

Deno.test("who was away is owed its turns, and catches up without having the model alone", () => {
  const turns = turnsOf({ attic: 1, barn: 1 });
  const both = ["attic", "barn"];
  take(turns, both, 10);
  const missed = take(turns, ["attic"], 20);
  assertEquals(countOf(missed, "barn"), 0);
  const after = take(turns, both, 120);
  assertEquals(countOf(after, "barn") - countOf(after, "attic"), 20);
  // While it catches up barn has two turns of three, then one of two.
  assertEquals(countOf(after.slice(0, 30), "barn"), 20);
  assertEquals(countOf(after.slice(80), "barn"), 20);
  for (let i = 0; i + 3 <= after.length; i++) {
    assert(after.slice(i, i + 3).includes("attic"), "barn alone has the model");
  }
});

Deno.test("who joins late has missed nothing; who is done is owed nothing", () => {
  const turns = turnsOf({ attic: 1, barn: 1 });
  take(turns, ["attic", "barn"], 100);
  turns.add({ key: "cellar", name: "cellar", weight: 1 });
  const all = ["attic", "barn", "cellar"];
  assertEquals(countOf(take(turns, all, 30), "cellar"), 10);
  turns.finish("attic");
  assertEquals(new Set(take(turns, all, 2)), new Set(["barn", "cellar"]));
  turns.finish("barn");
  turns.finish("cellar");
  assertEquals(turns.draw(new Set(all)), null);
});

Deno.test("a state goes on with the same turns; a step that was drawn and not done changes nothing", () => {
  const turns = turnsOf({ attic: 3, barn: 2, cellar: 1 });
  const all = ["attic", "barn", "cellar"];
  take(turns, all, 7);
  take(turns, ["attic", "cellar"], 5);
  const again = new DataTurns(1, JSON.parse(JSON.stringify(turns.saved)));
  assertEquals(again.draw(new Set(all), 4), turns.draw(new Set(all), 4));
  again.draw(new Set(["barn"]));
  assertEquals(take(again, all, 50), take(turns, all, 50));
  assertEquals(again.given("barn"), turns.given("barn"));
});

Deno.test("weights must be positive", () => {
  const turns = new DataTurns(1);
  for (const weight of [0, -1, NaN, Infinity]) {
    assertThrows(() => turns.add({ key: "a", name: "a", weight }), RangeError, "must be positive");
  }
});
