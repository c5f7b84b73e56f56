/**
 * Which settings of PEFT are a plain LoRA: known ones with known values. All others may change what A and B mean.
 *
 * @module
 */

/** Throws the error of a setting, with its rule and its value. */
export type Refuse = (rule: string, value: unknown) => never;

/** What a setting must be, and whether it is. */
interface Rule {
  readonly rule: string;
  readonly holds: (value: unknown) => boolean;
}

const isNothing = (value: unknown): boolean =>
  value === null || value === undefined || value === false ||
  (typeof value === "object" && Object.keys(value).length === 0);

/** Off: what it switches on is not done here. */
const OFF: Rule = { rule: "null, false or empty", holds: isNothing };
/** Of no effect on what an adapter computes once it is trained. */
const ANY: Rule = { rule: "anything", holds: () => true };

/** Only these begin with A and B beside weights of the base that stay as they are. */
const PLAIN_BEGINNINGS = [true, false, undefined, null, "gaussian", "orthogonal", "eva"];

function oneOf(...allowed: readonly unknown[]): Rule {
  return {
    rule: allowed.filter((value) => value !== undefined).map((value) => JSON.stringify(value)).join(" or "),
    holds: (value) => allowed.includes(value),
  };
}

const SETTINGS: Readonly<Record<string, Rule>> = {
  peft_type: oneOf("LORA"),
  task_type: oneOf("CAUSAL_LM", null, undefined),
  bias: oneOf("none", undefined),
  init_lora_weights: {
    rule:
      'true, false, "gaussian", "orthogonal" or "eva", as others change the base\'s weights too (PEFT can save such an ' +
      "adapter as a plain one: path_initial_model_for_weight_conversion)",
    holds: (value) =>
      PLAIN_BEGINNINGS.includes(typeof value === "string" ? value.toLowerCase() : value as boolean),
  },
  // Checked where they are read, or with the names of the weights.
  ...Object.fromEntries(
    [
      "r",
      "lora_alpha",
      "lora_dropout",
      "rank_pattern",
      "alpha_pattern",
      "target_modules",
      "exclude_modules",
      "layers_to_transform",
    ].map((name) => [name, ANY]),
  ),
  use_rslora: oneOf(true, false, null, undefined),
  // How a base stores its weights is known of its family.
  fan_in_fan_out: ANY,
  // Notes, and settings of what is off.
  ...Object.fromEntries(
    [
      "auto_mapping",
      "base_model_name_or_path",
      "ensure_weight_tying",
      "eva_config",
      "inference_mode",
      "layers_pattern",
      "megatron_core",
      "peft_version",
      "qalora_group_size",
      "revision",
      "runtime_config",
    ].map((name) => [name, ANY]),
  ),
};

/**
 * Refuses settings that make an adapter more than a plain LoRA, DoRA for example, and such that are not known here.
 *
 * @throws What `refuse` throws, for the first of them.
 */
export function requirePlainLora(config: Readonly<Record<string, unknown>>, refuse: Refuse): void {
  for (const [name, value] of Object.entries({ peft_type: undefined, ...config })) {
    const { rule, holds } = Object.hasOwn(SETTINGS, name) ? SETTINGS[name]! : OFF;
    if (!holds(value)) refuse(`${name} must be ${rule}`, value);
  }
}

/** Says whether a list names a module, by its end. */
function names(list: readonly unknown[], module: string): boolean {
  return list.some((end) => module === end || module.endsWith(`.${end}`));
}

/**
 * Refuses weights of modules that PEFT would not adapt by the settings, and so would leave out. Patterns are not
 * tried: one of a stranger could take for ever.
 *
 * @param weights Names of the weights.
 * @throws What `refuse` throws.
 */
export function requireChosenModules(
  config: Readonly<Record<string, unknown>>,
  weights: Iterable<string>,
  refuse: Refuse,
): void {
  const { target_modules: targets, exclude_modules: excluded, layers_to_transform: layers } = config;
  const numbers = typeof layers === "number" ? [layers] : Array.isArray(layers) ? layers : null;
  for (const name of weights) {
    const [, module] = /^base_model\.model\.(.+)\.lora_[AB]\.weight$/.exec(name) ?? [];
    if (module === undefined) continue; // refused by name where the family is known
    if (Array.isArray(targets) && !names(targets, module)) {
      refuse(`target_modules must have all modules with weights, ${module} among them`, targets);
    }
    if (Array.isArray(excluded) && names(excluded, module)) {
      refuse(`exclude_modules must have no module with weights, but has ${module}`, excluded);
    }
    const layer = Number(/\.(\d+)\./.exec(module)?.[1] ?? NaN);
    if (numbers !== null && numbers.length > 0 && !numbers.includes(layer)) {
      refuse(`layers_to_transform must have all layers with weights, ${layer} among them`, layers);
    }
  }
}
