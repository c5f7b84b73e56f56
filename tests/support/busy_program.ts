/**
 * A program that gives the event loop no turn: `listens` has something to save at Ctrl-C, but never gets to it.
 */

import { runProgram } from "../../cli/flags/flags.ts";
import { Interrupts } from "../../cli/process/interrupts.ts";

if (import.meta.main) {
  await runProgram(() => {
    if (Deno.args[0] === "listens") new Interrupts();
    console.log("busy");
    for (;;);
  });
}
