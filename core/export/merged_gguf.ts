/**
 * Models with an adapter merged in as one GGUF file, for llama.cpp and Ollama.
 *
 * @module
 */

import { finitePieces } from "../files/finite_values.ts";
import type { GgmlWritten } from "../files/ggml_encode.ts";
import { ggmlBlock } from "../files/ggml_types.ts";
import type { GgufFieldsTyped } from "../files/gguf.ts";
import { type GgufSource, saveGguf, typedFields } from "../files/gguf_writer.ts";
import { modelShape } from "../model/load.ts";
import { familyName } from "../model/families.ts";
import { openGguf, weightsIn } from "../loading/gguf_model.ts";
import { mergedWeights } from "../lora/peft_merge.ts";
import type { PeftAdapter } from "../lora/peft_modules.ts";

/** Numbers of the types in `general.file_type`. */
const FILE_TYPES: Readonly<Record<GgmlWritten, number>> = { F32: 0, F16: 1, Q8_0: 7 };
/** Version of the types' blocks. */
const BLOCKS = 2;
/** Fields that are about the file itself, not about the model. */
const OWN = /^(split\.|general\.(file_type|quantization_version|alignment)$)/;
/** Matrices that llama.cpp keeps as F32: they are added, not multiplied. */
const ADDED = new Set(["position_embd.weight"]);
/** Values that are read at a time. */
const PIECE = 2 ** 18;

/** The type of a tensor in a file of a type: norms and biases stay F32, as do rows that are no whole blocks F16. */
function typeOf(name: string, shape: readonly number[], wanted: GgmlWritten): GgmlWritten {
  if (shape.length < 2 || ADDED.has(name)) return "F32";
  return shape.at(-1)! % ggmlBlock(wanted).elements === 0 ? wanted : "F16";
}

/** What to write. */
export interface MergedGgufOptions {
  /** Path of the base model's GGUF file. */
  readonly model: string;
  /** The adapter. */
  readonly peft: PeftAdapter;
  /** Type of the matrices. */
  readonly type: GgmlWritten;
}

/**
 * Writes a GGUF file of a GGUF base with an adapter added to its weights. All fields are the base's, its tokenizer
 * and chat template too. Matrices get the type that is asked for; what the adapter leaves alone is converted as the
 * file has it. Memory holds one weight at a time.
 *
 * @param path Where to.
 * @throws {CheckpointError} If the adapter does not fit the model, a value is not finite, or the type cannot hold it.
 * @throws {SaveError} If the file cannot be written, on a full disk for example.
 */
export async function saveMergedGguf(
  path: string,
  { model, peft, type }: MergedGgufOptions,
): Promise<void> {
  const opened = await openGguf(model);
  const { file, reading: { config, names, change } } = opened;
  const adapter = { peft, family: familyName(config), shape: modelShape(config) };
  const { merged, changed } = mergedWeights(weightsIn(opened, model), adapter);
  const ours = new Map([...names].map(([ours, theirs]) => [theirs, ours]));
  const tensors = new Map<string, GgufSource>();
  for (const [theirs, { shape }] of file.tensors) {
    const name = ours.get(theirs);
    const isChanged = name !== undefined && changed.has(name);
    tensors.set(theirs, {
      type: typeOf(theirs, shape, type),
      shape,
      *pieces() {
        if (isChanged) {
          const { data, shape } = merged.get(name)!;
          yield change(name)?.back(data, shape) ?? Float32Array.from(data);
          return;
        }
        const whole = { shape, pieces: () => file.pieces(theirs, PIECE) };
        yield* finitePieces(theirs, whole, 1, "merge the adapter");
      },
    });
  }
  const kept = Object.entries(file.fields).filter(([name]) => !OWN.test(name));
  await saveGguf(path, { ...Object.fromEntries(kept), ...await ownFields(type) }, tensors);
}

/** Fields about the file itself. */
async function ownFields(type: GgmlWritten): Promise<GgufFieldsTyped> {
  return await typedFields({
    "general.file_type": { type: "u32", value: FILE_TYPES[type] },
    "general.quantization_version": { type: "u32", value: BLOCKS },
  });
}
