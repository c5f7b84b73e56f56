import source from "./stage.wgsl" with { type: "text" };
import { defineKernel } from "./kernel.ts";

/** Copies buffer rows of any length to a storage texture. */
export const stageKernel = defineKernel({
  name: "stage",
  file: "engine/stage.wgsl",
  source,
  bindings: ["source", "target_texture"],
  parameters: ["width", "rows", "row"],
});
