/**
 * Parses a Jinja template.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import { tokenize } from "./lexer.ts";
import { ExpressionParser } from "./parser.ts";
import type { Expression, Parameters, Statement, Target } from "./syntax.ts";

/** Tags of jinja2 that are not done here. */
const UNSUPPORTED = ["block", "extends", "include", "import", "from", "print", "autoescape"];

class StatementParser extends ExpressionParser {
  #loops = 0;

  parse(): Statement[] {
    const body = this.#body([]);
    if (!this.is("end")) this.fail(`unexpected ${this.look().text || this.look().kind}`);
    return body;
  }

  /** Statements up to a tag with one of these names, which is the next token then. */
  #body(ends: readonly string[]): Statement[] {
    return this.nested(() => {
      const body: Statement[] = [];
      while (true) {
        if (this.is("data")) body.push({ type: "data", text: this.next().text });
        else if (this.skip("{{")) {
          body.push({ type: "output", value: this.tuple(() => this.expression()) });
          this.expect("}}");
        } else if (this.skip("{%")) {
          if (ends.includes(this.look().text) && this.is("name")) return body;
          const statement = this.#statement();
          if (statement !== null) body.push(statement);
          this.expect("%}");
        } else {
          if (ends.length > 0) this.fail(`unexpected end of template, ${ends.join(" or ")} is missing`);
          return body;
        }
      }
    });
  }

  /** Statements up to the tag that ends them, which is read. */
  #upTo(end: string): Statement[] {
    this.expect("%}");
    const body = this.#body([end]);
    this.next();
    return body;
  }

  #statement(): Statement | null {
    const { text: tag } = this.expect("name");
    switch (tag) {
      case "if":
        return this.#if();
      case "for":
        return this.#for();
      case "set":
        return this.#set();
      case "macro":
        return this.#macro();
      case "call":
        return this.#call();
      case "filter":
        return { type: "filterBlock", filter: this.#inlineFilter(), body: this.#upTo("endfilter") };
      case "with":
        return this.#with();
      case "generation":
        return { type: "generation", body: this.#upTo("endgeneration") };
      case "break":
      case "continue":
        if (this.#loops === 0) this.fail(`'${tag}' outside loop`);
        return { type: tag };
      default:
        if (UNSUPPORTED.includes(tag)) throw new UnsupportedError(`{% ${tag} %}`);
        throw new TemplateError(`line ${this.look().line}: Encountered unknown tag '${tag}'`);
    }
  }

  #if(): Statement {
    const branches: [Expression | null, Statement[]][] = [];
    let test: Expression | null = this.tuple(() => this.expression());
    this.conditions++;
    while (true) {
      this.expect("%}");
      branches.push([test, this.#body(test === null ? ["endif"] : ["elif", "else", "endif"])]);
      const { text } = this.next();
      if (text === "endif") break;
      test = text === "elif" ? this.tuple(() => this.expression()) : null;
    }
    this.conditions--;
    return { type: "if", branches };
  }

  #for(): Statement {
    const target = this.target(false);
    this.expect("name", "in");
    const iterable = this.#iterable();
    const test = this.skip("name", "if") ? this.expression() : null;
    const recursive = this.skip("name", "recursive");
    this.expect("%}");
    this.#loops++;
    const body = this.#body(["endfor", "else"]);
    this.#loops--;
    const otherwise = this.next().text === "else" ? this.#upTo("endfor") : [];
    return { type: "for", target, iterable, test, body, otherwise, recursive };
  }

  /** What a loop goes through: `if` is a condition of the loop there, and not of the expression. */
  #iterable(): Expression {
    return this.tuple(() => this.unconditional());
  }

  #set(): Statement {
    const target = this.target(true);
    if (this.skip("operator", "=")) {
      return { type: "set", target, value: this.tuple(() => this.expression()) };
    }
    const filter = this.skip("operator", "|") ? this.#chain(null) : null;
    return { type: "capture", target, filter, body: this.#upTo("endset") };
  }

  /** Filters one after the other; the bar of the first was read. */
  #chain(operand: Expression | null): Expression {
    let filter = this.filter(operand);
    while (this.skip("operator", "|")) filter = this.filter(filter);
    return filter;
  }

  #inlineFilter(): Expression {
    return this.#chain(null);
  }

  /** A body that is a function of its own, and which special names it reads. */
  #function(end: string): { readonly body: Statement[]; readonly reads: ReadonlySet<string> } {
    const outer = new Set(this.read);
    this.read.clear();
    const loops = this.#loops;
    this.#loops = 0;
    const body = this.#upTo(end);
    this.#loops = loops;
    const reads = new Set(["caller", "varargs", "kwargs"].filter((name) => this.read.has(name)));
    for (const name of outer) this.read.add(name);
    return { body, reads };
  }

  #macro(): Statement {
    const name = this.expect("name").text;
    const parameters = this.parameters();
    return { type: "macro", name, parameters, ...this.#function("endmacro") };
  }

  #call(): Statement {
    const parameters: Parameters = this.isOperator("(") ? this.parameters() : [];
    const call = this.expression();
    if (call.type !== "call") this.fail("expected call");
    return { type: "callBlock", parameters, call, ...this.#function("endcall") };
  }

  #with(): Statement {
    const values: [Target, Expression][] = [];
    while (!this.is("%}")) {
      if (values.length > 0) this.expect("operator", ",");
      const target = this.target(false);
      this.expect("operator", "=");
      values.push([target, this.expression()]);
    }
    return { type: "with", values, body: this.#upTo("endwith") };
  }
}

/**
 * Parses a template.
 *
 * @param source The template.
 * @throws {TemplateError} If it is not valid.
 * @throws {UnsupportedError} If it has a tag that is not done here.
 */
export function parse(source: string): readonly Statement[] {
  return new StatementParser(tokenize(source)).parse();
}
