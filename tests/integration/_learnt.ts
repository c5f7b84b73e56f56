/**
 * Adapters of tests: head modules that have learnt something, and parts of them.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { type Adapter, adapterOf, type HeadModules, type RunSettings } from "@edgetuner/core";
import { normal } from "../support/kernels.ts";
import { familyHeads, TinyFamily } from "../support/families.ts";
import { type TinyBase, tinyHeads } from "../support/tiny_model.ts";

/** What an adapter has learnt: B is not zero, so that the heads change what is generated. */
export async function learnt(engine: Engine, base: TinyBase, settings: RunSettings): Promise<Adapter> {
  using modules = base instanceof TinyFamily
    ? familyHeads(base, settings, [4])[0]!
    : tinyHeads(engine, settings);
  return await learntBy(modules, { fingerprint: "tiny", scale: 0.3 });
}

/** The same for other head modules. */
export async function learntBy(
  modules: HeadModules,
  { fingerprint, scale }: { readonly fingerprint: string; readonly scale: number },
): Promise<Adapter> {
  const weights = await modules.weights();
  modules.load(
    weights.map((heads, l) =>
      heads.map((targets, h) =>
        targets.map(({ a, b }, k) => ({ a, b: normal(b.length, l * 100 + h * 10 + k, scale) }))
      )
    ),
  );
  return await adapterOf(modules, fingerprint);
}

/** Some heads of an adapter, as a device saves them. */
export function partOf(adapter: Adapter, first: number, count: number): Adapter {
  const arrays = [...adapter.arrays].filter(([name]) => {
    const head = Number(/head(\d+)/.exec(name)![1]);
    return head >= first && head < first + count;
  });
  return { ...adapter, arrays: new Map(arrays) };
}
