/**
 * LLaMA and GPT-2 models in GGUF files, with the names and the order of rows that Hugging Face's files have.
 *
 * D head size.
 *
 * @module
 */

import { CheckpointError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { type Gpt2Config, gpt2Config } from "../model/families/gpt2.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { type LlamaConfig, llamaConfig } from "../model/families/llama.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { GgufFile } from "../files/gguf.ts";
import { LazyArrays } from "../files/lazy_arrays.ts";
import type { ModelFolder } from "./model_folder.ts";

/** A model in a GGUF file: its weights are read, and dequantised, when they are asked for. */
export interface GgufModel extends ModelFolder {
  /** Shape of the model. */
  readonly config: LlamaConfig | Gpt2Config;
}

/** Names of a family's tensors: theirs, and ours. */
interface Names {
  /** Those of layers, which are `blk.N.` and the name. */
  readonly layer: Readonly<Record<string, string>>;
  /** What our names of them begin with, before the number. */
  readonly prefix: string;
  /** The others. */
  readonly ends: Readonly<Record<string, string>>;
}

const LLAMA: Names = {
  layer: {
    attn_norm: "input_layernorm",
    ffn_norm: "post_attention_layernorm",
    attn_q: "self_attn.q_proj",
    attn_k: "self_attn.k_proj",
    attn_v: "self_attn.v_proj",
    attn_output: "self_attn.o_proj",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
  },
  prefix: "model.layers.",
  ends: {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
  },
};
const GPT2: Names = {
  layer: {
    attn_norm: "ln_1",
    ffn_norm: "ln_2",
    attn_qkv: "attn.c_attn",
    attn_output: "attn.c_proj",
    ffn_up: "mlp.c_fc",
    ffn_down: "mlp.c_proj",
  },
  prefix: "transformer.h.",
  ends: {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": "lm_head.weight",
  },
};

/** What a family makes of a file. */
interface Read {
  readonly config: LlamaConfig | Gpt2Config;
  /** Their names by ours. */
  readonly names: ReadonlyMap<string, string>;
  /** How our tensor comes from theirs, if it is not the same. */
  readonly change: (ours: string) => Change | null;
}

/** A tensor that lies otherwise in GGUF. */
interface Change {
  /** Ours, of theirs. */
  readonly shape: (theirs: readonly number[]) => readonly number[];
  /** Their values, this many rows at a time, so that ... */
  readonly rows: (theirs: readonly number[]) => number;
  /** ... each piece has its place in ours: piece number `index` of theirs is written into `into`. */
  readonly place: (piece: Float32Array, index: number, theirs: readonly number[], into: Float32Array) => void;
  /** True if ours are the pieces one after the other, each turned in itself. */
  readonly inOrder: boolean;
}

/** Fields of a file, with errors that name them. */
class Fields {
  constructor(readonly file: GgufFile, readonly path: string, readonly architecture: string) {}

  refuse(rule: string, value: unknown): never {
    throw new CheckpointError(
      `Cannot load ${this.path} as ${rule}: current value is ${showValue(value)}`,
    );
  }

  get(name: string): unknown {
    return this.file.metadata[`${this.architecture}.${name}`];
  }

  /** A positive integer. */
  count(name: string, other?: number): number {
    const value = Number(this.get(name) ?? other);
    if (!Number.isInteger(value) || value < 1) {
      this.refuse(`${this.architecture}.${name} must be a positive integer`, this.get(name));
    }
    return value;
  }

  /** Their names by ours; every tensor must have one. */
  names({ layer, prefix, ends }: Names, model: string): ReadonlyMap<string, string> {
    const names = new Map<string, string>();
    for (const theirs of this.file.tensors.keys()) {
      const [, number, part, kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(theirs) ?? [];
      const ours = Object.hasOwn(ends, theirs)
        ? ends[theirs]!
        : part !== undefined && Object.hasOwn(layer, part)
        ? `${prefix}${number}.${layer[part]}.${kind}`
        : this.refuse(`its tensors must be those of a ${model}`, theirs);
      names.set(ours, theirs);
    }
    return names;
  }
}

const FAMILIES: Readonly<Record<string, (fields: Fields) => Read>> = { llama: readLlama, gpt2: readGpt2 };

/**
 * Reads a GGUF file of architecture `llama` or `gpt2`; for `loadLayers` and `loadEnds`. Memory holds one weight
 * at a time. The fingerprint is that of a model folder with the same configuration and values.
 *
 * @throws {CheckpointError} If the file is damaged, of another architecture, or asks for what is not done here.
 */
export async function loadGgufModel(path: string): Promise<GgufModel> {
  const file = await GgufFile.open(path);
  const architecture = String(file.metadata["general.architecture"]);
  const fields = new Fields(file, path, architecture);
  if (!Object.hasOwn(FAMILIES, architecture)) {
    fields.refuse(
      `general.architecture must be ${Object.keys(FAMILIES).map((name) => `"${name}"`).join(" or ")} ` +
        "(OPT has no architecture in llama.cpp: give its folder with safetensors)",
      file.metadata["general.architecture"],
    );
  }
  const { config, names, change } = FAMILIES[architecture]!(fields);
  const weights = new LazyArrays(names.keys(), {
    make: (name) => readWhole(file, names.get(name)!, change(name)),
    shape: (name) => {
      const { shape } = file.tensors.get(names.get(name)!)!;
      return change(name)?.shape(shape) ?? shape;
    },
    pieces: (name, unit) => readPieces(file, names.get(name)!, change(name), unit),
    from: (name) => `"${names.get(name)}" of ${path}`,
  });
  return { config, weights, fingerprint: await fingerprintOf(config, weights) };
}

function readWhole(
  file: GgufFile,
  theirs: string,
  change: Change | null,
): NamedArray & { readonly data: Float32Array<ArrayBuffer> } {
  if (change === null) return file.read(theirs);
  const { shape } = file.tensors.get(theirs)!;
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  let index = 0;
  let at = 0;
  for (const piece of file.pieces(theirs, change.rows(shape) * (shape[1] ?? 1))) {
    change.place(piece, index++, shape, change.inOrder ? data.subarray(at, at + piece.length) : data);
    at += piece.length;
  }
  return { shape: change.shape(shape), data };
}

/** Values that are read at a time. */
const PIECE = 2 ** 18;

function* readPieces(
  file: GgufFile,
  theirs: string,
  change: Change | null,
  unit: number,
): Generator<Float32Array, void> {
  const { shape } = file.tensors.get(theirs)!;
  if (change === null) {
    return yield* file.pieces(theirs, Math.max(1, Math.floor(PIECE / unit)) * unit);
  }
  const step = change.rows(shape) * (shape[1] ?? 1);
  if (!change.inOrder || step % unit !== 0) {
    const { data } = readWhole(file, theirs, change);
    yield data;
    data.buffer.transfer(0); // now, not when the garbage collector gets to it
    return;
  }
  const turned = new Float32Array(step);
  let index = 0;
  for (const piece of file.pieces(theirs, step)) {
    change.place(piece, index++, shape, turned);
    yield turned; // all pieces are of the same length
  }
}

/**
 * Rows of a head from (pair, half), as llama.cpp rotates neighbouring columns, back to (half, pair): row
 * 2 i + j of a head was row j D / 2 + i.
 */
function unpermuted(heads: number): Change {
  return {
    shape: (theirs) => theirs,
    rows: ([rows]) => {
      if (rows! % (2 * heads) === 0) return rows! / heads;
      throw new CheckpointError(
        `Cannot read Q and K as their rows must be those of ${heads} heads of an even size: current value is ${rows}`,
      );
    },
    place: (piece, _, [rows, columns = 1], into) => {
      const size = rows! / heads;
      for (let r = 0; r < size; r++) {
        const to = (r % 2) * (size / 2) + (r >> 1);
        into.set(piece.subarray(r * columns, (r + 1) * columns), to * columns);
      }
    },
    inOrder: true,
  };
}

/** Rows become columns, as GPT-2's own files store a product's weights [in, out]. */
const TRANSPOSED: Change = {
  shape: (theirs) => theirs.toReversed(),
  rows: () => 16,
  place: (piece, index, [rows, columns], into) => {
    const first = 16 * index;
    const count = piece.length / columns!;
    // The rows of a piece lie side by side in ours.
    for (let c = 0; c < columns!; c++) {
      for (let r = 0; r < count; r++) into[c * rows! + first + r] = piece[r * columns! + c]!;
    }
  },
  inOrder: false,
};

function readLlama(fields: Fields): Read {
  const { file } = fields;
  const scaling = fields.get("rope.scaling.type");
  if (scaling !== undefined && scaling !== "none" && scaling !== "linear") {
    fields.refuse('llama.rope.scaling.type must be "none" or "linear"', scaling);
  }
  if (file.tensors.has("rope_freqs.weight")) {
    fields.refuse("positions must not be stretched by a tensor", "rope_freqs.weight");
  }
  const experts = fields.get("expert_count");
  if (experts !== undefined && experts !== 0) fields.refuse("llama.expert_count must be 0", experts);
  const hidden = fields.count("embedding_length");
  const heads = fields.count("attention.head_count");
  const kvHeads = fields.count("attention.head_count_kv", heads);
  const turned = fields.count("rope.dimension_count", hidden / heads);
  if (turned !== hidden / heads) {
    fields.refuse(`llama.rope.dimension_count must be ${hidden / heads}`, turned);
  }
  for (const which of ["attention.key_length", "attention.value_length"]) {
    const size = fields.count(which, hidden / heads);
    if (size !== hidden / heads) fields.refuse(`llama.${which} must be ${hidden / heads}`, size);
  }
  const names = fields.names(LLAMA, "LLaMA");
  const config = llamaConfig({
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: hidden,
    num_hidden_layers: fields.count("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    intermediate_size: fields.count("feed_forward_length"),
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    max_position_embeddings: fields.count("context_length"),
    rms_norm_eps: rounded(fields.get("attention.layer_norm_rms_epsilon")),
    rope_theta: rounded(fields.get("rope.freq_base") ?? 10_000),
    ...(scaling === "linear"
      ? { rope_scaling: { rope_type: "linear", factor: rounded(fields.get("rope.scaling.factor")) } }
      : {}),
    attention_bias: names.has("model.layers.0.self_attn.q_proj.bias"),
    tie_word_embeddings: !names.has("lm_head.weight"),
  });
  const [q, k] = [unpermuted(heads), unpermuted(kvHeads)];
  return {
    config,
    names,
    change: (ours) => {
      const which = /self_attn\.([qk])_proj/.exec(ours)?.[1];
      return which === undefined ? null : which === "q" ? q : k;
    },
  };
}

function readGpt2(fields: Fields): Read {
  const { file } = fields;
  const hidden = fields.count("embedding_length");
  const inner = fields.count("feed_forward_length", 4 * hidden);
  if (inner !== 4 * hidden) fields.refuse(`gpt2.feed_forward_length must be ${4 * hidden}`, inner);
  const names = new Map(fields.names(GPT2, "GPT-2"));
  const head = file.tensors.get("output.weight");
  // Older converters wrote the tied LM head a second time.
  if (head !== undefined && !sameValues(file, "output.weight", "token_embd.weight")) {
    fields.refuse(
      "output.weight must be a copy of token_embd.weight, as GPT-2's LM head is",
      "another tensor",
    );
  }
  names.delete("lm_head.weight");
  const config = gpt2Config({
    n_layer: fields.count("block_count"),
    n_head: fields.count("attention.head_count"),
    n_embd: hidden,
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    n_positions: fields.count("context_length"),
    layer_norm_epsilon: rounded(fields.get("attention.layer_norm_epsilon") ?? 1e-5),
  });
  return {
    config,
    names,
    change: (ours) => /\.(c_attn|c_proj|c_fc)\.weight$/.test(ours) ? TRANSPOSED : null,
  };
}

/** Says whether two tensors have the same shape and values. */
function sameValues(file: GgufFile, a: string, b: string): boolean {
  const [one, other] = [file.tensors.get(a), file.tensors.get(b)];
  if (one === undefined || other === undefined || one.shape.join() !== other.shape.join()) return false;
  const others = file.pieces(b);
  try {
    for (const piece of file.pieces(a)) {
      const { value } = others.next();
      if (value === undefined || piece.some((x, i) => x !== value[i])) return false;
    }
    return true;
  } finally {
    others.return();
  }
}

/** The shortest decimal of a float32: GGUF's 9.99999974e-6 is 1e-5. */
function rounded(value: unknown): number | undefined {
  return value === undefined ? undefined : Number(Number(value).toPrecision(7));
}
