/**
 * What the model says before and after: texts side by side, and how many slots of the prompts they realise.
 *
 * @module
 */

import { chatTemplateOf, type DataCounts, loadAdapter, type ReadExamples } from "@edgetuner/core";
import { baseWeightsOf } from "../../flags/weights_flag.ts";
import { cutText, encodePrompts, endTokens, havePrompts, textOf } from "../prompts.ts";
import { countSlots, type SlotCount } from "../slots.ts";
import { TextModel } from "../texts.ts";
import { ANSWER_TOKENS, type DemoFlags } from "./flags.ts";

/** A generation before and after. */
interface Sample {
  readonly prompt: string;
  readonly reference: string;
  readonly before: string;
  readonly after: string;
}

/** Generations, and how many slots of all prompts they realise. */
export interface Comparison {
  readonly samples: readonly Sample[];
  readonly slots: { readonly before: SlotCount; readonly after: SlotCount };
  /** What became of the prompts' lines. */
  readonly counts: DataCounts;
}

/** Continues the first prompts of a file, before and after; shows the longest, which are hardest. */
export async function compare(
  adapter: string,
  flags: DemoFlags,
  read: ReadExamples,
): Promise<Comparison | null> {
  if (!havePrompts(read.examples)) {
    console.log(`\nNo texts before and after: ${flags.test} holds texts without prompts`);
    return null;
  }
  const trained = await loadAdapter(adapter);
  using model = await TextModel.open(flags, trained, flags.webgpu, baseWeightsOf(flags));
  const { tokenizer, room } = model;
  const choice = { count: flags.prompts, first: 0, distinct: false };
  const { prompts: all, counts } = encodePrompts(read, tokenizer, choice, room);
  const cut = cutText(flags.test, counts, room);
  if (cut !== null) console.error(cut);
  const ends = endTokens(tokenizer, await chatTemplateOf(flags.model, flags.tokenizer));
  const generate = async (base: boolean) => {
    const most = flags.persona ? ANSWER_TOKENS : 40;
    const tokens = await model.generateTokens(all.map(({ tokens }) => tokens), most, { base });
    return tokens.map((ids) => textOf(tokenizer, ids, ends));
  };
  const before = await generate(true);
  const after = await generate(false);
  const prompts = all.map(({ text }) => text);
  const samples = all.map(({ text, asked, reference }, i) => ({
    ...{ prompt: asked ?? text, reference },
    before: before[i]!,
    after: after[i]!,
  }));
  const longest = samples.toSorted((a, b) => b.prompt.length - a.prompt.length).slice(0, 3);
  for (const { prompt, reference, before, after } of longest) {
    console.log(`\n${prompt}\n  before     ${before}\n  after      ${after}`);
    if (!flags.persona) console.log(`  reference  ${reference}`);
  }
  const slots = { before: countSlots(prompts, before), after: countSlots(prompts, after) };
  const slotCount = slots.before.all;
  if (slotCount > 0) {
    const share = ({ right }: SlotCount) => (100 * right / slotCount).toFixed(0);
    console.log(
      `\nSlots right: ${share(slots.before)} % before, ${
        share(slots.after)
      } % after (${slotCount} slots of ${prompts.length} test prompts)`,
    );
  }
  return { samples, slots, counts };
}
