/**
 * What is shown to a browser that is not signed in.
 *
 * @module
 */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { signIn } from "./state.ts";

/** Asks for the link that the terminal printed. */
export function SignIn({ why }: { readonly why: string }): JSX.Element {
  const [link, setLink] = useState("");
  const secret = /(?:^|#signin=)([\w-]{22})$/.exec(link.trim())?.[1];
  return (
    <main class="narrow">
      <header>
        <h1>Watch runs</h1>
        <p>
          <code>edgetuner serve</code> prints a link to this page. Open it: it signs this browser in, once.
        </p>
      </header>
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          if (secret !== undefined) void signIn(secret);
        }}
      >
        {why === "" ? null : <p class="bad" role="alert">{why}</p>}
        <label>
          Or paste the link here
          <input
            type="text"
            autocomplete="off"
            spellcheck={false}
            value={link}
            onInput={({ currentTarget }) => setLink(currentTarget.value)}
          />
        </label>
        <div class="buttons">
          <button type="submit" class="main" disabled={secret === undefined}>Sign in</button>
          <a href="#api">API</a>
        </div>
      </form>
    </main>
  );
}
