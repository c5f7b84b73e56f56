/**
 * House rules that need a look at the syntax. `.ci/measures.ts` counts what breaks them.
 *
 * @module
 */

/** Most lines of a function, from its first to its last. */
const FUNCTION_LINES = 80;
/** Most parameters of a function. */
const PARAMETERS = 4;

type AnyFunction =
  | Deno.lint.FunctionDeclaration
  | Deno.lint.FunctionExpression
  | Deno.lint.ArrowFunctionExpression;

/** The parameter itself, without a default or the modifiers of a constructor. */
function plain(parameter: Deno.lint.Parameter | Deno.lint.TSParameterProperty): Deno.lint.Node {
  if (parameter.type === "TSParameterProperty") return plain(parameter.parameter as Deno.lint.Parameter);
  return parameter.type === "AssignmentPattern" ? parameter.left : parameter;
}

/** `boolean`, by annotation or by default value. */
function isBoolean(parameter: Deno.lint.Parameter | Deno.lint.TSParameterProperty): boolean {
  const name = plain(parameter);
  const annotated = name.type === "Identifier" &&
    name.typeAnnotation?.typeAnnotation.type === "TSBooleanKeyword";
  const initial = parameter.type === "AssignmentPattern" && parameter.right.type === "Literal" &&
    typeof parameter.right.value === "boolean";
  return annotated || initial;
}

/** Callbacks and the like take what their caller gives. */
function isNamed(node: AnyFunction): boolean {
  return node.type === "FunctionDeclaration" || node.parent.type === "MethodDefinition" ||
    node.parent.type === "VariableDeclarator";
}

/** An executor that resolves by a timer alone. */
function isSleep(executor: string): boolean {
  const [, name] = /^\(?(\w+)\)?\s*=>/.exec(executor) ?? [];
  return name !== undefined &&
    new RegExp(`=>\\s*\\{?\\s*(?:void )?setTimeout\\(\\s*(?:${name}\\b|\\(\\) => ${name}\\()`).test(executor);
}

/** An empty loop without an end, in the text of a program. */
const ENDLESS = /\b(?:for ?\(;;\)|while ?\((?:true|1)\)) ?;/;

function rule(check: (node: AnyFunction, report: (message: string) => void, text: string) => void) {
  return {
    create(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
      const visit = (node: AnyFunction) =>
        check(node, (message) => context.report({ node, message }), context.sourceCode.getText(node));
      return { FunctionDeclaration: visit, FunctionExpression: visit, ArrowFunctionExpression: visit };
    },
  };
}

const plugin: Deno.lint.Plugin = {
  name: "house",
  rules: {
    "function-lines": rule((_node, report, text) => {
      const lines = text.split("\n").length;
      if (lines > FUNCTION_LINES) report(`a function has at most ${FUNCTION_LINES} lines: this has ${lines}`);
    }),
    "parameters": rule((node, report) => {
      const { length } = node.params;
      if (length > PARAMETERS && isNamed(node)) {
        report(`a function has at most ${PARAMETERS} parameters: this has ${length}`);
      }
    }),
    // A fixed wait is too short on a busy machine and too long on others.
    "fixed-sleep": {
      create(context) {
        if (!context.filename.endsWith("_test.ts")) return {};
        return {
          NewExpression(node) {
            if (node.callee.type !== "Identifier" || node.callee.name !== "Promise") return;
            const [executor] = node.arguments;
            if (executor === undefined || !isSleep(context.sourceCode.getText(executor))) return;
            context.report({
              node,
              message:
                "a test waits for a condition, not for a time: use tests/support/until.ts, or say why not",
            });
          },
          CallExpression(node) {
            if (node.callee.type !== "Identifier" || !["delay", "sleep"].includes(node.callee.name)) return;
            context.report({ node, message: "a test waits for a condition, not for a time" });
          },
        };
      },
    },
    // Deno cannot end a worker in a loop: it takes a core from all tests after it.
    "endless-worker": {
      create(context) {
        if (!context.filename.endsWith("_test.ts")) return {};
        const visit = (node: Deno.lint.Literal | Deno.lint.TemplateElement) => {
          if (!ENDLESS.test(context.sourceCode.getText(node))) return;
          context.report({
            node,
            message: "a worker that is stuck sleeps, by Atomics.wait(), and computes nothing",
          });
        };
        return { Literal: visit, TemplateElement: visit };
      },
    },
    // Test files share a process: they run at the same time, in its folder and its environment.
    "process-wide": {
      create(context) {
        if (!context.filename.endsWith("_test.ts")) return {};
        return {
          CallExpression(node) {
            if (!/^Deno\.(chdir|env\.(set|delete))$/.test(context.sourceCode.getText(node.callee))) return;
            context.report({
              node,
              message:
                "a test changes neither the folder nor the environment of all tests that run beside it",
            });
          },
        };
      },
    },
    "boolean-parameter": rule((node, report) => {
      if (isNamed(node) && node.params.length > 1 && node.params.some(isBoolean)) {
        report("a boolean among other parameters is a named option");
      }
    }),
  },
};

export default plugin;
