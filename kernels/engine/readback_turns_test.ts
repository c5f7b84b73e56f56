import { assert } from "@std/assert";
import { Engine } from "./engine.ts";
import { settled } from "../../tests/support/until.ts";

Deno.test("a loop that waits for nothing but results gives the event loop its turns", async () => {
  using engine = await Engine.create();
  using tensor = engine.upload(new Float32Array(4), 1, 4);
  let turns = 0;
  let running = true;
  const turn = () => {
    turns++;
    if (running) setTimeout(turn, 0);
  };
  setTimeout(turn, 0);
  for (let i = 0; i < 400; i++) await engine.read([tensor]);
  running = false;
  // Without them each readback is kept for ever, with what the runtime holds for it.
  assert(turns >= 5, `${turns} turns`);
  await settled();
});
