/**
 * What PEFT made of exported adapters, and transformers of merged models (`tests/fixtures/check_peft.py`), belongs
 * to what is exported today.
 */

import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals } from "@std/assert";
import { familyTensors } from "../support/families.ts";
import { exportCase, PEFT_CASES } from "../support/peft_cases.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";

const engine = await Engine.create();

interface Result {
  readonly sha256: Readonly<Record<"adapter_config.json" | "adapter_model.safetensors", string>>;
  readonly largestLogit: number;
  readonly effect: number;
  readonly difference: number;
  readonly mergedSha256: string;
  readonly mergedDifference: number;
}

const RECORD: {
  readonly versions: Readonly<Record<string, string>>;
  readonly tolerance: number;
  readonly cases: Readonly<Record<string, Result>>;
} = JSON.parse(Deno.readTextFileSync(new URL("../fixtures/families/peft_check.json", import.meta.url)));
const THEIRS = familyTensors("peft_check.safetensors");

async function sha256(path: string): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(path))).toHex();
}

Deno.test("the check of exports by PEFT covers all families and modes, and held [slow]", () => {
  assertEquals(Object.keys(RECORD.cases).sort(), PEFT_CASES.map(({ name }) => name).sort());
  assertEquals(RECORD.tolerance, TOLERANCE.model.relative);
  assertEquals(RECORD.versions.peft, "0.21.2");
  for (const [name, one] of Object.entries(RECORD.cases)) {
    const { difference, mergedDifference, largestLogit, effect } = one;
    assert(difference <= RECORD.tolerance * largestLogit, `${name}: ${difference}`);
    assert(mergedDifference <= RECORD.tolerance * largestLogit, `${name}, merged: ${mergedDifference}`);
    assert(effect > 0.01 * largestLogit, `${name}: the adapter must matter`);
  }
});

for (const one of PEFT_CASES) {
  Deno.test(`export.ts writes what PEFT and transformers were given (${one.name}), and their logits are ours [slow]`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const { logits, base } = await exportCase(engine, one, folder);
      const { sha256: recorded, mergedSha256 } = RECORD.cases[one.name]!;
      for (const [file, hash] of Object.entries(recorded)) {
        assertEquals(
          await sha256(`${folder}/${one.name}/${file}`),
          hash,
          `run check_peft.py again for ${file}`,
        );
      }
      assertEquals(
        await sha256(`${folder}/${one.name}.merged/model.safetensors`),
        mergedSha256,
        "run check_peft.py again for the merged model",
      );
      const theirs = THEIRS.get(one.name)!.data;
      // A whole model in f32 here and there.
      assertClose(logits, theirs, TOLERANCE.model, "logits with the adapter");
      const change = base.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs[i]!)), 0);
      assertClose([change], [RECORD.cases[one.name]!.effect], TOLERANCE.model, "effect of the adapter");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
