/**
 * The paper's five steps, one program after the other. Each command is printed before it runs, so that any of
 * them can be run alone.
 *
 * @module
 */

import { type AnyStep, NEW_OUT_FLAG, outArgs, runStep } from "../../shared/five_steps.ts";
import { type Flag, flagArgs, type GivenFlags, readGiven, withDefaults } from "../../flags/flags.ts";
import { commandText } from "../../process/places.ts";
import { DECODE_STEP } from "./decode.ts";
import { FINETUNE_STEP } from "./finetune.ts";
import { GENERATE_STEP } from "./generate.ts";
import { FLAGS as PULL, outOf, pull } from "./pull.ts";
import { SCORE_STEP } from "./score.ts";
import { TRAIN_PRUNER_STEP } from "./train_pruner.ts";
import type { Call } from "../../process/invocation.ts";

const STEPS: readonly AnyStep[] = [
  TRAIN_PRUNER_STEP,
  FINETUNE_STEP,
  GENERATE_STEP,
  DECODE_STEP,
  SCORE_STEP,
];

/** All flags of all steps; a flag of several steps goes to each of them. */
const FLAGS: Record<string, Flag> & typeof PULL & { readonly out: typeof NEW_OUT_FLAG } = {
  ...Object.fromEntries(
    STEPS.toReversed().flatMap(({ flags }) => Object.entries(flags as Record<string, Flag>)),
  ),
  ...PULL,
  out: NEW_OUT_FLAG,
};

async function main(call: Call): Promise<number> {
  const given: GivenFlags<Record<string, Flag>> = readGiven(
    {
      name: "e2e/run.ts",
      about:
        "Runs the paper's five steps on E2E data, one after the other; docs/five_steps.md explains them. Takes\n" +
        "the flags of all steps; defaults of settings are those that pull.ts notes for the model.",
      examples: [
        "edgetuner e2e run --restaurant   # the tiny model on this repository's own task",
        "edgetuner e2e run --model openai-community/gpt2-medium",
      ],
    },
    FLAGS,
    call,
  );
  const of = (flags: Record<string, Flag>) =>
    Object.fromEntries(Object.entries(given).filter(([name]) => Object.hasOwn(flags, name)));
  const flags = withDefaults(PULL, of(PULL));
  const out = await outOf(flags, (given.out as string | undefined) ?? "");
  console.error(`# ${commandText("e2e/pull.ts", [...flagArgs(of(PULL)), ...outArgs(out)], call.form)}`);
  await pull(flags, out);
  for (const step of STEPS) {
    console.error(`\n# ${commandText(step.name, [...flagArgs(of(step.flags)), ...outArgs(out)], call.form)}`);
    const code = await runStep(step, of(step.flags), out, call.form);
    if (code !== 0) {
      console.error(`"${step.title}" ended with code ${code}; what the steps before it made is in ${out}`);
      return code;
    }
  }
  console.error(`\nScores: ${out}/scores.json, texts beside their references: ${out}/samples.html`);
  return 0;
}

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
