/**
 * A program that gives the event loop no turn: `listens` has something to save at Ctrl-C, but never gets to it.
 */

import { runProgram } from "../../examples/_support/flags.ts";
import { Interrupts } from "../../examples/_support/interrupts.ts";

if (import.meta.main) {
  await runProgram(() => {
    if (Deno.args[0] === "listens") new Interrupts();
    console.log("busy");
    for (;;);
  });
}
