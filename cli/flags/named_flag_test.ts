import { assertEquals } from "@std/assert";
import { withFlag } from "./named_flag.ts";

Deno.test("an error that names a file says which flag named it", () => {
  const error = "Cannot load the model as models/a/config.json must be a readable JSON file: it is not there";
  const cases: readonly (readonly [readonly string[], string])[] = [
    [["--steps", "3", "--model", "models/a"], `${error} (--model models/a)`],
    [["--model=models/a", "--data", "models"], `${error} (--model models/a)`],
    [["--data", "b.txt", "--events"], error],
    // Neither numbers nor secrets.
    [["--steps", "3", "--token", "readable", "--batch", "1"], error],
  ];
  for (const [args, expected] of cases) assertEquals(withFlag(error, args), expected);
  const named = "Cannot listen on a.b as its port must be free; try --port 0";
  assertEquals(withFlag(named, ["--host", "a.b"]), named);
});
