import { assertEquals, assertThrows } from "@std/assert";
import { assetPath } from "../process/places.ts";
import { readGiven, UsageError } from "./flags.ts";
import { MODEL_FLAG } from "./model_flags.ts";

Deno.test("--model with a name of the hub says the command that downloads it", () => {
  const read = (model: string) =>
    readGiven({ name: "x.ts", about: "", examples: [] }, { model: MODEL_FLAG }, {
      args: ["--model", model],
      form: "command",
    });
  assertThrows(
    () => read("openai-community/gpt2-medium"),
    UsageError,
    "edgetuner pull --model openai-community/gpt2-medium",
  );
  for (
    const path of [assetPath("tiny_gpt2"), "./no/where", "/no/where", "nowhere", "kernels/engine", "a/b.gguf"]
  ) {
    assertEquals(read(path), { model: path });
  }
});
