import source from "./stage.wgsl" with { type: "text" };
import { defineKernel } from "./kernel.ts";

/** Copies buffer rows of any length to a storage texture. */
export const stageKernel = defineKernel({
  name: "stage",
  source,
  bindings: ["read", "texture_write"],
  parameters: [["width", "u32"], ["rows", "u32"], ["row", "u32"]],
});
