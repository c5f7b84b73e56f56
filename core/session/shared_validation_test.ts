import { assertAlmostEquals, assertEquals } from "@std/assert";
import { type DataStep, OwnValidation } from "./_data_parts.ts";
import { SharedValidation } from "./shared_validation.ts";

const step = (at: number, position: number): DataStep => ({
  ...{ step: at, mode: "evaluate", parts: null, position, isMixed: false, best: false, isSaved: false },
  streams: new Map(),
});

Deno.test("an owner's own validation counts each batch once, and is told only if it is whole", () => {
  const own = new OwnValidation();
  own.add(step(4, 0), 2, 10);
  own.add(step(4, 1), 9, 30);
  // Its step began again.
  own.add(step(4, 1), 3, 30);
  assertEquals(own.end(step(4, 2)), { loss: (2 * 10 + 3 * 30) / 40, counted: 40 });
  // The next validation begins anew.
  own.add(step(8, 0), 1, 10);
  assertEquals(own.end(step(8, 1)), { loss: 1, counted: 10 });
  assertEquals(own.end(step(8, 2)), {}, "another process had the first batches");
  assertEquals(new OwnValidation().end(step(4, 0)), {});
  own.add(step(9, 0), 0, 0);
  assertEquals(own.end(step(9, 1)), {}, "nothing counts");
});

Deno.test("a validation is of all who tell, and names those who do not", () => {
  const names = new Map([["a", "attic"], ["b", "barn"], ["c", "cellar"], ["d", "den"], ["e", "eaves"]]);
  const result = (loss: number, counted: number) => ({ gradient: null, loss, counted });
  const validation = new SharedValidation();
  validation.begin(0);
  validation.add("a", result(2, 10));
  validation.finish("a", result(100, 1000)); // it has told each batch: once is enough
  validation.add("b", null);
  validation.finish("b", result(3, 30));
  validation.add("c", null);
  validation.finish("c");
  validation.finish("d", result(7, 7)); // of no batch
  validation.add("e", null); // lost before its end
  const { loss, counted, owners, without, isBest } = validation.end(names)!;
  assertAlmostEquals(loss, (2 * 10 + 3 * 30) / 40, 1e-12);
  assertEquals(counted, 40);
  assertEquals(owners.map(({ name }) => name), ["attic", "barn"]);
  assertEquals(without, [{ name: "cellar", reason: "refused" }, { name: "eaves", reason: "away" }]);
  assertEquals(isBest, true);
  assertEquals(validation.end(names), null, "told once");
});
