/**
 * Models with an adapter merged in as one GGUF file, for llama.cpp and Ollama.
 *
 * @module
 */

import { finitePieces } from "../files/finite_values.ts";
import { ModelFileError } from "../contracts/errors.ts";
import type { GgmlWritten } from "../files/ggml_encode.ts";
import { ggmlBlock } from "../files/ggml_types.ts";
import type { GgufFieldsTyped } from "../files/gguf.ts";
import { type GgufField, type GgufSource, saveGguf, typedFields } from "../files/gguf_writer.ts";
import { streamed } from "../files/streaming.ts";
import { modelShape } from "../model/load.ts";
import { familyName, familyOf } from "../model/families.ts";
import { ggufName } from "../model/families/gguf.ts";
import { isExtra } from "../loading/fingerprint.ts";
import { openGguf, weightsIn } from "../loading/gguf_model.ts";
import { loadModelFolder } from "../loading/model_folder.ts";
import { isGguf } from "../loading/model_path.ts";
import { ggufTokenizerFields } from "../loading/tokenizer_gguf_fields.ts";
import { mergedWeights, mergePeft } from "../lora/peft_merge.ts";
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
  /** Path of the base model: a GGUF file, or a folder. */
  readonly model: string;
  /** Of a folder: another folder or `tokenizer.json` to take the tokenizer from. @default {""} */
  readonly tokenizer?: string;
  /** The adapter. */
  readonly peft: PeftAdapter;
  /** Type of the matrices. */
  readonly type: GgmlWritten;
}

/** What a file is made of. */
interface Content {
  readonly fields: GgufFieldsTyped;
  readonly tensors: ReadonlyMap<string, GgufSource>;
}

/**
 * Writes a GGUF file of a base with an adapter added to its weights. Of a GGUF base all fields are kept, its
 * tokenizer and chat template too, and what the adapter leaves alone is converted as the file has it. Of a folder the
 * fields are made from its files. Matrices get the type that is asked for. Memory holds one weight at a time.
 *
 * @param path Where to.
 * @throws {ModelFileError} If the adapter does not fit the model, a value is not finite, or the type cannot hold it;
 * of a folder also if llama.cpp would compute something else, or a GGUF file cannot say what its tokenizer is.
 * @throws {SaveError} If the file cannot be written, on a full disk for example.
 */
export async function saveMergedGguf(path: string, options: MergedGgufOptions): Promise<void> {
  const { fields, tensors } = isGguf(options.model) ? await ofGguf(options) : await ofFolder(options);
  await saveGguf(path, { ...fields, ...await ownFields(options.type) }, tensors);
}

async function ofGguf({ model, peft, type }: MergedGgufOptions): Promise<Content> {
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
  return { fields: Object.fromEntries(kept), tensors };
}

async function ofFolder({ model, peft, type, tokenizer = "" }: MergedGgufOptions): Promise<Content> {
  const { config, weights } = await loadModelFolder(model);
  const family = familyOf(config);
  if (family.gguf === null) {
    throw new ModelFileError(
      `Cannot write a GGUF file as the family must have an architecture of its own in llama.cpp: ${family.title} has none`,
    );
  }
  const { architecture, names, header } = family.gguf;
  const change = family.gguf.change(config);
  const said = header(config);
  const merged = mergePeft(weights, peft, familyName(config), modelShape(config));
  const tensors = new Map<string, GgufSource>();
  for (const [name, { data, shape }] of said.tensors ?? []) {
    tensors.set(name, { type: "F32", shape, pieces: () => [Float32Array.from(data)] });
  }
  for (const name of merged.keys()) {
    if (isExtra(config, name)) continue;
    // Some files leave out the name of the whole model.
    const full = family.prefixes.map((prefix) => `${prefix}${name}`);
    const ours = [name, ...full].find((known) => ggufName(names, known) !== undefined);
    const theirs = ours === undefined ? undefined : ggufName(names, ours);
    if (theirs === undefined) {
      throw new ModelFileError(
        `Cannot write a GGUF file as its weights must be those of a ${family.title}: current value is "${name}"`,
      );
    }
    const array = streamed(merged, name)!;
    const other = change(ours!);
    const shape = other?.shape(array.shape) ?? array.shape;
    tensors.set(theirs, {
      type: typeOf(theirs, shape, type),
      shape,
      *pieces() {
        if (other !== null) yield other.back(merged.get(name)!.data, array.shape);
        else yield* array.pieces(array.shape.at(-1) ?? 1) as Iterable<Float32Array<ArrayBuffer>>;
      },
    });
  }
  const title = model.replace(/\/+$/, "").replace(/^.*\//, "") || family.title;
  const fields: Record<string, GgufField> = {
    "general.architecture": { type: "string", value: architecture },
    "general.type": { type: "string", value: "model" },
    "general.name": { type: "string", value: title },
  };
  for (const [name, field] of Object.entries(said.fields)) fields[`${architecture}.${name}`] = field;
  const words = await ggufTokenizerFields(tokenizer === "" ? model : tokenizer, config.vocab_size);
  return { fields: await typedFields({ ...fields, ...words }), tensors };
}

/** Fields about the file itself. */
async function ownFields(type: GgmlWritten): Promise<GgufFieldsTyped> {
  return await typedFields({
    "general.file_type": { type: "u32", value: FILE_TYPES[type] },
    "general.quantization_version": { type: "u32", value: BLOCKS },
  });
}
