/**
 * Writes small GGUF files for tests: version 3, tensors as F32.
 *
 * @module
 */

import type { Gpt2Config, NamedArray } from "@edgetuner/core";

const U32 = 4;
const F32 = 6;
const I32 = 5;
const BOOL = 7;
const STRING = 8;
const ARRAY = 9;
const ALIGNMENT = 32;

/** Bytes put together. */
class Writer {
  readonly #parts: Uint8Array<ArrayBuffer>[] = [];
  length = 0;

  put(...bytes: readonly Uint8Array<ArrayBuffer>[]): void {
    for (const part of bytes) this.length += part.length;
    this.#parts.push(...bytes);
  }

  u32(value: number): void {
    this.put(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: number): void {
    this.put(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.put(bytes);
  }

  align(): void {
    this.put(new Uint8Array((ALIGNMENT - this.length % ALIGNMENT) % ALIGNMENT));
  }

  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return ReadableStream.from(this.#parts);
  }
}

/** A field of a file's metadata. */
export type GgufValue = string | number | boolean | readonly string[] | readonly number[];

/** Writes a list: of strings, of i32, or of f32 where a number is no integer. */
function putList(writer: Writer, list: readonly string[] | readonly number[]): void {
  const type = typeof list[0] === "string" ? STRING : list.every(Number.isInteger) ? I32 : F32;
  writer.u32(ARRAY);
  writer.u32(type);
  writer.u64(list.length);
  if (type === STRING) { for (const text of list) writer.string(String(text)); }
  else {
    const numbers = list.map(Number);
    writer.put(
      new Uint8Array(type === I32 ? Int32Array.from(numbers).buffer : Float32Array.from(numbers).buffer),
    );
  }
}

/**
 * Writes a file.
 *
 * @param path Where to.
 * @param metadata Fields: integers become u32, other numbers f32; in lists i32 and f32.
 * @param tensors Shapes rows first, as everywhere here.
 */
export async function writeGguf(
  path: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: ReadonlyMap<string, NamedArray>,
): Promise<void> {
  const writer = new Writer();
  writer.put(new TextEncoder().encode("GGUF"));
  writer.u32(3);
  writer.u64(tensors.size);
  writer.u64(Object.keys(metadata).length);
  for (const [name, value] of Object.entries(metadata)) {
    writer.string(name);
    if (typeof value === "string") {
      writer.u32(STRING);
      writer.string(value);
    } else if (typeof value === "boolean") {
      writer.u32(BOOL);
      writer.put(Uint8Array.of(value ? 1 : 0));
    } else if (typeof value === "object") {
      putList(writer, value);
    } else if (Number.isInteger(value)) {
      writer.u32(U32);
      writer.u32(value);
    } else {
      writer.u32(F32);
      writer.put(new Uint8Array(Float32Array.of(value).buffer));
    }
  }
  let offset = 0;
  for (const [name, { shape, data }] of tensors) {
    writer.string(name);
    writer.u32(shape.length);
    for (const size of shape.toReversed()) writer.u64(size);
    writer.u32(0); // F32
    writer.u64(offset);
    offset += Math.ceil(data.byteLength / ALIGNMENT) * ALIGNMENT;
  }
  for (const { data } of tensors.values()) {
    writer.align();
    writer.put(new Uint8Array(data.slice().buffer));
  }
  writer.align();
  await Deno.writeFile(path, writer.stream());
}

const GGUF_NAMES: Readonly<Record<string, string>> = {
  "wte": "token_embd",
  "wpe": "position_embd",
  "ln_f": "output_norm",
  "ln_1": "attn_norm",
  "ln_2": "ffn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
};

/** Writes a GPT-2 as llama.cpp's converter does: other names, and weights of products [out, in]. */
export async function writeGpt2Gguf(
  path: string,
  config: Gpt2Config,
  weights: ReadonlyMap<string, NamedArray>,
): Promise<void> {
  const tensors = new Map<string, NamedArray>();
  for (const [name, { shape, data }] of weights) {
    const [, layer, part, kind] = /^transformer\.(?:h\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name)!;
    const turned = layer !== undefined && shape.length === 2;
    const [rows, columns] = [shape[0]!, shape[1] ?? 1];
    tensors.set(`${layer === undefined ? "" : `blk.${layer}.`}${GGUF_NAMES[part!]}.${kind}`, {
      shape: turned ? [columns, rows] : shape,
      data: turned ? data.map((_, i) => data[i % rows * columns + Math.floor(i / rows)]!) : data,
    });
  }
  await writeGguf(
    path,
    {
      "general.architecture": "gpt2",
      "gpt2.block_count": config.n_layer,
      "gpt2.context_length": config.n_positions,
      "gpt2.embedding_length": config.n_embd,
      "gpt2.attention.head_count": config.n_head,
      "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon,
    },
    tensors,
  );
}

/** What llama.cpp's converter calls the tensors of the decoders in the fixtures, by the gguf package. */
export const DECODER_GGUF_NAMES: Readonly<
  Record<string, { readonly architecture: string; readonly names: Readonly<Record<string, string>> }>
> = JSON.parse(Deno.readTextFileSync(new URL("../fixtures/gguf/names.json", import.meta.url)));

/** Rows of heads from (half, pair) to (pair, half), as llama.cpp turns neighbouring columns. */
function permuted({ shape, data }: NamedArray, heads: number): NamedArray {
  const [rows, columns] = [shape[0]!, shape[1] ?? 1];
  const size = rows / heads;
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    const within = row % size;
    const to = row - within + within % (size / 2) * 2 + Math.floor(within / (size / 2));
    out.set(data.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return { shape, data: out };
}

/**
 * Writes a decoder of the fixtures as llama.cpp's converter does.
 *
 * @param path Where to.
 * @param model Name in the fixtures.
 * @param weights Its weights.
 * @param config Its `config.json`.
 * @param more Further fields, after the architecture's name; a value in place of another.
 */
export async function writeDecoderGguf(
  path: string,
  model: string,
  { weights, config }: {
    readonly weights: ReadonlyMap<string, NamedArray>;
    readonly config: Readonly<Record<string, unknown>>;
  },
  more: Readonly<Record<string, string | number>> = {},
): Promise<void> {
  const { architecture, names } = DECODER_GGUF_NAMES[model]!;
  const [heads, kvHeads] = [Number(config.num_attention_heads), Number(config.num_key_value_heads)];
  const tensors = new Map([...weights].map(([name, array]) => {
    const which = ["llama", "smollm3"].includes(architecture)
      ? /self_attn\.([qk])_proj/.exec(name)?.[1]
      : undefined;
    if (which !== undefined) return [names[name]!, permuted(array, which === "q" ? heads : kvHeads)];
    // The gains of Gemma's norms are 1 and what its own files have.
    const plusOne = architecture === "gemma3" && name.endsWith("norm.weight");
    return [names[name] ?? name, plusOne ? { ...array, data: array.data.map((gain) => gain + 1) } : array];
  }));
  const fields: Record<string, string | number> = {
    "block_count": Number(config.num_hidden_layers),
    "context_length": Number(config.max_position_embeddings),
    "embedding_length": Number(config.hidden_size),
    "feed_forward_length": Number(config.intermediate_size),
    "attention.head_count": heads,
    "attention.head_count_kv": kvHeads,
    "attention.layer_norm_rms_epsilon": Number(config.rms_norm_eps),
    ...more,
  };
  const metadata = Object.entries(fields).map(([name, value]) => [`${architecture}.${name}`, value] as const);
  await writeGguf(path, { "general.architecture": architecture, ...Object.fromEntries(metadata) }, tensors);
}
