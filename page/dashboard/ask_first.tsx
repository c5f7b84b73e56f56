/**
 * A button that asks before it does what cannot be taken back.
 *
 * @module
 */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

/** What is asked. */
export interface AskFirstProps {
  /** Text of the button. */
  readonly text: string;
  /** What the button does, for those who do not see where it stands. @default {its text} */
  readonly label?: string;
  /** What is asked; empty if the answers say it. */
  readonly question?: string;
  /** Text of the answer that does it, and of the one that does not. */
  readonly yes: string;
  readonly no: string;
  readonly isSmall?: boolean;
  onYes(): void;
}

/** The button, and in its place the question. Escape takes it back. */
export function AskFirst(
  { text, label = text, question, yes, no, isSmall, onYes }: AskFirstProps,
): JSX.Element {
  const [asks, setAsks] = useState(false);
  const place = useRef<HTMLSpanElement>(null);
  const wasAsked = useRef(false);
  const small = isSmall === true ? "small" : "";
  // Who works with the keyboard stays where the question is.
  useEffect(() => {
    if (asks || wasAsked.current) place.current?.querySelector("button")?.focus();
    wasAsked.current = asks;
  }, [asks]);
  return (
    <span
      class="ask"
      ref={place}
      {...(asks ? { role: "group", "aria-label": label } : {})}
      onKeyDown={({ key }) => key === "Escape" && setAsks(false)}
    >
      {asks
        ? (
          <>
            {question === undefined ? null : <span>{question}</span>}
            <button
              type="button"
              class={`danger ${small}`}
              aria-label={question === undefined ? `${label}: ${yes}` : undefined}
              onClick={() => {
                setAsks(false);
                onYes();
              }}
            >
              {yes}
            </button>
            <button type="button" class={small} onClick={() => setAsks(false)}>{no}</button>
          </>
        )
        : <button type="button" class={small} aria-label={label} onClick={() => setAsks(true)}>{text}
        </button>}
    </span>
  );
}
