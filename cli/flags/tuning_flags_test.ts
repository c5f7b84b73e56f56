import { assertEquals } from "@std/assert";
import { checkRunSettings, defaultRunSettings } from "@edgetuner/core";
import { withDefaults } from "./flags.ts";
import { TUNING_FLAGS, tuningSettings } from "./tuning_flags.ts";

Deno.test("commands and library begin with the same settings", () => {
  assertEquals(
    checkRunSettings(tuningSettings(withDefaults(TUNING_FLAGS, {}))),
    checkRunSettings(defaultRunSettings()),
  );
  assertEquals(
    checkRunSettings(tuningSettings(withDefaults(TUNING_FLAGS, { steps: 3 }))),
    checkRunSettings(defaultRunSettings(3)),
  );
});
