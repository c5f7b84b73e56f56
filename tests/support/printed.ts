/** What a task prints on standard output, in lines. */
export async function printedBy(task: () => unknown): Promise<string> {
  const lines: string[] = [];
  const log = console.log;
  console.log = (line: string) => void lines.push(line);
  try {
    await task();
  } finally {
    console.log = log;
  }
  return lines.join("\n");
}
