/**
 * What to turn when memory runs out: flags with smaller values, and what each would save.
 *
 * @module
 */

import {
  BASE_WEIGHTS,
  baseWeightBytes,
  type BaseWeights,
  DEFAULT_LORA,
  DEFAULT_PROJECTIONS,
  gpt2Config,
  INPUT_MODE_NAMES,
  loadModelConfig,
  LORA_TARGETS,
  type LoraSettings,
  memoryModelOf,
  type ModelConfig,
  stepMemory,
} from "@edgetuner/core";

/** Values of the flags that memory depends on, as far as a command has them. */
export type MemoryFlags = Readonly<Record<string, unknown>>;

/** What a command holds in memory: whose part of a run, or a model that only answers. */
export type MemoryParty = "oneMachine" | "edgeServer" | "dataDevice" | "headDevice" | "answers";

/** Which part of the base model's weights each holds. */
const WEIGHTS = {
  oneMachine: "total",
  edgeServer: "layers",
  dataDevice: "ends",
  headDevice: null,
  answers: "total",
} as const satisfies Record<MemoryParty, "total" | "layers" | "ends" | null>;

/** What {@linkcode memoryAdvice} must know. */
export interface MemoryHeld {
  /** The flags of the command. */
  readonly flags: MemoryFlags;
  /** Whose part of a run it is. @default {"oneMachine"} */
  readonly party?: MemoryParty;
  /** Heads whose modules a device has in every layer. @default {all} */
  readonly heads?: number | undefined;
}

/** Bytes that a party needs. */
interface Need {
  readonly weights: number;
  readonly step: number;
}

/** True if an error says that the memory of the adapter or of the process did not suffice. */
export function isOutOfMemory(error: unknown): boolean {
  const { name, message } = error instanceof Error ? error : { name: "", message: String(error) };
  return /out of memory|not enough memory|OutOfMemory|allocation failed|invalid (typed )?array length/i.test(
    message,
  ) ||
    (name === "RangeError" && /must fit a buffer of \d+ bytes/.test(message));
}

/**
 * What is needed in all, and flags with smaller values, a line each, with what each saves; empty if the command has none of
 * them.
 */
export async function memoryAdvice(held: MemoryHeld): Promise<string[]> {
  const { flags, party = "oneMachine" } = held;
  const { batch, length, accumulate, "base-weights": format } = flags;
  const model = await modelOf(flags);
  const now = model === null ? null : needOf(model, held);
  const saves = (part: keyof Need, changed: MemoryFlags) => {
    const then = model === null ? null : needOf(model, { ...held, flags: { ...flags, ...changed } });
    const bytes = now === null || then === null ? 0 : now[part] - then[part];
    return bytes > 0 ? `: saves about ${megabytes(bytes)}` : "";
  };
  const lines: string[] = [];
  if (party === "edgeServer" || party === "headDevice") {
    lines.push("a smaller --batch or --length at the data device");
  }
  if (typeof batch === "number" && batch > 1 && typeof length === "number") {
    const less = Math.ceil(batch / 2);
    const saved = saves("step", { batch: less });
    lines.push(
      typeof accumulate === "number" && batch % 2 === 0
        ? `--batch ${less} --accumulate ${
          2 * accumulate
        } (now ${batch} and ${accumulate})${saved}; the steps stay the same`
        : `--batch ${less} (now ${batch})${saved}`,
    );
  }
  if (typeof length === "number" && length > 2 && flags.batch !== undefined) {
    const less = Math.ceil(length / 2);
    lines.push(
      `--length ${less} (now ${length})${saves("step", { length: less })}; longer sequences are cut`,
    );
  }
  if (WEIGHTS[party] !== null && isFormat(format)) {
    for (const smaller of BASE_WEIGHTS.slice(BASE_WEIGHTS.indexOf(format) + 1)) {
      lines.push(`--base-weights ${smaller} (now ${format})${saves("weights", { "base-weights": smaller })}`);
    }
  }
  return lines.length === 0
    ? []
    : [`Out of memory. ${needText(now)}Any of these needs less:`, ...lines.map((line) => `  ${line}`)];
}

/** What the party needs in all, in words. */
function needText(need: Need | null): string {
  if (need === null || need.weights + need.step === 0) return "";
  const parts = [
    ...(need.weights > 0 ? [`${megabytes(need.weights)} for the frozen weights`] : []),
    ...(need.step > 0 ? [`${megabytes(need.step)} for a step`] : []),
  ];
  return `It takes about ${parts.join(" and ")}. `;
}

/** Bytes that a party needs of adapter memory with these flags. */
function needOf(config: ModelConfig, { flags, party = "oneMachine", heads }: MemoryHeld): Need {
  const { batch, length, "base-weights": format = "f32" } = flags;
  const part = WEIGHTS[party];
  const weights = part === null || !isFormat(format) ? 0 : baseWeightBytes(config, format)[part];
  if (typeof batch !== "number" || typeof length !== "number" || party === "answers") {
    return { weights, step: 0 };
  }
  const model = memoryModelOf(config);
  const all = stepMemory({ model, batch, length, lora: loraOf(flags), ...(heads ? { heads } : {}) });
  const step = party === "dataDevice"
    ? all.dataDevice + (heads === 0 ? 0 : all.headModules)
    : party === "headDevice"
    ? all.headModules
    : all[party];
  return { weights, step };
}

/** The LoRA settings that the flags ask for, where they do. */
function loraOf({ mode, targets, rank, dropout, "shared-a": shared }: MemoryFlags): LoraSettings {
  const named = String(targets ?? "").split(",").map((target) => target.trim());
  const known = LORA_TARGETS.filter((target) => named.includes(target));
  return {
    ...DEFAULT_LORA,
    mode: INPUT_MODE_NAMES.find((name) => name === mode) ?? DEFAULT_LORA.mode,
    targets: known.length > 0 ? known : DEFAULT_LORA.targets,
    rank: typeof rank === "number" ? rank : DEFAULT_LORA.rank,
    dropout: typeof dropout === "number" ? dropout : DEFAULT_LORA.dropout,
    projections: { ...DEFAULT_PROJECTIONS, shared: shared === true },
  };
}

/** The model that the flags name or describe; `null` if it cannot be read. */
async function modelOf(flags: MemoryFlags): Promise<ModelConfig | null> {
  try {
    const { model, layers, heads, hidden, vocabulary, length } = flags;
    if (typeof model === "string" && model !== "") return await loadModelConfig(model);
    return gpt2Config({
      ...{ n_layer: layers, n_head: heads, n_embd: hidden, vocab_size: vocabulary, n_positions: length },
    });
  } catch {
    return null;
  }
}

function isFormat(format: unknown): format is BaseWeights {
  return BASE_WEIGHTS.some((known) => known === format);
}

/** An error, and what a person can turn so that it does not come again. */
export class AdvisedError extends Error {
  /** What went wrong. */
  readonly error: unknown;
  /** What to turn, a line each. */
  readonly advice: readonly string[];

  /**
   * @param error What went wrong.
   * @param advice What to turn, a line each.
   */
  constructor(error: unknown, advice: readonly string[]) {
    super(error instanceof Error ? error.message : String(error), { cause: error });
    this.error = error;
    this.advice = advice;
  }
}

/** What to print below an error: the flags to turn if it means that memory ran out, else nothing. */
export async function adviceFor(error: unknown, held: MemoryHeld): Promise<string[]> {
  return isOutOfMemory(error) ? await memoryAdvice(held) : [];
}

function megabytes(count: number): string {
  const mb = count / 1e6;
  return `${mb < 10 ? mb.toPrecision(2) : Math.round(mb)} MB`;
}
